"""The settings of every vectorised environment, and how its stream is built: the base of a new one.

An environment of one's own is a dataclass with ``@stream("<name>")`` that derives from ``VectorSettings`` and whose
``environment`` makes one copy. For what its info may state about tasks, see ``EnvironmentStream``.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.problem import Problem, environment_problem
from plasticity.envs.registry import StreamSettings
from plasticity.envs.simulation.normalisation import NormaliseObservations, NormaliseRewards
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.envs.stream import Stream
from plasticity.settings.fields import setting


@dataclass
class VectorSettings(StreamSettings):
    """The settings that all kinds of vectorised environments have."""

    num_envs: int = setting(1, "Copies that are stepped together.", low=1)
    normalise_observations: bool = setting(
        False, "Whether observations are shifted and scaled by their running mean and standard deviation, and clipped to ±10."
    )
    normalise_rewards: bool = setting(
        False,
        "Whether rewards are divided by the running standard deviation of the discounted return, and clipped "
        "to ±10. Returns that are reported stay as they are.",
    )
    reward_discount: float = setting(0.99, "Discount of that return.", low=0, below=1)

    def environment(self, seed: int) -> gymnasium.Env[Any, Any]:
        """Makes one copy; the one method that an environment of one's own must define.

        Args:
            seed: The run's seed, for what is drawn once in a run, such as the order of tasks; episodes get seeds by ``reset``.

        Raises:
            ValueError: A setting makes no sense.
        """
        raise NotImplementedError(f"{type(self).__name__} must define environment")

    def vector(self, seed: int) -> VectorEnv[Any, Any, Any]:
        """Makes all copies."""
        return SyncVector([partial(self.environment, seed)] * self.num_envs)

    def label(self) -> str:
        """Returns the environment's name in messages."""
        return self.name

    def build(self, seed: int, device: torch.device) -> tuple[Stream, Problem]:
        """Builds the stream and returns it with the problem that it poses.

        Raises:
            ValueError: The environment cannot be made, or has spaces that no agent can use.
        """
        stream = EnvironmentStream(normalised(self.vector(seed), self), seed, self.label())
        return stream, environment_problem(stream)


def normalised(env: VectorEnv[Any, Any, Any], settings: VectorSettings) -> VectorEnv[Any, Any, Any]:
    """Wraps ``env`` as the settings ask."""
    if settings.normalise_observations:
        env = NormaliseObservations(env)
    if settings.normalise_rewards:
        env = NormaliseRewards(env, settings.reward_discount)
    return env
