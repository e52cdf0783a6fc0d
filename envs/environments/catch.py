"""Catch: a ball falls, a paddle catches it; the smallest game seen through pixels.

As in Osband et al. (2020), "Behaviour suite for reinforcement learning".
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from plasticity.envs.environments.tiny import Observation, TinyEnv

ROWS, COLUMNS = 10, 5


class CatchEnv(TinyEnv):
    """A board of 10 rows and 5 columns, shown as (1, 10, 5): 1 where the ball or the paddle is, else 0.

    The ball starts in the top row in a random column and falls one row a step; the paddle starts in the middle of the bottom
    row. Actions: 0 left, 1 stay, 2 right. After nine steps the ball is in the bottom row and the episode terminates, with
    reward 1 if the paddle is there and -1 if not; every other reward is 0.
    """

    def __init__(self) -> None:
        super().__init__(ROWS - 1)
        self.observation_space = spaces.Box(0.0, 1.0, (1, ROWS, COLUMNS), np.float32)
        self.action_space = spaces.Discrete(3)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves the paddle, then lets the ball fall."""
        self.elapsed += 1
        self.state["paddle"] = min(max(self.state["paddle"] + int(action) - 1, 0), COLUMNS - 1)
        landed = self.elapsed >= self.episode_steps
        reward = 0.0
        if landed:
            reward = 1.0 if self.state["paddle"] == self.state["ball"] else -1.0
        return self._observation(), reward, landed, False, {}

    def _begin(self) -> None:
        self.state = {"ball": int(self.np_random.integers(COLUMNS)), "paddle": COLUMNS // 2}

    def _observation(self) -> Observation:
        board = np.zeros((1, ROWS, COLUMNS), np.float32)
        board[0, self.elapsed, self.state["ball"]] = 1.0
        board[0, ROWS - 1, self.state["paddle"]] = 1.0
        return board


gymnasium.register("plasticity/Catch-v0", "plasticity.envs.environments.catch:CatchEnv")
