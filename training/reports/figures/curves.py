"""Curves over the run: binned for each run first, then the mean over seeds with a pointwise band."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import binned, of_parents, over_seeds
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, Style, joined, shown, styles
from plasticity.training.reports.figures.trunks import STYLE, trunk_curves, trunk_panels
from plasticity.training.reports.reading.branches import TRUNK
from plasticity.training.reports.specification import Figure

_BANDS: Final = {
    "auto": "a 95 % Student's t interval of the mean",
    "t": "a 95 % Student's t interval of the mean",
    "sd": "the standard deviation over runs on both sides",
    "se": "the standard error on both sides",
}
_FEWEST: Final = 3  # runs of a band
_MOST_MARKED: Final = 30  # bins up to which every one has a marker
_OF_TRUNKS: Final = (
    " Grey: the trunks that the branches start from, whole in a separate panel with the moments as dotted lines, and under the "
    "branches for two lengths of a branch before the moment; these and all branches are drawn at their own steps."
)
_COLUMNS: Final = ["value", "condition", "method", "x", "mean", "low", "high", "n"]


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each value and condition; of branches also one for the whole trunks.

    Raises:
        ValueError: No run that counts has such values.
    """
    conditions = shown("condition", figure.conditions, comparison.conditions)
    methods = shown("method", figure.methods, comparison.methods)
    tables, trunks = _tables(comparison, figure, conditions, methods), trunk_panels(comparison, conditions)
    names = [name for name in figure.values if any(len(table) for key, table in tables.items() if key[0] == name)]
    if not names:
        raise ValueError(f"no run has rows of {joined(figure.values)} by {figure.by}")
    style = styles(comparison.methods) | ({TRUNK: STYLE} if trunks else {})
    methods, conditions = [*methods, *([TRUNK] if trunks else [])], [*trunks, *conditions]
    places = [(name, condition) for name in names for condition in conditions]
    one = len(conditions) == 1
    sheet = Sheet(
        [name if one else condition if len(names) == 1 else f"{name}: {condition}" for name, condition in places],
        columns=2 if len(places) > 1 else 1,
        legend={method: style[method] for method in methods},
    )
    rows, alts = [], []
    for axes, (name, condition) in zip(sheet.axes, places, strict=True):
        curves = {method: tables[name, condition, method] for method in methods if (name, condition, method) in tables}
        rows += _panel(axes, figure, curves, name, condition, style)
        for step in trunks.get(condition, []) if figure.by == "step" else ():
            axes.axvline(step, color="0.35", linewidth=0.8, linestyle=(0, (1.2, 1.2)))
        alts.append(_alt(figure, name, condition, rows, numbers))
    _same_heights(sheet.axes, len(conditions))
    data = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=_COLUMNS)
    caption = _caption(figure, data, comparison.terms.units) + (_OF_TRUNKS if trunks else "")
    return Drawing(sheet.figure, sheet.panels(alts), data, caption, {method: style[method] for method in methods})


def _tables(
    comparison: Comparison, figure: Figure, conditions: list[str], methods: list[str]
) -> dict[tuple[str, str, str], pd.DataFrame]:
    """Returns the curves of all runs, or parents, by value, panel, and method or ``trunk``."""
    found = {}
    for name in figure.values:
        for condition, method in ((condition, method) for condition in conditions for method in methods):
            runs = comparison.cell(condition, method).index
            table = binned(comparison, name, figure.by, figure.bins, figure.window, runs, figure.part)
            found[name, condition, method] = of_parents(comparison, table)
        trunks = trunk_curves(comparison, figure, name, conditions)
        found |= {(name, panel, TRUNK): table for panel, table in trunks.items()}
    return found


def _panel(
    axes: Axes, figure: Figure, tables: dict[str, pd.DataFrame], name: str, condition: str, style: dict[str, Style]
) -> list[pd.DataFrame]:
    found = []
    for method, table in tables.items():
        if not len(table):
            continue
        curve, look = over_seeds(table, table.index, figure.band), style[method]
        x, mean = curve.index.to_numpy(float), curve["mean"].to_numpy(float)
        marked = look.marker if len(x) <= _MOST_MARKED else None
        axes.plot(x, mean, color=look.colour, linestyle=look.dash, linewidth=1.4, marker=marked, markersize=3)
        alone = _alone(mean)
        if marked is None and alone.any():  # a bin between two gaps has no line
            axes.plot(x[alone], mean[alone], color=look.colour, linestyle="none", marker=look.marker, markersize=3)
        if curve["low"].notna().any():
            axes.fill_between(x, curve["low"], curve["high"], color=look.colour, alpha=0.15, linewidth=0)
        elif curve["n"].max() > 1:
            for run in table.index:
                axes.plot(x, table.loc[run], color=look.colour, alpha=0.35, linewidth=0.7)
        found.append(curve.rename_axis("x").reset_index().assign(value=name, condition=condition, method=method)[_COLUMNS])
    axes.set(xlabel=figure.by, ylabel=name)
    axes.grid(alpha=0.25)
    return found


def _alone(mean: np.ndarray) -> np.ndarray:
    known = np.concatenate([[False], np.isfinite(mean), [False]])
    alone: np.ndarray = known[1:-1] & ~known[:-2] & ~known[2:]
    return alone


def _same_heights(axes: list[Axes], conditions: int) -> None:
    """Gives the conditions of one value one vertical axis, so that panels can be compared."""
    for first in range(0, len(axes), conditions):
        row = axes[first : first + conditions]
        bounds = [one.get_ylim() for one in row if one.lines]
        for one in row if bounds else []:
            one.set_ylim(min(low for low, _ in bounds), max(high for _, high in bounds))


def _alt(figure: Figure, name: str, condition: str, rows: list[pd.DataFrame], numbers: Numbers) -> str:
    """Returns where each curve starts and ends, in words; the numbers are written down."""
    told = []
    for row in rows:
        known = row[row["mean"].notna()]
        if not len(known) or (known["value"].iloc[0], known["condition"].iloc[0]) != (name, condition):
            continue
        method, ends = str(known["method"].iloc[0]), []
        for what, place in (("first", 0), ("last", -1)):
            groups = {"condition": condition, "method": method, "value": name, figure.by: f"{known['x'].iloc[place]:g}"}
            n, mean = int(known["n"].iloc[place]), float(known["mean"].iloc[place])
            id = f"curve/{figure.id}/{name}/{condition}/{method}/{what}"
            ends.append(numbers.add(id, groups, n, int(known["n"].max()), mean, None, f"mean over runs of the {what} bin"))
        told.append(f"{method} from {ends[0]} to {ends[1]}")
    return f"Curves of {name} by {figure.by}, {condition}: {'; '.join(told) if told else 'no values'}."


def _caption(figure: Figure, data: pd.DataFrame, units: str) -> str:
    n = data["n"].max() if len(data) else 0
    least = data.groupby(["value", "condition", "method"])["n"].max().min() if len(data) else 0
    runs = f"{int(n)}" if n == least else f"{int(least)} to {int(n)}"
    window = f" Running mean over {figure.window} bins." if figure.window > 1 else ""
    band = (
        f"bands are pointwise: {_BANDS[figure.band]}"
        if n >= _FEWEST
        else f"no band below 3 {units}; thin lines are single {units}"
    )
    fewer = data["n"].gt(0) & data["n"].lt(data.groupby(["value", "condition", "method"])["n"].transform("max"))
    some = f" Where not all {units} have a value the mean is over those that do; the CSV lists how many." if fewer.any() else ""
    told = f"Mean over {runs} {units}, each binned first; {band}. A gap has no values and is not filled."
    return f"{told}{some}{window}"
