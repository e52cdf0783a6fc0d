"""Physics that changes while an agent learns, as in Slippery Ant.

Dohare et al. (2024), "Loss of plasticity in deep continual learning", appendix on reinforcement learning.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt

from plasticity.envs.simulation.announcement import ANNOUNCES, TASK
from plasticity.settings.seeding import numpy_generator

Array = npt.NDArray[Any]

# The part of a MuJoCo model that each shift scales; a contact takes the larger sliding friction of its two bodies.
SHIFTS: Final[dict[str, Callable[[Any], Array]]] = {
    "friction": lambda model: model.geom_friction[:, 0],
    "gravity": lambda model: model.opt.gravity,
    "actuator": lambda model: model.actuator_gear,
}


class PhysicsShift(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Scales friction, gravity or actuator strength of a MuJoCo environment by a factor that changes between episodes.

    Change number k is due once k * ``change_every_steps`` environment steps were taken, over all copies that are stepped
    together, and comes into force at the next reset: never within an episode. (The paper counts from the last change, which
    differs by the rest of an episode.) The factor of number 0 is in force from the start. Floor and bodies are scaled alike, from
    the model's own values; Ant's frictions are all 1, so there the factor is the friction of the paper.

    Every reset says ``stream/<shift>``, the factor in force, and ``stream/task``, the number of the change, in its info; and
    ``plasticity/task``, if changes are announced.

    Args:
        env: A single environment with a MuJoCo ``model``.
        shift: ``friction``, ``gravity`` or ``actuator``.
        factor: Returns the factor of change number k.
        change_every_steps: Environment steps between changes.
        announce_tasks: Whether the agent is told.
        num_envs: Copies that are stepped together.

    Attributes:
        number: The number of the change in force.

    Raises:
        ValueError: An unknown shift, an environment without a model, or a period below 1.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        shift: str,
        factor: Callable[[int], float],
        change_every_steps: int,
        announce_tasks: bool = True,
        num_envs: int = 1,
    ) -> None:
        chosen: dict[str, Any] = {"change_every_steps": change_every_steps, "num_envs": num_envs}
        chosen["announce_tasks"] = announce_tasks
        gymnasium.utils.RecordConstructorArgs.__init__(self, shift=shift, factor=factor, **chosen)
        super().__init__(env)
        if shift not in SHIFTS:
            raise ValueError(f"shift={shift} is unknown; choose from {', '.join(SHIFTS)}")
        if change_every_steps < 1:
            raise ValueError(f"change_every_steps={change_every_steps} must be at least 1")
        if not hasattr(env.unwrapped, "model"):
            raise ValueError(f"shift={shift} needs a MuJoCo environment, {type(env.unwrapped).__name__} is none")
        self.shift, self.factor, self.announce_tasks = shift, factor, announce_tasks
        self._change_every, self._num_envs = change_every_steps, num_envs
        if announce_tasks:
            self.metadata = {**env.metadata, ANNOUNCES: True}
        self._steps = 0
        self._held = False
        self._original = self._scaled.copy()
        self._apply(0)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment; nothing changes here."""
        self._steps += 1
        return self.env.step(action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, after a change if one is due."""
        number = self._steps * self._num_envs // self._change_every
        if number != self.number and not self._held:
            self._apply(number)
        observation, info = self.env.reset(seed=seed, options=options)
        said = {f"stream/{self.shift}": self.factor(self.number), "stream/task": float(self.number)}
        return observation, {**info, **said, **({TASK: self.number} if self.announce_tasks else {})}

    def hold(self, number: int) -> None:
        """Puts change ``number`` in force and lets none follow, as evaluation wants."""
        self._held = True
        self._apply(number)

    def revert(self) -> None:
        """Gives the model its own values back, bit for bit, until the next change."""
        self._scaled[:] = self._original

    def state_dict(self) -> dict[str, Any]:
        """Returns the steps so far and the number of the change in force, from which its factor follows."""
        return {"steps": self._steps, "number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state, with the physics as it was."""
        self._steps = state["steps"]
        self._apply(state["number"])

    @property
    def _scaled(self) -> Array:
        return SHIFTS[self.shift](self.env.unwrapped.model)  # type: ignore[attr-defined]

    def _apply(self, number: int) -> None:
        self.number = number
        self._scaled[:] = self._original * self.factor(number)


def listed_factors(values: Sequence[float]) -> Callable[[int], float]:
    """Returns the factor of change k as ``values[k]``, from the beginning again after the last."""
    return lambda number: float(values[number % len(values)])


def drawn_factors(low: float, high: float, seed: int, shift: str) -> Callable[[int], float]:
    """Returns the factor of change k as drawn from (seed, shift, k) alone, log-uniform in [low, high]."""

    def factor(number: int) -> float:
        generator = numpy_generator(seed, "physics_shift", shift, number)
        return float(np.exp(generator.uniform(math.log(low), math.log(high))))

    return factor
