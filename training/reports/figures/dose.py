"""Outcome against a setting that varies."""

import math
from typing import Final

import pandas as pd
from matplotlib.axes import Axes

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import run_outcome
from plasticity.training.reports.analysis.statistics import summary
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import MOST_POINTS, Drawing, Sheet, Style, joined, shown, styles
from plasticity.training.reports.specification import Figure

_ALL: Final = "all conditions"
_RATIO = 9.99  # of the largest to the smallest dose from which the axis is logarithmic


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each condition: means over the setting, and every run as a point.

    Where each condition has a number of its own, as scales of a network have, one panel shows them all, a line for each method.
    Runs that lack the setting, such as those of the baseline, are a horizontal line.

    Raises:
        ValueError: The setting does not vary, or is no number.
    """
    if figure.setting not in comparison.settings:
        raise ValueError(f"{figure.setting} does not vary; these do: {joined(list(comparison.settings), 12) or 'none'}")
    outcome = figure.outcome or comparison.outcome
    conditions = shown("condition", figure.conditions, comparison.conditions)
    methods = shown("method", figure.methods, comparison.methods)
    dose = pd.to_numeric(comparison.settings[figure.setting], errors="coerce")
    runs = comparison.runs[comparison.runs["counted"] & comparison.runs["method"].isin(methods)]
    table = pd.DataFrame({"condition": runs["condition"], "method": runs["method"], "seed": runs["seed"]})
    table["dose"], table["value"] = dose.reindex(runs.index), run_outcome(comparison, outcome).reindex(runs.index)
    table = table[table["condition"].isin(conditions) & table["value"].map(math.isfinite)]
    given = table[table["dose"].notna()]
    if given["dose"].nunique() < 2:
        raise ValueError(f"{figure.setting} has no two numbers among the runs that count")
    each_its_own = given.groupby("condition")["dose"].nunique().max() == 1 and given["condition"].nunique() > 1
    if each_its_own:
        conditions = [_ALL]
        table, given = (rows.assign(condition=_ALL) for rows in (table, given))
    look = styles(comparison.methods)
    several = given.groupby("method")["dose"].nunique().max() > 1  # otherwise the methods are the doses
    sheet = Sheet(conditions, legend={name: look[name] for name in given["method"].unique()} if several else None)
    alts = []
    for axes, condition in zip(sheet.axes, conditions, strict=True):
        part = table[table["condition"] == condition]
        told = []
        for name, rows in part[part["dose"].notna()].groupby("method" if several else "condition", sort=False):
            style = look[str(name) if several else comparison.baseline]
            told += _line(axes, comparison, figure, rows, (condition, str(name), outcome.name), style, numbers)
        _without(axes, part[part["dose"].isna()])
        low, high = part["dose"].min(), part["dose"].max()
        if low > 0 and high / low > _RATIO:
            axes.set_xscale("log")
        axes.set(xlabel=figure.setting, ylabel=outcome.name)
        axes.grid(alpha=0.25)
        alts.append(f"{outcome.name} by {figure.setting}, {condition}: {'; '.join(told) or 'no values'}.")
    caption = (
        "Each point is a run, where a dose has at most 10; the line joins means (from 10 runs on interquartile means), upright "
        "lines are 95 % intervals from 3 runs on; dotted: means of runs without the setting."
    )
    legend = {name: look[name] for name in given["method"].unique()} if several else {}
    return Drawing(sheet.figure, sheet.panels(alts), table, caption, legend)


def _line(
    axes: Axes,
    comparison: Comparison,
    figure: Figure,
    rows: pd.DataFrame,
    place: tuple[str, str, str],
    style: Style,
    numbers: Numbers,
) -> list[str]:
    """Draws one method, condition and outcome being in ``place`` with it; returns its numbers in words."""
    told, means = [], []
    for dose, each in rows.groupby("dose"):
        found = summary(each["value"], name=comparison.name)
        means.append((float(str(dose)), found.value))
        if found.known:
            axes.plot([dose, dose], [found.low, found.high], color=style.colour, linewidth=1.2)
        if len(each) <= MOST_POINTS:
            axes.plot(each["dose"], each["value"], style.marker, color=style.colour, markersize=4, alpha=0.5)
        groups = {"condition": place[0], "method": place[1], "outcome": place[2], figure.setting: f"{dose:g}"}
        id = f"dose/{figure.id}/{place[0]}/{place[1]}/{dose:g}"
        seeds = [int(seed) for seed in each["seed"].dropna()]
        told.append(f"{dose:g}: {numbers.add_interval(id, groups, found, len(each), seeds)}")
    axes.plot([x for x, _ in means], [y for _, y in means], color=style.colour, linestyle=style.dash)
    return told


def _without(axes: Axes, rows: pd.DataFrame) -> None:
    """Draws the mean of runs that lack the setting, of each method."""
    for name, each in rows.groupby("method", sort=False):
        axes.axhline(each["value"].mean(), color="0.4", linewidth=0.9, linestyle=":")
        axes.annotate(str(name), (1, each["value"].mean()), xycoords=("axes fraction", "data"), ha="right", fontsize=7.5)
