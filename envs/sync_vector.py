"""Several copies of a single environment, stepped one after the other, that can be saved."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array

from envs.environment_state import environment_state, keeps_all_state, restore_environment

_PASSED_ON: Final = ("final_obs", "task")
_STATS: Final = "stream/"


class SyncVector(SyncVectorEnv):
    """A ``gymnasium.vector.SyncVectorEnv`` as ``envs.environment_stream.EnvironmentStream`` wants it.

    It resets in the same step; double precision observations become single; continuous actions are clipped to their Box
    before they reach the environments. Of the environments' infos only ``task`` and what begins with ``stream/`` is passed on,
    since gathering the rest costs more than a step of a small environment.

    Args:
        makers: One function per copy that makes it.

    Attributes:
        exact_resume: Whether every copy can be saved in mid-episode.

    Raises:
        ValueError: No copy is asked for.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        if not makers:
            raise ValueError("num_envs must be at least 1, got 0")
        super().__init__(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        space = self.single_observation_space
        if isinstance(space, spaces.Box) and space.dtype == np.float64:
            self.single_observation_space = _single_precision(space)
            self.observation_space = batch_space(self.single_observation_space, self.num_envs)
            self._observations = create_empty_array(self.single_observation_space, n=self.num_envs, fn=np.zeros)
        actions = self.single_action_space
        self._bounds = (actions.low, actions.high) if isinstance(actions, spaces.Box) else None
        self.exact_resume = all(keeps_all_state(env) for env in self.envs)

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Steps every copy with its action, clipped if it is continuous."""
        return super().step(actions if self._bounds is None else np.clip(actions, *self._bounds))

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of every copy; nothing of them unless all can be saved in mid-episode."""
        return {"environments": [environment_state(env) for env in self.envs] if self.exact_resume else []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken.

        Raises:
            ValueError: The state is of another number of copies or of other environments.
        """
        expected = self.num_envs if self.exact_resume else 0
        if len(state["environments"]) != expected:
            raise ValueError(f"saved state has {len(state['environments'])} environments, this one has {expected} to restore")
        for env, saved in zip(self.envs, state["environments"], strict=False):
            restore_environment(env, saved)

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        kept = {key: value for key, value in env_info.items() if key in _PASSED_ON or key.startswith(_STATS)}
        return super()._add_info(vector_infos, kept, env_num) if kept else vector_infos


def _single_precision(space: spaces.Box) -> spaces.Box:
    largest = np.finfo(np.float32).max
    low, high = (
        np.where(np.isfinite(bound), np.clip(bound, -largest, largest), bound).astype(np.float32)
        for bound in (space.low, space.high)
    )
    return spaces.Box(low, high, space.shape, np.float32)
