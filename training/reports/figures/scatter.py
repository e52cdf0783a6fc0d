"""What correlates with the outcome: a metric at one step against the outcome after it, a panel for each metric and condition."""

import math

import numpy as np
import pandas as pd

from plasticity.training.reports.analysis.alongside import metrics_at, what_goes_with
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import run_outcome
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, shown, styles
from plasticity.training.reports.specification import Figure, Outcome

_MOST = 4  # metrics of a figure that names none


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws every run as a point; two correlations stand above each panel, none is pooled over methods.

    Raises:
        ValueError: No metric varies over runs.
    """
    at = 0.5 if figure.at is None else figure.at
    outcome = figure.outcome or _after(comparison.outcome, at)
    id = f"scatter/{figure.id}"
    found = what_goes_with(comparison, numbers, figure.metrics or None, at, outcome, id)
    found = found[found["condition"].isin(shown("condition", figure.conditions, comparison.conditions))]
    if not figure.metrics:
        found = found.groupby("condition", sort=False).head(_MOST)
    if not len(found):
        raise ValueError(f"no metric varies over runs at {100 * at:g} % of the run")
    methods = shown("method", figure.methods, comparison.methods)
    table, results = metrics_at(comparison, list(found["metric"].unique()), at), run_outcome(comparison, outcome)
    style = styles(comparison.methods)
    several = found["condition"].nunique() > 1
    titles = [f"{row.metric}: {row.condition}" if several else row.metric for row in found.itertuples()]
    sheet = Sheet(titles, legend={name: style[name] for name in methods}, size=(3.9, 2.3))
    points, alts = [], []
    for axes, row in zip(sheet.axes, found.itertuples(), strict=True):
        for method in methods:
            runs = comparison.cell(row.condition, method).index
            x, y = table.loc[runs, row.metric].to_numpy(float), results[runs].to_numpy(float)
            look = style[method]
            axes.plot(
                x, y, color=look.colour, marker=look.marker, linestyle="none", markersize=4.5, alpha=0.75, markeredgewidth=0
            )
            points += [(row.condition, row.metric, method, run, a, b) for run, a, b in zip(runs, x, y, strict=True)]
        told = f"within methods rho = {_rho(row.within)} (family-wise p {_rho(row.p)}), between {_rho(row.between)}"
        axes.set(xlabel=f"{row.metric} at {100 * at:g} %", ylabel="outcome after it")
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10, pad=15)
        axes.text(0, 1.02, told, transform=axes.transAxes, va="bottom", fontsize=7.5)
        axes.grid(alpha=0.25)
        alts.append(f"{row.metric} at {100 * at:g} % of the run against {outcome.name}, {row.condition}: {told}.")
    caption = (
        f"Horizontal: the metric at {100 * at:g} % of the run; vertical: {outcome.name}. Each point is a run. Within: ranks "
        "centred by method; between: means of methods. What correlates with an outcome need not be its cause."
    )
    data = pd.DataFrame(points, columns=["condition", "metric", "method", "run", "x", "y"])
    legend = {name: style[name] for name in methods}
    return Drawing(sheet.figure, sheet.panels(alts), data[np.isfinite(data["y"].astype(float))], caption, legend)


def _rho(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _after(outcome: Outcome, at: float) -> Outcome:
    label = f"{outcome.name}, after {100 * at:g} % of the run"
    part = [max(at, outcome.part[0]), outcome.part[1]]
    return Outcome(outcome.value, part, outcome.reduce, outcome.by, outcome.better, label, outcome.scale, outcome.normalise)
