"""Physics that changes while an agent learns, as in Slippery Ant.

Dohare et al. (2024), "Loss of plasticity in deep continual learning", appendix on reinforcement learning.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt

from plasticity.envs.drift import between, check_drift, share_of_new
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

    With ``drift_steps`` a change is gradual: from step k * ``change_every_steps`` on the factor moves at a constant ratio from
    that of change k - 1 to that of change k, step by step, within episodes too, once change k is in force. So at the reset that
    brings the change the factor has moved by what the steps since its time make of the whole way.

    Every reset says ``stream/<shift>``, the factor in force, and ``stream/task``, the number of the change, in its info; and
    ``plasticity/task``, if changes are announced.

    Args:
        env: A single environment with a MuJoCo ``model``.
        shift: ``friction``, ``gravity`` or ``actuator``.
        factor: Returns the factor of change number k.
        change_every_steps: Environment steps between changes.
        announce_tasks: Whether the agent is told.
        num_envs: Copies that are stepped together.
        drift_steps: Environment steps, over all copies, that a change takes; 0 for sudden changes.

    Attributes:
        number: The number of the change in force.
        in_force: The factor in force.

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
        super().__init__(env)
        if shift not in SHIFTS:
            raise ValueError(f"shift={shift} is unknown; choose from {', '.join(SHIFTS)}")
        if change_every_steps < 1:
            raise ValueError(f"change_every_steps={change_every_steps} must be at least 1")
        check_drift(drift_steps, change_every_steps, "change_every_steps")
        if not hasattr(env.unwrapped, "model"):
            raise ValueError(f"shift={shift} needs a MuJoCo environment, {type(env.unwrapped).__name__} is none")
        self.shift, self.factor, self.announce_tasks = shift, factor, announce_tasks
        self._change_every, self._num_envs, self._drift_steps = change_every_steps, num_envs, drift_steps
        if announce_tasks:
            self.metadata = {**env.metadata, ANNOUNCES: True}
        self._steps = 0
        self._held: float | None = None  # the share of the new factor at which the physics are held
        self._original = self._scaled.copy()
        self.number = 0
        self._ends: tuple[float, float] | None = None  # the factors between which a drift moves
        self._moves = False  # whether a drift is under way
        self._apply(0)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment; only a drift goes on here."""
        if self._moves:
            self._apply(self.number)
        self._steps += 1
        return self.env.step(action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, after a change if one is due."""
        number = self._steps * self._num_envs // self._change_every
        if self._held is None and (self._moves or number != self.number):
            self._apply(number)
        observation, info = self.env.reset(seed=seed, options=options)
        said = {f"stream/{self.shift}": self.in_force, "stream/task": float(self.number)}
        return observation, {**info, **said, **({TASK: self.number} if self.announce_tasks else {})}

    @property
    def share(self) -> float:
        """How far the change in force has come, in [0, 1]; the first needs no time."""
        if self._held is not None:
            return self._held
        since = self._steps * self._num_envs - self.number * self._change_every
        return share_of_new(since, self._drift_steps) if self.number else 1.0

    def hold(self, number: int, share: float = 1.0) -> None:
        """Puts change ``number`` in force, so far as it has come, and lets nothing change any more, as evaluation wants."""
        self._held = share
        self._apply(number)

    def revert(self) -> None:
        """Gives the model its own values back, bit for bit, until the next change."""
        self._scaled[:] = self._original

    def state_dict(self) -> dict[str, Any]:
        """Returns the steps so far and the number of the change in force, from which its factor follows."""
        return {"steps": self._steps, "number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state, with the physics as they were."""
        self._steps = state["steps"]
        self._apply(state["number"])

    @property
    def _scaled(self) -> Array:
        return SHIFTS[self.shift](self.env.unwrapped.model)  # type: ignore[attr-defined]

    def _apply(self, number: int) -> None:
        if number != self.number or self._ends is None:
            self.number = number
            self._ends = (self.factor(max(number - 1, 0)), self.factor(number))
        share = self.share
        self._moves = self._held is None and share < 1.0
        self.in_force = between(*self._ends, share)
        self._scaled[:] = self._original * self.in_force


def listed_factors(values: Sequence[float]) -> Callable[[int], float]:
    """Returns the factor of change k as ``values[k]``, from the beginning again after the last."""
    return lambda number: float(values[number % len(values)])


def drawn_factors(low: float, high: float, seed: int, shift: str) -> Callable[[int], float]:
    """Returns the factor of change k as drawn from (seed, shift, k) alone, log-uniform in [low, high]."""

    def factor(number: int) -> float:
        generator = numpy_generator(seed, "physics_shift", shift, number)
        return float(np.exp(generator.uniform(math.log(low), math.log(high))))

    return factor
