"""Several copies of a single environment, stepped one after the other, that can be saved."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from plasticity.envs.simulation.announcement import TASK
from plasticity.envs.simulation.environment_state import environment_state, episode_limit, keeps_all_state, restore_environment
from plasticity.envs.simulation.failure import EnvironmentFailure, check_finite, described, finite_reward, one_line
from plasticity.envs.simulation.observation_form import ObservationForm

_STATS: Final = "stream/"

Array = npt.NDArray[Any]


class SyncVector(SyncVectorEnv):
    """A ``gymnasium.vector.SyncVectorEnv`` as ``plasticity.envs.environments.environment_stream.EnvironmentStream`` needs it.

    It resets in the same step. Observations are shown as ``plasticity.envs.simulation.observation_form.ObservationForm`` defines,
    and copied as soon as an environment gives them: one that writes into the same array again, in its reset or in another copy,
    changes nothing. What an environment gives is checked. Of the environments' infos only a task that a wrapper of this project
    announces and numbers that begin with ``stream/`` are passed on, because gathering the rest costs more than a step of a small
    environment.

    Args:
        makers: One function per copy that makes it.
        image_layout: How the axes of images are ordered, see ``ObservationForm``.

    Attributes:
        exact_resume: Whether every copy can be saved in mid-episode.
        notes: What the user should know about the observations.

    Raises:
        ValueError: No copy is requested, or the spaces cannot be used.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]], image_layout: str = "auto") -> None:
        if not makers:
            raise ValueError("num_envs must be at least 1, got 0")
        envs = [make() for make in makers]
        self._form = ObservationForm(envs[0].observation_space, image_layout)
        if any((env.observation_space, env.action_space) != (envs[0].observation_space, envs[0].action_space) for env in envs):
            raise ValueError(f"all copies must have the same spaces, got {one_line([env.observation_space for env in envs])}")
        super().__init__([partial(_unchanged, env) for env in envs], autoreset_mode=AutoresetMode.SAME_STEP)
        self.notes = (self._form.note,) if self._form.note else ()
        self.single_observation_space = self._form.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._shown = np.zeros(self.observation_space.shape or (), self.single_observation_space.dtype)
        self._limit: int | None = None
        self._elapsed = [0] * self.num_envs
        self.exact_resume = all(keeps_all_state(env) for env in self.envs)

    @property
    def episode_limit(self) -> int | None:
        """Most steps that an episode can have by the environments themselves, as far as that is known."""
        limits = [episode_limit(env) for env in self.envs]
        return max((limit for limit in limits if limit is not None), default=None) if all(limits) else None

    def limit_episodes(self, steps: int) -> None:
        """Truncates episodes from now on after so many steps; for evaluation, as the count is not saved."""
        self._limit = steps

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begins an episode in every copy; the copies' seeds follow ``seed``, a number or one for each.

        Raises:
            EnvironmentFailure: A copy raises an error, or its observation is not as its space states, or not finite.
        """
        seeds = seed if isinstance(seed, Sequence) else [None if seed is None else seed + row for row in range(self.num_envs)]
        infos: dict[str, Any] = {}
        for row, own in enumerate(seeds):
            infos = self._add_info(infos, self._begin(row, own, options), row)
        check_finite(self._shown)
        return self._shown.copy(), infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Steps every copy with its action.

        Raises:
            EnvironmentFailure: A copy raises an error, gives an observation that is not as its space states, or anything that is
                not finite; what the others did in this step is lost.
        """
        infos: dict[str, Any] = {}
        final: Array | None = None
        over = np.zeros(self.num_envs, np.bool_)
        for row in range(self.num_envs):
            info = self._step_one(row, actions[row])
            if self._terminations[row] or self._truncations[row]:
                over[row] = True
                final = np.zeros_like(self._shown) if final is None else final
                final[row] = self._shown[row]
                info = self._begin(row)
            if info:
                infos = self._add_info(infos, info, row)
        check_finite(self._shown)
        if final is not None:
            check_finite(final)
            infos |= {"final_obs": final, "_final_obs": over}
        return self._shown.copy(), self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), infos

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of every copy; nothing of them unless all can be saved in mid-episode."""
        return {"environments": [environment_state(env) for env in self.envs] if self.exact_resume else []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where ``state_dict`` was taken.

        Raises:
            ValueError: The state is of another number of copies or of other environments.
        """
        expected = self.num_envs if self.exact_resume else 0
        if len(state["environments"]) != expected:
            raise ValueError(f"saved state has {len(state['environments'])} environments, this one has {expected} to restore")
        for env, saved in zip(self.envs, state["environments"], strict=False):
            restore_environment(env, saved)

    def _step_one(self, row: int, action: Any) -> dict[str, Any]:
        try:
            observation, reward, terminated, truncated, info = self.envs[row].step(action)
            self._form.put(self._shown[row], observation)
            self._rewards[row] = reward if type(reward) is float and abs(reward) < 1e30 else finite_reward(reward)
            self._elapsed[row] += 1
            late = self._limit is not None and self._elapsed[row] >= self._limit
            self._terminations[row], self._truncations[row] = bool(terminated), bool(truncated) or late
            return _passed_on(info) if info else {}
        except (Exception, SystemExit) as error:  # a simulator may give up with sys.exit
            raise _failure(error, row) from error

    def _begin(self, row: int, seed: int | None = None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            observation, info = self.envs[row].reset(seed=seed, options=options)
            self._form.put(self._shown[row], observation)
            self._elapsed[row] = 0
            return _passed_on(info) if info else {}
        except (Exception, SystemExit) as error:  # a simulator may give up with sys.exit
            raise _failure(error, row) from error


def _unchanged(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    return env


def _passed_on(info: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in info.items()
        if isinstance(key, str) and (key == TASK or (key.startswith(_STATS) and isinstance(value, int | float | np.number)))
    }


def _failure(error: BaseException, row: int) -> EnvironmentFailure:
    """Returns what to raise, for this copy; an error of the environment's own is described."""
    own = type(error) is EnvironmentFailure
    return EnvironmentFailure(str(error) if own else f"it raised {described(error)}", row)
