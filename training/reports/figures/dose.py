"""Outcome against a setting that varies."""

import math

import pandas as pd

from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import MOST_POINTS, Drawing, Sheet, joined, shown, styles
from plasticity.training.reports.numbers import Numbers
from plasticity.training.reports.outcomes import run_outcome
from plasticity.training.reports.specification import Figure
from plasticity.training.reports.statistics import summary

_RATIO = 9.99  # of the largest to the smallest dose from which the axis is logarithmic


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each condition: means over the setting, and every run as a point.

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
    look = styles(comparison.methods)
    several = given.groupby("method")["dose"].nunique().max() > 1  # otherwise the methods are the doses
    sheet = Sheet(conditions, legend={name: look[name] for name in given["method"].unique()} if several else None)
    alts = []
    for axes, condition in zip(sheet.axes, conditions, strict=True):
        part, told = given[given["condition"] == condition], []
        for name, rows in part.groupby("method", sort=False) if several else [(comparison.baseline, part)]:
            style, points = (
                look[str(name)],
                [(x, summary(each["value"], name=comparison.name)) for x, each in rows.groupby("dose")],
            )
            axes.plot([x for x, _ in points], [each.value for _, each in points], color=style.colour, linestyle=style.dash)
            for x, each in points:
                if each.known:
                    axes.plot([x, x], [each.low, each.high], color=style.colour, linewidth=1.2)
                told.append(f"{x:g}: {each.value:.3g}")
            few = rows.groupby("dose")["value"].transform("size") <= MOST_POINTS
            axes.plot(
                rows["dose"][few], rows["value"][few], color=style.colour, marker=style.marker, linestyle="", alpha=0.5, ms=4
            )
        without = table[(table["condition"] == condition) & table["dose"].isna()]
        for name, rows in without.groupby("method", sort=False):
            axes.axhline(rows["value"].mean(), color="0.4", linewidth=0.9, linestyle=":")
            axes.annotate(str(name), (1, rows["value"].mean()), xycoords=("axes fraction", "data"), ha="right", fontsize=7.5)
        if part["dose"].min() > 0 and part["dose"].max() / part["dose"].min() > _RATIO:
            axes.set_xscale("log")
        axes.set(xlabel=figure.setting, ylabel=outcome.name)
        axes.grid(alpha=0.25)
        alts.append(f"{outcome.name} by {figure.setting}, {condition}: {'; '.join(told)}.")
    caption = (
        "Each point is a run; the line joins means, upright lines are 95 % intervals from 3 runs on; dotted: without the setting."
    )
    return Drawing(sheet.figure, sheet.panels(alts), table, caption, {})
