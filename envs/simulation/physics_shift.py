"""Physics that changes while an agent learns, as in Slippery Ant.

Dohare et al. (2024), "Loss of plasticity in deep continual learning", appendix on reinforcement learning.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt

from plasticity.envs.drift import between
from plasticity.envs.simulation.shift import Shift
from plasticity.settings.seeding import numpy_generator

Array = npt.NDArray[Any]

# The part of a MuJoCo model that each shift scales; a contact takes the larger sliding friction of its two bodies.
SHIFTS: Final[dict[str, Callable[[Any], Array]]] = {
    "friction": lambda model: model.geom_friction[:, 0],
    "gravity": lambda model: model.opt.gravity,
    "actuator": lambda model: model.actuator_gear,
}


class PhysicsShift(Shift, gymnasium.utils.RecordConstructorArgs):
    """Scales friction, gravity or actuator strength of a MuJoCo environment by a factor that changes, see ``Shift``.

    (The paper counts from the last change, which differs by the rest of an episode.) Floor and bodies are scaled alike, from the
    model's own values; Ant's frictions are all 1, so there the factor is the friction of the paper. A drift moves the factor at
    a constant ratio.

    Args:
        env: A single environment with a MuJoCo ``model``.
        shift: ``friction``, ``gravity`` or ``actuator``.
        factor: Returns the factor of change number k.
        change_every_steps: As for ``Shift``, like the remaining arguments.
        announce_tasks: Whether changes are announced to the agent.
        num_envs: Copies that are stepped together.
        drift_steps: Environment steps, over all copies, that a change takes.

    Raises:
        ValueError: An unknown shift, an environment without a model, a period below 1, or a drift that is longer than it.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        shift: str,
        factor: Callable[[int], float],
        change_every_steps: int,
        announce_tasks: bool = True,
        num_envs: int = 1,
        drift_steps: int = 0,
    ) -> None:
        chosen: dict[str, Any] = {"change_every_steps": change_every_steps, "num_envs": num_envs}
        chosen |= {"announce_tasks": announce_tasks, "drift_steps": drift_steps}
        gymnasium.utils.RecordConstructorArgs.__init__(self, shift=shift, factor=factor, **chosen)
        if shift not in SHIFTS:
            raise ValueError(f"shift={shift} is unknown; choose from {', '.join(SHIFTS)}")
        Shift.__init__(self, env, shift, factor, **chosen)
        if not hasattr(env.unwrapped, "model"):
            raise ValueError(f"shift={shift} needs a MuJoCo environment, {type(env.unwrapped).__name__} is not one")
        self._original = self._scaled.copy()
        self._apply(0)

    def revert(self) -> None:
        """Restores the model's own values, bit for bit, until the next change."""
        self._scaled[:] = self._original

    @property
    def _scaled(self) -> Array:
        return SHIFTS[self.shift](self.env.unwrapped.model)  # type: ignore[attr-defined]

    def _between(self, before: float, after: float, share: float) -> float:
        return between(before, after, share)

    def _put(self, value: float) -> None:
        self._scaled[:] = self._original * value


def drawn_factors(low: float, high: float, seed: int, shift: str) -> Callable[[int], float]:
    """Returns the factor of change k as drawn from (seed, shift, k) alone, log-uniform in [low, high]."""

    def factor(number: int) -> float:
        generator = numpy_generator(seed, "physics_shift", shift, number)
        return float(np.exp(generator.uniform(math.log(low), math.log(high))))

    return factor
