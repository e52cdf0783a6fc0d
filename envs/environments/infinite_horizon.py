"""An environment that shows whether an agent bootstraps where an episode is truncated."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from plasticity.envs.environments.tiny import Observation, TinyEnv, one_hot

STATES = 4


class InfiniteHorizonEnv(TinyEnv):
    """Reward 1 in every step for any action; the four states, shown one-hot, follow each other in a ring.

    Episodes are truncated after ``episode_steps`` and never terminate, so with discount γ every state is worth 1 / (1 - γ): 50
    for γ = 0.98. An agent that takes a truncation for an end finds less: (1 - γ^8) / (1 - γ) = 7.5 at the start of 8 steps.

    Args:
        episode_steps: Steps after which an episode is truncated.
        continuous: Whether the action is a number in [-1, 1] instead of one of two.
    """

    def __init__(self, episode_steps: int = 8, continuous: bool = False) -> None:
        super().__init__(episode_steps)
        self.observation_space = spaces.Box(0.0, 1.0, (STATES,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(2)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves to the next state of the ring."""
        self.elapsed += 1
        return self._observation(), 1.0, False, self.elapsed >= self.episode_steps, {}

    def _begin(self) -> None:
        """Nothing is drawn: the state is the number of steps."""

    def _observation(self) -> Observation:
        return one_hot(self.elapsed % STATES, STATES)


gymnasium.register("plasticity/InfiniteHorizon-v0", "plasticity.envs.environments.infinite_horizon:InfiniteHorizonEnv")
