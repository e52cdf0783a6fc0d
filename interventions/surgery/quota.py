"""How many mature units are due: a rate per update and unit, whole units at a time, counted on the host."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

_ROUNDING: Final = 1e-9  # five times 1.2 should replace six units, though its sum in floating point falls short of 6


class Quota:
    """Counts the mature units of every layer, and how many of them are due.

    A unit is mature when more than ``maturity`` updates have passed since its last reset. The number of mature units follows from
    how many units were reset at which update; which units they were does not matter. So on an accelerator the weights are written
    only in the few updates in which a unit is due, and the host does not wait for the device to find out which updates these are.

    Args:
        units: Units of each layer.
        maturity: Updates during which a new unit is protected.
    """

    def __init__(self, units: Sequence[int], maturity: int) -> None:
        self._maturity = maturity
        self._mature = [0] * len(units)
        self._young: list[deque[tuple[int, int]]] = [deque([(0, count)]) for count in units]
        self._oldest = 0

    def count_mature(self, step: int) -> None:
        """Counts the units that have become mature by update ``step``, counted from 1."""
        if step - self._oldest <= self._maturity:
            return
        for index, young in enumerate(self._young):
            while young and step - young[0][0] > self._maturity:
                self._mature[index] += young.popleft()[1]
        self._oldest = min((young[0][0] for young in self._young if young), default=step)

    def take(self, carried: list[float], rates: Sequence[float], step: int) -> list[int]:
        """Adds rate times mature units to ``carried``, and removes the whole units, which are due and count as reset at ``step``.

        Args:
            carried: Fractions of units left over from earlier updates, by layer; changed in place.
            rates: Share of the mature units that is due per update, by layer, each in [0, 1].
            step: The update, at which ``count_mature`` was called.

        Returns:
            The number of units due in each layer, never more than are mature; an empty list if there are none.
        """
        any_whole = False
        for index, mature in enumerate(self._mature):
            carried[index] += rates[index] * mature
            any_whole = any_whole or carried[index] + _ROUNDING >= 1
        return self._take_whole_units(carried, step) if any_whole else []

    def _take_whole_units(self, carried: list[float], step: int) -> list[int]:
        counts = [min(int(fraction + _ROUNDING), mature) for fraction, mature in zip(carried, self._mature, strict=True)]
        for index, count in enumerate(counts):
            if count:
                carried[index] -= count
                self._mature[index] -= count
                self._young[index].append((step, count))
        self._oldest = min(self._oldest, step)
        return counts

    def state_dict(self) -> dict[str, Any]:
        """Returns the numbers of mature units, and of young ones by update of their reset."""
        return {"mature": list(self._mature), "young": [list(young) for young in self._young]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._mature = list(state["mature"])
        self._young = [deque((when, count) for when, count in young) for young in state["young"]]
        self._oldest = 0
