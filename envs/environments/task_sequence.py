"""Vector environments one after the other, as one environment whose task changes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from plasticity.envs.simulation.announcement import ANNOUNCES, TASK
from plasticity.envs.simulation.keeps_state import KeepsState, resumes_exactly
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.seeding import derive_seed

_SEED_RANGE = 2**30  # emulators take 32-bit seeds, and vector environments add the row number


class TaskSequence(VectorEnv[Any, Any, Any]):
    """Task k is the k-th environment, and the first again after the last; it lasts ``steps_per_task`` environment steps.

    At a change the unfinished episodes are truncated, with their true final observations, and the step shows the first
    observations of the next task. Every reset of all copies gives ``stream/task``, the number k, in its info; and
    ``plasticity/task``, if changes are announced. Only the environment of the current task exists.

    Args:
        makers: One function per task that makes a vector environment; all with the same number of copies and the same spaces.
        steps_per_task: Environment steps, over all copies.
        seed: The run's seed; each task is reset with a seed of its own derived from it.
        announce_tasks: Whether changes are announced to the agent.

    Attributes:
        number: k, from 0 on.
        played: The k of the latest step; that before ``number`` when a step was the last of its task.
        env: The environment of the current task.

    Raises:
        ValueError: No task, a period below 1, or an environment that does not reset in the same step.
    """

    def __init__(
        self, makers: Sequence[Callable[[], VectorEnv[Any, Any, Any]]], steps_per_task: int, seed: int, announce_tasks: bool
    ) -> None:
        if not makers or steps_per_task < 1:
            raise ValueError(f"a sequence needs tasks and steps_per_task of at least 1, got {len(makers)} and {steps_per_task}")
        self._makers, self._steps_per_task = makers, steps_per_task
        self._seed, self._announce_tasks = seed, announce_tasks
        self._steps = 0
        self._held = False
        self._limit: int | None = None
        self.number = self.played = 0
        self.env = makers[0]()
        if self.env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError(f"{type(self.env).__name__} must reset in the same step")
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, ANNOUNCES: announce_tasks}
        self.num_envs = self.env.num_envs
        self.single_observation_space, self.observation_space = self.env.single_observation_space, self.env.observation_space
        self.single_action_space, self.action_space = self.env.single_action_space, self.env.action_space

    @property
    def exact_resume(self) -> bool:
        """Whether the current environment can be saved in mid-episode."""
        return resumes_exactly(self.env)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts the episodes of the current task again."""
        observations, info = self.env.reset(seed=seed, options=options)
        return observations, {**info, **self._task_info()}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps the current task, and moves to the next if this was its last step."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        self.played = self.number
        self._steps += self.num_envs
        if self._held or self._steps < (self.number + 1) * self._steps_per_task:
            return observations, rewards, terminated, truncated, info
        rewards, terminated, truncated = np.array(rewards), np.array(terminated), np.array(truncated)  # not the old one's memory
        done = np.logical_or(terminated, truncated)
        final = np.array(observations)
        if done.any():
            final[done] = np.stack(list(np.asarray(info["final_obs"])[done]))
        self._begin(self._steps // self._steps_per_task)
        observations, fresh = self.reset(seed=derive_seed(self._seed, "task", self.number) % _SEED_RANGE)
        kept = {"raw_reward": info["raw_reward"]} if "raw_reward" in info else {}
        everywhere = np.ones(self.num_envs, np.bool_)
        info = {**kept, **fresh, "final_obs": final, "_final_obs": everywhere, "episode_over": everywhere}
        return observations, rewards, terminated, np.logical_or(truncated, ~done), info

    def hold(self, number: int) -> None:
        """Goes to task ``number`` and stays there, as evaluation needs; reset before the next step."""
        self._held = True
        if number != self.number:
            self._begin(number)

    def limit_episodes(self, steps: int) -> None:
        """Truncates episodes after so many steps, in environments that support this; for evaluation."""
        self._limit = steps
        self._pass_limit_on()

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the sequence and the state of the current environment, as far as it keeps one."""
        inner = self.env.state_dict() if isinstance(self.env, KeepsState) else None
        return {"steps": self._steps, "number": self.number, "played": self.played, "environment": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state, in the task of that moment."""
        self._steps = state["steps"]
        self._begin(state["number"])
        self.played = state.get("played", self.number)
        self.env.reset(seed=0)
        if isinstance(self.env, KeepsState):
            self.env.load_state_dict(state["environment"])

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environment of the current task."""
        self.env.close(**kwargs)

    def _task_info(self) -> dict[str, Any]:
        return {"stream/task": float(self.number), **({TASK: self.number} if self._announce_tasks else {})}

    def _begin(self, number: int) -> None:
        """Makes the environment of task ``number`` the current one."""
        self.env.close()
        self.number = number
        self.env = self._makers[number % len(self._makers)]()
        self._pass_limit_on()
        spaces = (self.env.observation_space, self.env.action_space)
        if spaces != (self.observation_space, self.action_space):
            raise ValueError(f"task {number} has other spaces than the first: {spaces}")

    def _pass_limit_on(self) -> None:
        if self._limit is not None and isinstance(self.env, SyncVector):
            self.env.limit_episodes(self._limit)
