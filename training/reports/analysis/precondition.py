"""Whether a study of branches has anything to remedy: at its last moment, is the network worse than a fresh one?"""

import math
from dataclasses import dataclass
from typing import Final

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.reading.branches import FRESH

LEAST: Final = 0.05  # share of the fresh network's mean by which the unchanged one must be worse


@dataclass(frozen=True)
class Precondition:
    """What is found in one group of trunks.

    Attributes:
        holds: Whether there is something to remedy; None if that is unknown.
        sentence: The result in words, with the numbers.
    """

    holds: bool | None
    sentence: str


def shortfall(unchanged: float, fresh: float, sign: int) -> float:
    """Returns by which share of ``fresh`` the unchanged network is worse; infinite or 0 if ``fresh`` is 0.

    Args:
        unchanged: Mean over parents.
        fresh: Of the same parents.
        sign: 1 if higher is better, -1 if lower.
    """
    gap = sign * (fresh - unchanged)
    if fresh == 0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / abs(fresh)


def precondition_of(
    comparison: Comparison, cells: dict[tuple[str, str], Cell], group: str, moments: list[str], numbers: Numbers
) -> Precondition:
    """Returns whether the unchanged network is worse than the fresh one at the last moment, in the mean over parents.

    Args:
        comparison: The runs.
        cells: By moment and remedy, of the outcome.
        group: Of trunks.
        moments: Of the group, in their order.
        numbers: Where they are written down.
    """
    last, baseline, outcome = moments[-1], comparison.baseline, comparison.outcome
    lead = "It is unknown whether there is anything to remedy"
    fresh, unchanged = cells.get((last, FRESH)), cells.get((last, baseline))
    if FRESH not in comparison.methods or baseline == FRESH:
        return Precondition(None, _of(group, f"{lead}: no remedy besides the baseline is called {FRESH}."))
    both = [] if fresh is None or unchanged is None else [seed for seed in fresh.seeds if seed in unchanged.seeds]
    started = max((cell.started for cell in (fresh, unchanged) if cell is not None), default=0)
    if fresh is None or unchanged is None or not both:
        why = f"at the last moment, {_short(comparison, last)}, no parent has both {baseline} and {FRESH}"
        return Precondition(None, _of(group, f"{lead}: {why} (0 of {started})."))
    ours, theirs = float(unchanged.values[both].mean()), float(fresh.values[both].mean())
    share = shortfall(ours, theirs, outcome.sign)
    told = {}
    for name, value in ((baseline, ours), (FRESH, theirs)):
        groups = {"condition": last, "method": name, "outcome": outcome.name}
        formula = "mean over the parents that have both"
        told[name] = numbers.add(f"precondition/{last}/{name}", groups, len(both), started, value, None, formula, both, 4)
    groups = {"condition": last, "method": FRESH, "baseline": baseline, "outcome": outcome.name}
    formula = f"how much worse {baseline} is than {FRESH}, % of the absolute mean of {FRESH}"
    worse = numbers.add(f"precondition/{last}", groups, len(both), started, 100 * share, None, formula, both, 2)
    where = f"at the last moment, {_short(comparison, last)}, in the mean of {len(both)} of {started} parents"
    values = f"{baseline} has {told[baseline]} and {FRESH} {told[FRESH]} in {outcome.name}"
    least = f"{100 * LEAST:g} % of {FRESH}"
    if share >= LEAST - 1e-12:  # of rounding
        said = (
            f"There is something to remedy: {where}, {values}; {baseline} is worse by {worse} %, at least the {least} required."
        )
        return Precondition(True, _of(group, said))
    by = f"worse by {worse} %, less than the {least} required" if share > 0 else "not worse"
    return Precondition(False, _of(group, f"Nothing to remedy: {where}, {values}; {baseline} is {by}. Remedies are not ranked."))


def _short(comparison: Comparison, moment: str) -> str:
    assert comparison.branches is not None
    return f"step {comparison.branches.moments[moment].step:,}"


def _of(group: str, sentence: str) -> str:
    return f"{group}: {sentence}" if group else sentence
