"""The numbers of a page: what is printed is written down here first, with the runs and the formula that it comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from plasticity.training.reports.analysis.statistics import Interval


@dataclass(frozen=True)
class Number:
    """One number on the page.

    Attributes:
        id: Its place, such as ``main/relu/redo``; unique.
        groups: What it is of: condition, method, baseline, outcome ...
        n: Runs, or pairs of runs, that entered.
        N: Runs that were started.
        value: The number, NaN if there is none.
        interval: Lower and upper bound, None if there are none.
        formula: In words.
        seeds: Of the runs that entered.
        text: As it is printed.
    """

    id: str
    groups: Mapping[str, str]
    n: int
    N: int
    value: float
    interval: tuple[float, float] | None
    formula: str
    seeds: Sequence[int]
    text: str


class Numbers:
    """Collects the numbers of a page in the order in which they were asked for."""

    def __init__(self) -> None:
        self._found: dict[str, Number] = {}

    def add(
        self,
        id: str,
        groups: Mapping[str, str],
        n: int,
        N: int,  # runs started, as n are those that count
        value: float,
        interval: tuple[float, float] | None,
        formula: str,
        seeds: Sequence[int] = (),
        digits: int = 3,
    ) -> str:
        """Writes down a number and returns it as it is printed.

        Args:
            id: Its place; the same id given again must have the same number.
            groups: What it is of.
            n: Runs that entered.
            N: Runs that were started.
            value: The number.
            interval: Its bounds, or None.
            formula: In words.
            seeds: Of the runs that entered.
            digits: Significant digits of a number without bounds.

        Raises:
            ValueError: If the id already has another number.
        """
        known = None if interval is None or not all(map(math.isfinite, interval)) else (float(interval[0]), float(interval[1]))
        text = number_text(value, known, digits)
        number = Number(id, dict(groups), int(n), int(N), float(value), known, formula, [int(seed) for seed in seeds], text)
        there = self._found.setdefault(id, number)
        if (there.text, there.n, there.N) != (number.text, number.n, number.N):
            raise ValueError(f"the number {id} is there twice, as {there.text} and as {text}")
        return text

    def add_interval(
        self,
        id: str,
        groups: Mapping[str, str],
        interval: Interval,
        started: int,
        seeds: Sequence[int] = (),
        digits: int = 3,
    ) -> str:
        """As ``add``, of an interval of ``statistics``, its level named in the formula."""
        bounds = (interval.low, interval.high) if interval.known else None
        level = "" if bounds is None else f", {100 * interval.level:.4g} %"
        return self.add(id, groups, interval.n, started, interval.value, bounds, interval.formula + level, seeds, digits)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, id: object) -> bool:
        return id in self._found

    def __getitem__(self, id: str) -> Number:
        return self._found[id]

    def records(self) -> list[dict[str, Any]]:
        """Returns them as ``report.json`` holds them: plain containers, None for what is not finite."""
        return [{key: _plain(value) for key, value in asdict(number).items()} for number in self._found.values()]


def number_text(value: float, interval: tuple[float, float] | None = None, digits: int = 3) -> str:
    """Returns ``0.820 [0.770, 0.870]``: as many decimals as show two digits of the interval's half width.

    Without an interval, or with one of width 0, the value has this number of significant digits.
    """
    if not math.isfinite(value):
        return "–"
    half = (interval[1] - interval[0]) / 2 if interval is not None else 0.0
    if interval is None or half == 0:
        alone = _significant(value, digits)
        return alone if interval is None else f"{alone} [{alone}, {alone}]"
    largest = max(abs(value), abs(interval[0]), abs(interval[1]))
    if largest >= 1e6 or largest < 1e-4:
        return f"{value:.2e} [{interval[0]:.2e}, {interval[1]:.2e}]"
    decimals = min(8, max(0, 1 - math.floor(math.log10(half))))
    return f"{_fixed(value, decimals)} [{_fixed(interval[0], decimals)}, {_fixed(interval[1], decimals)}]"


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return _fixed(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
