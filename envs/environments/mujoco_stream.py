"""Streams of MuJoCo environments, with physics that may change."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import gymnasium

from plasticity.envs.environments.gym_stream import make_environment
from plasticity.envs.environments.vector_settings import VectorSettings
from plasticity.envs.registry import stream
from plasticity.envs.simulation.physics_shift import SHIFTS, PhysicsShift, drawn_factors
from plasticity.envs.simulation.shift import listed_values
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.fields import setting

NO_SHIFT: Final = "none"


@dataclass
class ShiftSettings(VectorSettings):
    """What changes in the physics, and when."""

    shift: str = setting(
        NO_SHIFT,
        "``friction`` (of floor and body), ``gravity``, ``actuator`` (strength) or ``none``.",
        choices=(NO_SHIFT, *SHIFTS),
    )
    change_every_steps: int = setting(
        2_000_000, "Environment steps, over all copies, after which the next episode brings a change.", low=1
    )
    drift_steps: int = setting(
        0,
        "Environment steps, over all copies, that a change takes, in which the factor moves to its new value at a constant "
        "ratio; 0 for sudden changes.",
        low=0,
    )
    shift_range: list[float] = setting(
        [0.02, 2.0], "Smallest and largest factor; each is drawn log-uniformly from a generator of (seed, number of the change)."
    )
    shift_values: list[float] = setting([], "Factors to use instead, one after the other and again from the first.", low=0)
    announce_tasks: bool = setting(True, "Whether agent and interventions are informed of a change.")


@stream("mujoco")
@dataclass
class MujocoSettings(ShiftSettings):
    """A MuJoCo environment of gymnasium."""

    id: str = setting("Ant-v5", "Registered name; ``Ant-v5`` shows 105 numbers, contact forces included.")
    kwargs: dict[str, Any] = setting({}, "Arguments for the environment, by name: ``env.kwargs.<name>=<value>``.")

    def environment(self, seed: int) -> gymnasium.Env[Any, Any]:
        """Makes one copy, as yet without a shift; the seed does not matter.

        Raises:
            ValueError: The environment does not exist, or cannot be made.
        """
        return make_environment(self.id, self.kwargs)

    def vector(self, seed: int) -> SyncVector:
        """Makes all copies under the shift."""
        return SyncVector([shifted(partial(self.environment, seed), self, seed)] * self.num_envs)

    def label(self) -> str:
        """Returns the registered name."""
        return self.id


def shifted(
    make: Callable[[], gymnasium.Env[Any, Any]], settings: ShiftSettings, seed: int
) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Returns a function that makes the environment under the shift of the settings.

    Raises:
        ValueError: The factors make no sense.
    """
    if settings.shift == NO_SHIFT:
        if settings.drift_steps:
            raise ValueError(f"drift_steps={settings.drift_steps} needs a shift, and shift={NO_SHIFT}")
        return make
    factor = _factors(settings, seed)

    def make_shifted() -> gymnasium.Env[Any, Any]:
        return PhysicsShift(
            make(),
            settings.shift,
            factor,
            settings.change_every_steps,
            settings.announce_tasks,
            settings.num_envs,
            settings.drift_steps,
        )

    return make_shifted


def _factors(settings: ShiftSettings, seed: int) -> Callable[[int], float]:
    if settings.shift_values:
        return listed_values(settings.shift_values)
    if len(settings.shift_range) != 2 or not 0 < settings.shift_range[0] <= settings.shift_range[1]:
        raise ValueError(f"shift_range={settings.shift_range} must be two positive numbers, the smaller one first")
    low, high = settings.shift_range
    return drawn_factors(low, high, seed, settings.shift)
