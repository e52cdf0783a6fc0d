"""Differences from the baseline: every pair of runs as a point, with mean and adjusted interval."""

import pandas as pd

from plasticity.training.reports.analysis.findings import cells_of, differences_of
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, name_rows, shown, styles
from plasticity.training.reports.figures.final import draw_row
from plasticity.training.reports.specification import Figure


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each condition, one row for each method but the baseline.

    Raises:
        ValueError: No method can be compared with the baseline.
    """
    outcome, baseline = figure.outcome or comparison.outcome, comparison.baseline
    methods = [method for method in shown("method", figure.methods, comparison.methods) if method != baseline]
    cells = cells_of(comparison, outcome)
    found = {
        condition: differences_of(comparison, condition, cells)
        for condition in shown("condition", figure.conditions, comparison.conditions)
    }
    conditions = [condition for condition, each in found.items() if set(each) & set(methods)]
    if not conditions:
        raise ValueError(f"no method has runs to compare with those of {baseline}")
    style = styles(comparison.methods)
    sheet = Sheet(conditions, labels=methods, size=(3.4, 0.5 + 0.32 * len(methods)))
    rows, alts = [], []
    for axes, condition in zip(sheet.axes, conditions, strict=True):
        told = []
        axes.axvline(0, color="0.35", linewidth=1)
        for height, method in enumerate(methods):
            each = found[condition].get(method)
            if each is None:
                continue
            pairs = (
                _pairs(cells[condition, method].values, cells[condition, baseline].values)
                if each.paired
                else pd.Series(dtype=float)
            )
            draw_row(axes, height, pairs.to_numpy(float), each.shown, style[method])
            rows += [(condition, method, seed, value) for seed, value in pairs.items()]
            base, cell = cells[condition, baseline], cells[condition, method]
            groups = {"condition": condition, "method": method, "baseline": baseline, "outcome": outcome.name}
            started, seeds = min(cell.started, base.started), [int(seed) for seed in pairs.index] or cell.seeds
            text = numbers.add_interval(f"differences/{figure.id}/{condition}/{method}", groups, each.shown, started, seeds)
            told.append(f"{method} {text}")
        name_rows(axes, methods)
        axes.set_xlabel(f"{outcome.name}, minus {baseline}")
        axes.grid(axis="x", alpha=0.25)
        alts.append(f"Difference from {baseline} in {outcome.name}, {condition}: {'; '.join(told)}.")
    caption = (
        f"Each point is a method's run minus the run of {baseline} with the same seed; upright bar: mean difference; line: 95 % "
        f"Student's t interval, adjusted by Holm for all methods of a condition. {outcome.better.capitalize()} is better."
    )
    data = pd.DataFrame(rows, columns=["condition", "method", "seed", "difference"])
    return Drawing(sheet.figure, sheet.panels(alts), data, caption)


def _pairs(method: pd.Series, baseline: pd.Series) -> pd.Series:
    seeds = method.index.intersection(baseline.index)
    return (
        pd.Series(method[seeds].to_numpy(float) - baseline[seeds].to_numpy(float), seeds)
        if len(seeds)
        else pd.Series(dtype=float)
    )
