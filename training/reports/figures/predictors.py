"""What predicts gains: rank correlations of metrics at the branch with the gain of each remedy, and regrets of their choice."""

import math
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from plasticity.training.reports.analysis.findings import cells_of
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.predictors import OTHERS, OTHERS_TOLD, Predictors, Ranked, predictors_of
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, Style, name_rows, shown, styles
from plasticity.training.reports.specification import Figure

_MOST: Final = 12  # metrics that are drawn
_COLUMNS: Final = ["trunk", "metric", "remedy", "rho", "p", "regret", "regret_low", "regret_high"]


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws two panels for each group of trunks: correlations, and regrets.

    Raises:
        ValueError: The comparison is no study of branches, or no metric can be ranked.
    """
    if comparison.branches is None:
        raise ValueError("predictors need a study with branches")
    remedies = [name for name in shown("remedy", figure.methods, comparison.methods) if name != comparison.baseline]
    id = f"predictors/{figure.id}" if figure.metrics or figure.outcome else "predictors"
    every = predictors_of(comparison, cells_of(comparison, figure.outcome or comparison.outcome), numbers, figure.metrics, id)
    wanted = shown("moment", figure.conditions, comparison.conditions)
    every = [each for each in every if set(comparison.branches.groups[each.group]) & set(wanted)]
    groups = [each for each in every if each.ranked]
    if not groups:
        why = "; ".join(dict.fromkeys(remark.rstrip(".") for each in every for remark in each.remarks))
        raise ValueError(f"no metric at the branches can be ranked: {why}")
    style, most = styles(comparison.methods), max(min(_MOST, len(each.ranked)) for each in groups)
    legend = {name: style[name] for name in remedies if any(name in each.remedies for each in groups)}
    labels = [ranked.name for each in groups for ranked in each.ranked[:_MOST]]
    titles = [
        f"{f'{each.group}: ' if each.group else ''}{what}" for each in groups for what in ("correlation with the gain", "regret")
    ]
    sheet = Sheet(titles, labels=labels, size=(3.4, 0.6 + 0.27 * most), legend=legend)
    alts = []
    for axes, other, each in zip(sheet.axes[::2], sheet.axes[1::2], groups, strict=True):
        drawn = each.ranked[:_MOST]
        alts += [_correlations(axes, each, drawn, legend), _regrets(other, each, drawn)]
    rows = [
        (each.group, ranked.name, name, value, ranked.p, ranked.regret.value, ranked.regret.low, ranked.regret.high)
        for each in groups
        for ranked in (*each.ranked, *each.rules)
        for name, value in (ranked.rho or {"": math.nan}).items()
    ]
    return Drawing(sheet.figure, sheet.panels(alts), pd.DataFrame(rows, columns=_COLUMNS), _caption(groups), legend)


def _correlations(axes: Axes, found: Predictors, drawn: list[Ranked], legend: dict[str, Style]) -> str:
    high = found.chance[1]
    axes.axvspan(-high, high, color="0.92", zorder=0)
    axes.axvline(0, color="0.35", linewidth=1)
    for height, ranked in enumerate(drawn):
        for name, look in legend.items():
            rho = ranked.rho.get(name, math.nan)
            if math.isfinite(rho):
                axes.plot([rho], [height], color=look.colour, marker=look.marker, linestyle="none", markersize=5, alpha=0.85)
    name_rows(axes, [ranked.name for ranked in drawn])
    axes.set(xlabel="Spearman's rho", xlim=(-1.05, 1.05))
    axes.grid(axis="both", alpha=0.25)
    told = [f"{each.name} {', '.join(f'{text} with {name}' for name, text in each.rho_texts.items())}" for each in drawn]
    return f"Rank correlation of metrics at the branch with the gain of each remedy: {'; '.join(told)}."


def _regrets(axes: Axes, found: Predictors, drawn: list[Ranked]) -> str:
    rule = next(each for each in found.rules if each.name == OTHERS)
    axes.axvline(0, color="0.35", linewidth=1)
    axes.axvline(rule.regret.value, color="#D55E00", linewidth=1.2, linestyle=(0, (5, 1.5)))
    heights = np.arange(len(drawn))
    for height, ranked in zip(heights, drawn, strict=True):
        if ranked.regret.known:
            axes.plot([ranked.regret.low, ranked.regret.high], [height] * 2, color="0.55", linewidth=1.4, solid_capstyle="butt")
    axes.plot([each.regret.value for each in drawn], heights, color="#000000", marker="|", linestyle="none", markersize=11)
    name_rows(axes, [ranked.name for ranked in drawn])
    axes.set_xlabel("outcome of the best remedy minus that of the chosen")
    axes.grid(axis="x", alpha=0.25)
    told = [f"{each.name} {each.regret_text}" for each in drawn]
    return f"Regret of the remedy that a metric chooses: {'; '.join(told)}; {rule.name} {rule.regret_text}."


def _caption(groups: list[Predictors]) -> str:
    n = sorted({len(each.parents) for each in groups})
    fewer = any(len(each.ranked) > _MOST for each in groups)
    return (
        f"Left: Spearman's rho over {' or '.join(map(str, n))} parents within a moment, averaged over moments, of metrics at the "
        "branch with each remedy's gain in the direction of better; grey: where the largest |rho| of all metrics and remedies "
        "stays in 95 % of permutations of parents. Right: regret of the remedy that each metric chooses for a parent that was "
        "left out, mean over parents with 95 % Student's t interval; dashed: the rule to beat, "
        f"{OTHERS_TOLD}; 0: an oracle.{f' The {_MOST} metrics with the largest |rho|; the CSV has all.' if fewer else ''}"
    )
