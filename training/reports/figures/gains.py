"""Gains of remedies: every moment in its place, each remedy with the points of its parents, mean and adjusted interval."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from plasticity.training.reports.analysis.findings import cells_of, differences_of
from plasticity.training.reports.analysis.gains import gains
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell
from plasticity.training.reports.analysis.statistics import Difference
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import MOST_POINTS, Drawing, Sheet, Style, shown, styles
from plasticity.training.reports.specification import Figure

_ASIDE: Final = 0.05  # of the width of a moment, that points stand to the left of their mean
_COLUMNS: Final = ["trunk", "moment", "step", "remedy", "parent", "gain"]


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each group of trunks.

    Raises:
        ValueError: The comparison is no study of branches, or no remedy has a parent in common with the unchanged network.
    """
    if comparison.branches is None:
        raise ValueError("gains need a study with branches")
    outcome, baseline = figure.outcome or comparison.outcome, comparison.baseline
    remedies = [name for name in shown("remedy", figure.methods, comparison.methods) if name != baseline]
    wanted = shown("moment", figure.conditions, comparison.conditions)
    cells = cells_of(comparison, outcome)
    found = {moment: differences_of(comparison, moment, cells) for moment in wanted}
    groups = {
        group: [moment for moment in moments if moment in wanted and set(found[moment]) & set(remedies)]
        for group, moments in comparison.branches.groups.items()
    }
    groups = {group: moments for group, moments in groups.items() if moments}
    if not groups:
        raise ValueError(f"no remedy has branches to compare with those of {baseline}")
    style = styles(comparison.methods)
    legend = {name: style[name] for name in remedies}
    widest = max(len(moments) for moments in groups.values())
    width = min(9.0, max(3.9, 0.5 + widest * (0.35 + 0.22 * len(remedies))))
    sheet = Sheet(list(groups), columns=1 if width > 4.5 else 2, size=(width, 3.0), legend=legend)
    rows, alts = [], []
    for axes, (group, moments) in zip(sheet.axes, groups.items(), strict=True):
        told = []
        for gain in _gains(comparison, moments, remedies, cells, found):
            _draw_one(axes, gain, style[gain.remedy])
            rows += [(group, gain.moment, gain.step, gain.remedy, parent, value) for parent, value in gain.pairs.items()]
            told.append(f"{gain.remedy} at step {gain.step:,} {_noted(gain, numbers, figure.id, baseline, outcome.name)}")
        _finish(axes, [comparison.branches.moments[moment].step for moment in moments], f"{outcome.name}, minus {baseline}")
        alts.append(f"Gain in {outcome.name} over {baseline}{f', {group}' if group else ''}: {'; '.join(told)}.")
    caption = (
        f"Each small point is a branch minus that of {baseline} of the same parent and moment (where there are at most "
        f"{MOST_POINTS} parents); large point: mean over parents; line: 95 % Student's t interval, adjusted by Holm for all "
        f"remedies of a moment, from 3 parents on. {outcome.better.capitalize()} is better."
    )
    return Drawing(sheet.figure, sheet.panels(alts), pd.DataFrame(rows, columns=_COLUMNS), caption, legend)


class _Gain(NamedTuple):
    """Of one remedy at one moment: where it is drawn, the parents' gains, their mean, and how many parents were started."""

    moment: str
    step: int
    remedy: str
    x: float
    pairs: pd.Series
    mean: Difference
    started: int


def _gains(
    comparison: Comparison,
    moments: list[str],
    remedies: list[str],
    cells: dict[tuple[str, str], Cell],
    found: dict[str, dict[str, Difference]],
) -> Iterator[_Gain]:
    assert comparison.branches is not None
    for place, moment in enumerate(moments):
        unchanged = cells[moment, comparison.baseline]
        for name, x in zip(remedies, place + _offsets(len(remedies)), strict=True):
            if name in found[moment]:
                cell, step = cells[moment, name], comparison.branches.moments[moment].step
                pairs, started = gains(cell.values, unchanged.values), min(cell.started, unchanged.started)
                yield _Gain(moment, step, name, float(x), pairs, found[moment][name], started)


def _noted(gain: _Gain, numbers: Numbers, id: str, baseline: str, outcome: str) -> str:
    """Writes a gain down and returns it as it is printed."""
    groups = {"condition": gain.moment, "method": gain.remedy, "baseline": baseline, "outcome": outcome}
    parents = [int(each) for each in gain.pairs.index]
    return numbers.add_interval(f"gains/{id}/{gain.moment}/{gain.remedy}", groups, gain.mean.shown, gain.started, parents)


def _offsets(n: int) -> np.ndarray:
    """Returns where remedies stand around their moment, which has the width 1."""
    found: np.ndarray = (np.arange(n) - (n - 1) / 2) * 0.8 / max(n, 3)
    return found


def _draw_one(axes: Axes, gain: _Gain, style: Style) -> None:
    colour, marker, x, interval = style.colour, style.marker, gain.x, gain.mean.shown
    if len(gain.pairs) <= MOST_POINTS:
        xs, points = np.full(len(gain.pairs), x - _ASIDE), gain.pairs.to_numpy(float)
        axes.plot(xs, points, color=colour, marker=marker, linestyle="none", markersize=3.5, alpha=0.5, markeredgewidth=0)
    if interval.known:
        axes.plot([x, x], [interval.low, interval.high], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([x], [interval.value], color=colour, marker=marker, markersize=6.5)


def _finish(axes: Axes, steps: list[int], label: str) -> None:
    axes.axhline(0, color="0.35", linewidth=1)
    for between in np.arange(len(steps) - 1) + 0.5:
        axes.axvline(between, color="0.85", linewidth=0.8)
    axes.set_xticks(range(len(steps)), [f"{step:,}" for step in steps])
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set(xlabel="step of the branch", ylabel=label if len(label) <= 44 else f"{label[:43]}…")
    axes.grid(axis="y", alpha=0.25)
