"""Outcomes of all runs as points, with mean and interval of each method."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell, cell_of, run_outcome
from plasticity.training.reports.analysis.statistics import Interval, summary
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import MOST_POINTS, Drawing, Sheet, Style, name_rows, shown, styles
from plasticity.training.reports.specification import Figure


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each condition, one row for each method.

    Raises:
        ValueError: No run has the outcome.
    """
    outcome = figure.outcome or comparison.outcome
    conditions = shown("condition", figure.conditions, comparison.conditions)
    methods = shown("method", figure.methods, comparison.methods)
    results, style = run_outcome(comparison, outcome), styles(comparison.methods)
    cells = {(place, method): cell_of(comparison, results, place, method) for place in conditions for method in methods}
    if not any(cell.n for cell in cells.values()):
        raise ValueError(f"no run has an outcome {outcome.name}")
    sheet = Sheet(conditions, labels=methods, size=(3.4, 0.5 + 0.32 * len(methods)))
    rows, alts = [], []
    for axes, condition in zip(sheet.axes, conditions, strict=True):
        told = []
        for height, method in enumerate(methods):
            cell = cells[condition, method]
            if not cell.n:
                continue
            interval = summary(cell.values, name=comparison.name)
            draw_row(axes, height, cell.values.to_numpy(float), interval, style[method])
            rows += [(condition, method, seed, value) for seed, value in cell.values.items()]
            groups = {"condition": condition, "method": method, "outcome": outcome.name}
            id = f"final/{figure.id}/{condition}/{method}"
            text = numbers.add_interval(id, groups, interval, cell.started, cell.seeds)
            told.append(f"{method} {text}, n = {cell.n}")
        name_rows(axes, methods)
        axes.set_xlabel(outcome.name)
        axes.grid(axis="x", alpha=0.25)
        alts.append(f"{outcome.name} of each run and mean by method, {condition}: {'; '.join(told) or 'no values'}.")
    data = pd.DataFrame(rows, columns=["condition", "method", "seed", "value"])
    return Drawing(sheet.figure, sheet.panels(alts), data, _caption(list(cells.values())))


def draw_row(axes: Axes, height: float, values: np.ndarray, interval: Interval, style: Style) -> None:
    """Draws points of runs and under them mean and interval; points are left out where there are more than ten."""
    if len(values) <= MOST_POINTS:
        axes.plot(
            values,
            height - 0.12 + np.zeros(len(values)),
            color=style.colour,
            marker=style.marker,
            linestyle="none",
            markersize=4,
            alpha=0.55,
            markeredgewidth=0,
        )
    if interval.known:
        axes.plot([interval.low, interval.high], [height + 0.18] * 2, color=style.colour, linewidth=2, solid_capstyle="butt")
    axes.plot([interval.value], [height + 0.18], color=style.colour, marker="|", markersize=11, markeredgewidth=2.2)


def _caption(cells: list[Cell]) -> str:
    most = max(cell.n for cell in cells)
    if most < MOST_POINTS:
        how = "upright bar: mean; line: 95 % Student's t interval, from 3 runs on"
    else:
        how = "upright bar: interquartile mean from 10 runs on, mean below; line: 95 % bootstrap or Student's t interval"
    points = "Each point is a run" if most <= MOST_POINTS else "Points are runs, where there are at most 10"
    return f"{points}; {how}. Runs without an outcome are not drawn; the table counts them."
