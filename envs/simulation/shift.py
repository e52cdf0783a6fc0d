"""An environment that changes while an agent learns: between episodes at once, or gradually."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from plasticity.envs.drift import check_drift, share_of_new
from plasticity.envs.simulation.announcement import ANNOUNCES, TASK


class Shift(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sets a number of the environment to a value that changes; base of the wrappers that define which number.

    Change number k is due once k * ``change_every_steps`` environment steps were taken, over all copies that are stepped
    together, and comes into force at the next reset: never within an episode. The value of number 0 is in force from the start.

    With ``drift_steps`` a change is gradual: from step k * ``change_every_steps`` on the value moves from that of change k - 1
    to that of change k, step by step, within episodes too, once change k is in force. So at the reset that brings the change, the
    value has already moved by the share of the steps since the change was due.

    Every reset gives ``stream/<shift>``, the value in force, and ``stream/task``, the number of the change, in its info; and
    ``plasticity/task``, if changes are announced. A subclass calls ``_apply(0)`` at the end of its ``__init__``.

    Args:
        env: A single environment.
        shift: What the value is called.
        value: Returns the value of change number k.
        change_every_steps: Environment steps between changes.
        announce_tasks: Whether changes are announced to the agent.
        num_envs: Copies that are stepped together.
        drift_steps: Environment steps, over all copies, that a change takes; 0 for sudden changes.

    Attributes:
        number: The number of the change in force.
        in_force: The value in force.

    Raises:
        ValueError: A period below 1, or a drift that is longer than it.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        shift: str,
        value: Callable[[int], float],
        change_every_steps: int,
        announce_tasks: bool = True,
        num_envs: int = 1,
        drift_steps: int = 0,
    ) -> None:
        super().__init__(env)
        if change_every_steps < 1:
            raise ValueError(f"change_every_steps={change_every_steps} must be at least 1")
        check_drift(drift_steps, change_every_steps, "change_every_steps")
        self.shift, self.value, self.announce_tasks = shift, value, announce_tasks
        self._change_every, self._num_envs, self._drift_steps = change_every_steps, num_envs, drift_steps
        if announce_tasks:
            self.metadata = {**env.metadata, ANNOUNCES: True}
        self._steps = 0
        self._held: float | None = None  # the share of the new value at which it is held
        self.number = 0
        self._ends: tuple[float, float] | None = None  # the values between which a drift moves
        self._moves = False  # whether a drift is in progress
        self.in_force: float

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment; only a drift advances here."""
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
        """The progress of the change in force, in [0, 1]; the first needs no time."""
        if self._held is not None:
            return self._held
        since = self._steps * self._num_envs - self.number * self._change_every
        return share_of_new(since, self._drift_steps) if self.number else 1.0

    def hold(self, number: int, share: float = 1.0) -> None:
        """Puts change ``number`` in force at the given share, and stops all further changes, as evaluation needs."""
        self._held = share
        self._apply(number)

    def state_dict(self) -> dict[str, Any]:
        """Returns the steps so far and the number of the change in force, from which its value follows."""
        return {"steps": self._steps, "number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state, with the environment as it was."""
        self._steps = state["steps"]
        self._apply(state["number"])

    def _between(self, before: float, after: float, share: float) -> float:
        """Returns the value on the way between two; ``after`` itself at share 1."""
        raise NotImplementedError(f"{type(self).__name__} must define _between")

    def _put(self, value: float) -> None:
        """Puts a value in force."""
        raise NotImplementedError(f"{type(self).__name__} must define _put")

    def _apply(self, number: int) -> None:
        if number != self.number or self._ends is None:
            self.number = number
            self._ends = (self.value(max(number - 1, 0)), self.value(number))
        share = self.share
        self._moves = self._held is None and share < 1.0
        self.in_force = self._between(*self._ends, share)
        self._put(self.in_force)


def listed_values(values: Sequence[float]) -> Callable[[int], float]:
    """Returns the value of change k as ``values[k]``, from the beginning again after the last."""
    return lambda number: float(values[number % len(values)])
