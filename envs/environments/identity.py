"""Environments in which the right action is the observation: the smallest test of whether an agent learns at all."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from plasticity.envs.environments.tiny import Observation, TinyEnv, one_hot

STATES = 4


class DiscreteIdentityEnv(TinyEnv):
    """Four states, shown one-hot and drawn again in each step; reward 1 if the action is the state's number, else 0.

    Episodes are truncated after ``episode_steps``, so the best return is that many.
    """

    def __init__(self, episode_steps: int = 100) -> None:
        super().__init__(episode_steps)
        self.observation_space = spaces.Box(0.0, 1.0, (STATES,), np.float32)
        self.action_space = spaces.Discrete(STATES)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Scores the action and draws the next state."""
        reward = float(action == self.state["number"])
        self.elapsed += 1
        self._begin()
        return self._observation(), reward, False, self.elapsed >= self.episode_steps, {}

    def _begin(self) -> None:
        self.state["number"] = int(self.np_random.integers(STATES))

    def _observation(self) -> Observation:
        return one_hot(self.state["number"], STATES)


class ContinuousIdentityEnv(TinyEnv):
    """A number in [-1, 1], drawn again in each step; reward 1 if the action is within ``tolerance`` of it, else 0.

    Episodes are truncated after ``episode_steps``, so the best return is that many.
    """

    def __init__(self, episode_steps: int = 100, tolerance: float = 0.5) -> None:
        super().__init__(episode_steps)
        if tolerance <= 0:
            raise ValueError(f"tolerance must be positive, got {tolerance!r}")
        self.tolerance = tolerance
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Scores the action, of shape (1,), and draws the next number."""
        reward = float(abs(float(action[0]) - self.state["number"]) <= self.tolerance)
        self.elapsed += 1
        self._begin()
        return self._observation(), reward, False, self.elapsed >= self.episode_steps, {}

    def _begin(self) -> None:
        self.state["number"] = float(np.float32(self.np_random.uniform(-1.0, 1.0)))  # as exactly as it is shown

    def _observation(self) -> Observation:
        return np.array([self.state["number"]], np.float32)


gymnasium.register("plasticity/DiscreteIdentity-v0", "plasticity.envs.environments.identity:DiscreteIdentityEnv")
gymnasium.register("plasticity/ContinuousIdentity-v0", "plasticity.envs.environments.identity:ContinuousIdentityEnv")
