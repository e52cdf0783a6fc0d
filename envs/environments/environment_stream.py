"""The stream of a vectorised environment; episode ends are handled here, once, for every agent."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.envs.simulation.actions import nearest_actions
from plasticity.envs.simulation.announcement import ANNOUNCES, TASK
from plasticity.envs.simulation.failure import EnvironmentFailure, check_finite, check_rewards, described, one_line
from plasticity.envs.simulation.keeps_state import KeepsState, resumes_exactly
from plasticity.envs.simulation.observation_form import KEPT_DTYPES
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.seeding import derive_seed

SEED_RANGE = 2**30  # some environments take 32-bit seeds, and vector environments add the row number


class EnvironmentStream:
    """Steps a gymnasium vector environment; implements ``plasticity.envs.stream.Stream``.

    The environment must reset in the same step (``AutoresetMode.SAME_STEP``): then every transition is one that really
    happened, with its true final observation, and a terminal-to-reset pair never appears. Terminated and truncated stay
    apart, so that a truncated episode is bootstrapped. Actions are kept as the agent chose them, and reach the environment as
    the nearest ones of its Box. What an environment gives is checked: numbers that are not finite, or of another shape or dtype
    than its space states, end the run, and so does an error that it raises.

    What an environment may put into its info, besides ``final_obs``:

    - ``plasticity/task``: the task in force from the observations that come with it; it stays until another is announced, and is
      0 at first. Only environments that announce tasks are asked.
    - ``raw_reward``, (N,): the rewards before clipping or scaling; returns are sums of these.
    - ``episode_over``, (N,) bool: which episodes are over, where a lost life also counts as terminated.
    - ``stream/<name>``: a number to log; over several environments, the mean of those that give it in a step.

    When episodes end in a step, ``stats`` holds their ``rollout/return`` (sum of rewards) and ``rollout/length`` (steps), one
    entry for each episode.

    Args:
        env: the environments, N of them, with a Box observation space and Discrete or Box actions.
        seed: the run's seed; the environment is reset with a seed derived from it.
        name: of the environment, for messages.

    Attributes:
        name: of the environment.
        announces_tasks: whether it announces tasks, according to its metadata, see ``plasticity.envs.simulation.announcement``.
        notes: what the user should know about how observations are shown.
        step: environment steps so far, over all N environments.
        task: the task of the latest transitions.
        input_shape: shape of one observation.
        input_dtype: dtype of the observation space.
        num_envs: N.
        observation_space: of one environment.
        action_space: of one environment.

    Raises:
        ValueError: another autoreset mode or an unsupported space.
        EnvironmentFailure: the first reset fails.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int, name: str = "") -> None:
        _check_environment(env)
        base = innermost(env)
        self.env, self.name = env, f"environment {name or type(base).__name__}"
        self.announces_tasks = bool(env.metadata.get(ANNOUNCES, False))
        self.notes: tuple[str, ...] = base.notes if isinstance(base, SyncVector) else ()
        self._checks = not isinstance(base, SyncVector)  # which checks each of its copies itself
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.input_shape: tuple[int, ...] = tuple(self.observation_space.shape or ())
        self.input_dtype = torch.from_numpy(np.empty(0, self.observation_space.dtype)).dtype
        self.step = 0
        self.task = 0
        self._coming_task = 0
        self._seed = seed
        self._observations: Tensor
        self._noted: dict[str, float]  # given at a reset, to be reported with the next step
        self._returns: npt.NDArray[np.float64]
        self._lengths: npt.NDArray[np.int64]
        self._start(derive_seed(seed, "environment"))

    @property
    def exact_resume(self) -> bool:
        """Whether a resumed run continues bit for bit, which needs an environment that saves all of its state."""
        return resumes_exactly(self.env)

    def advance(self, act: Callable[[Tensor], Tensor]) -> Experience:
        """Takes one step in every environment.

        Args:
            act: maps observations (N, *input_shape) to actions, (N,) int64 or (N, A) float.

        Raises:
            EnvironmentFailure: the environment raised an error, or gave what no agent may learn from.
        """
        observations = self._observations
        actions = act(observations).detach().cpu()
        sent = self._to_environment(actions)
        try:
            following, rewards, terminated, truncated, info = self.env.step(sent)
            coming = self._checked(following, rewards)
            done = np.logical_or(terminated, truncated)
            next_observations = coming
            if np.count_nonzero(done):  # a fifth of the time of ``any``, which NumPy passes through Python
                next_observations = _with_final_observations(coming, done, info)
        except (Exception, SystemExit) as error:
            raise self._failure(error, self.num_envs) from error
        self._observations = coming
        self.step += self.num_envs
        self.task, self._coming_task = self._coming_task, self._announced_task(info)
        batch = Transitions(
            observations,
            actions,
            torch.from_numpy(np.array(rewards, np.float32)),
            torch.from_numpy(np.array(terminated, np.bool_)),
            torch.from_numpy(np.array(truncated, np.bool_)),
            next_observations,
        )
        raw_rewards = np.asarray(info.get("raw_reward", rewards), np.float64)
        stats = self._count(raw_rewards, np.asarray(info.get("episode_over", done), np.bool_))
        noted, self._noted = self._noted, {}
        return Experience(batch, self.task, {**noted, **stats, **_notes(info)})

    def peek(self, count: int) -> Examples:
        """Refuses: there are no examples here.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"metrics.at=[task_start] needs examples of a task before it is played, and {self.name} has none; "
            "metrics.after_switch=[1] measures after the first step"
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns counters, current observations, unfinished episodes and, if it keeps one, the environment's state."""
        return {
            "step": self.step,
            "task": self.task,
            "coming_task": self._coming_task,
            "noted": dict(self._noted),
            "observations": self._observations.clone(),
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "environment": self.env.state_dict() if isinstance(self.env, KeepsState) else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state.

        An environment that cannot restore all of its state restores what it saved and is reset with a seed that depends on the
        step; its unfinished episodes are dropped: the run continues, but not bit for bit (see ``exact_resume``).

        Raises:
            ValueError: the state is of other observations, or of an environment that kept its state where this does not.
        """
        saved, current = tuple(state["observations"].shape), tuple(self._observations.shape)
        if saved != current:
            raise ValueError(f"saved observations have shape {saved}, this environment's have {current}")
        if (state["environment"] is not None) != isinstance(self.env, KeepsState):
            raise ValueError(f"the saved environment state does not fit {type(self.env).__name__}")
        self.step = state["step"]
        self.task = state["task"]
        self._coming_task = state["coming_task"]
        if isinstance(self.env, KeepsState):
            self.env.load_state_dict(state["environment"])
        if not self.exact_resume:
            self._start(derive_seed(self._seed, "restart", self.step))
            return
        self._noted = dict(state["noted"])
        self._observations = state["observations"].clone()
        self._returns = state["returns"].numpy().copy()
        self._lengths = state["lengths"].numpy().copy()

    def restart(self, seed: int) -> None:
        """Drops the unfinished episodes and starts new ones, which depend on ``seed`` alone; the step count continues."""
        self._start(derive_seed(seed, "restart"))

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def _start(self, seed: int) -> None:
        try:
            observations, info = self.env.reset(seed=seed % SEED_RANGE)
            self._observations = self._checked(observations)
        except (Exception, SystemExit) as error:
            raise self._failure(error, 0) from error
        self._coming_task = self._announced_task(info)
        self._noted = _notes(info)
        self._returns = np.zeros(self.num_envs, np.float64)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def _to_environment(self, actions: Tensor) -> npt.NDArray[Any]:
        expected = (self.num_envs, *(self.action_space.shape or ()))
        if actions.shape != expected:
            raise ValueError(f"actions must have shape {expected}, got {tuple(actions.shape)}")
        if isinstance(self.action_space, spaces.Box):
            return nearest_actions(self.action_space, actions.numpy())
        return actions.numpy().astype(self.action_space.dtype, copy=False)

    def _checked(self, observations: Any, rewards: Any = None) -> Tensor:
        """Returns a copy of observations, because an environment may write into its buffer again."""
        if self._checks:
            expected = ((self.num_envs, *self.input_shape), self.observation_space.dtype)
            given = (np.shape(observations), getattr(observations, "dtype", None))
            if given != expected:
                raise EnvironmentFailure(f"the observations are {_kind(*given)}; their space states {_kind(*expected)}")
            check_finite(observations)
            if rewards is not None:
                check_rewards(np.asarray(rewards), self.num_envs)
        return torch.from_numpy(np.array(observations))

    def _failure(self, error: BaseException, steps: int) -> EnvironmentFailure:
        """Returns what to raise for an error in the ``steps`` that are being made, 0 for a reset."""
        what, copy = f"it raised {described(error)}", None
        if isinstance(error, EnvironmentFailure):
            what, copy = str(error), error.copy
        which = f", copy {copy + 1} of {self.num_envs}" if copy is not None and self.num_envs > 1 else ""
        if not steps:
            return EnvironmentFailure(f"{self.name}{which}, reset at step {self.step}: {what}", copy)
        length = int(self._lengths[copy or 0]) + 1
        return EnvironmentFailure(f"{self.name}{which}, step {self.step + steps} ({length} of its episode): {what}", copy)

    def _announced_task(self, info: Mapping[str, Any]) -> int:
        """Returns the task from the coming observations on."""
        if not self.announces_tasks or TASK not in info:
            return self._coming_task
        announced = _info_values(info, TASK)
        return int(announced.max()) if announced.size else self._coming_task

    def _count(self, rewards: npt.NDArray[np.float64], over: npt.NDArray[np.bool_]) -> dict[str, Any]:
        self._returns += rewards
        self._lengths += 1
        if not np.count_nonzero(over):
            return {}
        stats = {
            "rollout/return": torch.from_numpy(self._returns[over]),
            "rollout/length": torch.from_numpy(self._lengths[over].astype(np.float64)),
        }
        self._returns[over] = 0.0
        self._lengths[over] = 0
        return stats


def innermost(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Returns the vector environment under all wrappers; for a sequence, that of the current task."""
    while isinstance(env, VectorWrapper | TaskSequence):
        env = env.env
    return env


def _kind(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{dtype} of shape {shape}"


def _check_environment(env: VectorEnv[Any, Any, Any]) -> None:
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(f"environment must use AutoresetMode.SAME_STEP, {type(env).__name__} uses {mode}")
    if not isinstance(env.single_observation_space, spaces.Box):
        raise ValueError(f"observation space must be a Box, got {one_line(env.single_observation_space)}")
    if env.single_observation_space.dtype not in (*KEPT_DTYPES, np.float64):
        allowed = ", ".join(map(str, KEPT_DTYPES))
        raise ValueError(f"observations must be of dtype {allowed}, got {env.single_observation_space.dtype}")
    actions = env.single_action_space
    if not isinstance(actions, spaces.Box | spaces.Discrete):
        raise ValueError(f"action space must be Discrete or Box, got {one_line(actions)}")
    if isinstance(actions, spaces.Discrete) and actions.start != 0:
        raise ValueError(f"discrete actions must start at 0, got {actions}")


def _with_final_observations(observations: Tensor, done: npt.NDArray[np.bool_], info: Mapping[str, Any]) -> Tensor:
    """Returns ``observations`` with the rows of finished episodes replaced by ``info["final_obs"]``.

    ``final_obs`` is one array (N, ...), or an array of N objects that are an observation or None.
    """
    if "final_obs" not in info:
        raise EnvironmentFailure('an episode ended and the environment gave no info["final_obs"]')
    final = np.asarray(info["final_obs"])[done]
    rows = np.stack(list(final)) if final.dtype == object else final
    if rows.shape[1:] != tuple(observations.shape[1:]):
        shape = tuple(observations.shape[1:])
        raise EnvironmentFailure(f"a final observation has shape {rows.shape[1:]}; the observation space has {shape}")
    check_finite(rows, np.flatnonzero(done))
    replaced = observations.clone()
    replaced[torch.from_numpy(done)] = torch.from_numpy(rows.astype(observations.numpy().dtype, copy=False))
    return replaced


def _notes(info: Mapping[str, Any]) -> dict[str, float]:
    """Returns the mean of each ``stream/<name>`` over the environments that gave it."""
    return {key: float(np.mean(_info_values(info, key))) for key in info if key.startswith("stream/")}


def _info_values(info: Mapping[str, Any], key: str) -> npt.NDArray[Any]:
    values = np.asarray(info[key])
    return values[info[f"_{key}"]] if values.ndim and f"_{key}" in info else values
