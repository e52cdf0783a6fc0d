"""Streams of any environment that is registered with gymnasium."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium

from plasticity.envs.environments import catch, identity, infinite_horizon
from plasticity.envs.environments.vector_settings import VectorSettings
from plasticity.envs.registry import stream
from plasticity.envs.simulation.failure import described
from plasticity.envs.simulation.observation_form import LAYOUTS
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.fields import setting
from plasticity.settings.naming import unknown_name

TINY = (catch, identity, infinite_horizon)  # importing them registers their environments


@stream("gym")
@dataclass
class GymSettings(VectorSettings):
    """Any environment registered with gymnasium that shows a Box and takes discrete or bounded actions."""

    id: str = setting("CartPole-v1", "Registered name, such as ``CartPole-v1``, or ``module:name`` to import a module first.")
    kwargs: dict[str, Any] = setting({}, "Arguments for the environment, by name: ``env.kwargs.<name>=<value>``.")
    image_layout: str = setting(
        "auto",
        "``channels_first``, ``channels_last``, or ``auto`` to decide by the shape and print it. Networks read "
        "(channels, height, width), and images of the other layout are transposed.",
        choices=LAYOUTS,
    )

    def environment(self, seed: int) -> gymnasium.Env[Any, Any]:
        """Makes one copy; the seed does not matter.

        Raises:
            ValueError: The environment does not exist, or cannot be made.
        """
        return make_environment(self.id, self.kwargs)

    def vector(self, seed: int) -> SyncVector:
        """Makes all copies, and shows images in the requested layout."""
        return SyncVector([partial(self.environment, seed)] * self.num_envs, self.image_layout)

    def label(self) -> str:
        """Returns the registered name."""
        return self.id


def make_environment(name: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Makes one environment with its own time limit.

    Raises:
        ValueError: It is not registered, needs a package that is missing, does not take these arguments, or fails otherwise.
    """
    if ":" not in name and name not in gymnasium.registry:
        raise ValueError(unknown_name("id", name, gymnasium.registry))
    if "mujoco" in str(getattr(gymnasium.registry.get(name), "entry_point", "")):
        from plasticity.envs.simulation.mujoco_warnings import warn_in_python  # imported here: it loads the physics engine

        warn_in_python()
    try:
        return gymnasium.make(name, disable_env_checker=True, **kwargs)
    except (Exception, SystemExit) as error:  # third-party code may raise any error
        raise ValueError(f"id={name} cannot be made: {described(error)}") from error
