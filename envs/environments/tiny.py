"""What the tiny test environments have in common."""

from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from plasticity.envs.simulation.generator_state import generator_state, restored_generator

Observation = npt.NDArray[np.float32]


class TinyEnv(gymnasium.Env[Observation, Any]):
    """An environment whose state is a generator and a few whole numbers or floats, so that it can be saved.

    A subclass fills ``state`` in ``_begin`` and changes it in ``step``; its observation is a function of the state.

    Args:
        episode_steps: Steps after which an episode ends.

    Attributes:
        state: What decides the observation, by name.
        elapsed: Steps since the last reset.

    Raises:
        ValueError: ``episode_steps`` is below 1.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, episode_steps: int) -> None:
        if episode_steps < 1:
            raise ValueError(f"episode_steps must be at least 1, got {episode_steps!r}")
        self.episode_steps = episode_steps
        self.state: dict[str, Any] = {}
        self.elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        self.elapsed = 0
        self._begin()
        return self._observation(), {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the generator and the place in the episode."""
        return {"generator": generator_state(self.np_random), "elapsed": self.elapsed, "values": dict(self.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where ``state_dict`` was taken."""
        self.np_random = restored_generator(state["generator"])
        self.elapsed = state["elapsed"]
        self.state = dict(state["values"])

    @abstractmethod
    def _begin(self) -> None:
        """Sets the state of a new episode."""

    @abstractmethod
    def _observation(self) -> Observation:
        """Returns what the state looks like."""


def one_hot(index: int, length: int) -> Observation:
    """Returns zeros, and a one at ``index``."""
    row: Observation = np.eye(length, dtype=np.float32)[index]
    return row
