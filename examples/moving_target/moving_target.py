"""An environment of one's own, in one file: a gymnasium environment with a schedule of tasks, which are announced.

Any ``gymnasium.Env`` with a Box to see and discrete or bounded actions will do; ``VectorSettings`` adds copies, normalisation,
evaluation and video. ``TaskSequence`` plays the tasks in turn, tells agent and interventions of each change, and evaluates in the
task that is being learned. Without a schedule, define ``environment`` in place of ``vector``: it makes one copy.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.environments.vector_settings import VectorSettings
from plasticity.envs.registry import stream
from plasticity.envs.simulation.generator_state import generator_state, restored_generator
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.fields import setting


@stream("moving_target")
@dataclass
class MovingTargetSettings(VectorSettings):
    """A walk on five places to a target that moves from task to task."""

    targets: list[int] = setting([0, 4, 2], "Place of the target in each task; after the last the first again.", low=0, high=4)
    steps_per_task: int = setting(5000, "Environment steps, over all copies, between moves.", low=1)
    announce_tasks: bool = setting(True, "Whether agent and interventions are told when the target moves.")

    def vector(self, seed: int) -> TaskSequence:
        """Makes one vector of copies for each task; all have the same spaces."""
        makers = [partial(SyncVector, [partial(MovingTarget, target)] * self.num_envs) for target in self.targets]
        return TaskSequence(makers, self.steps_per_task, seed, self.announce_tasks)


class MovingTarget(gymnasium.Env[Any, Any]):
    """Shows the place; actions: 0 left, 1 stay, 2 right; reward 1 on the target, which is not shown. Ten steps an episode."""

    def __init__(self, target: int) -> None:
        self.observation_space, self.action_space = spaces.Box(0.0, 1.0, (5,), np.float32), spaces.Discrete(3)
        self.target, self.place, self.elapsed = target, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; what an info says under ``stream/<name>`` is logged."""
        super().reset(seed=seed)
        self.place, self.elapsed = int(self.np_random.integers(5)), 0
        return self._seen(), {"stream/target": float(self.target)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Walks; an episode has no terminal state and is truncated."""
        self.place, self.elapsed = min(max(self.place + int(action) - 1, 0), 4), self.elapsed + 1
        return self._seen(), float(self.place == self.target), False, self.elapsed >= 10, {}

    def state_dict(self) -> dict[str, Any]:
        """Returns all that decides how the environment goes on: with it a resumed run equals one that was not stopped."""
        return {"generator": generator_state(self.np_random), "place": self.place, "elapsed": self.elapsed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken."""
        self.np_random = restored_generator(state["generator"])
        self.place, self.elapsed = state["place"], state["elapsed"]

    def _seen(self) -> Any:
        return np.eye(5, dtype=np.float32)[self.place]
