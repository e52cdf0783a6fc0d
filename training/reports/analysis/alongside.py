"""What correlates with the outcome: metrics at a moment against the outcome after it."""

import re
from typing import Final

import numpy as np
import pandas as pd

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import run_outcome
from plasticity.training.reports.analysis.relations import spearman_between, within_correlations
from plasticity.training.reports.analysis.statistics import FEWEST
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.specification import Outcome

RELATION_COLUMNS: Final = ["condition", "metric", "n", "groups", "within", "p", "between"]
# Of a metric that was measured several times at each moment; see ``metrics.repeats``. They show how reliable their mean is; as
# metrics of their own they would reduce the significance of the others.
_REPEAT: Final = re.compile(r"_repeat_\d+$")


def what_goes_with(
    comparison: Comparison,
    numbers: Numbers,
    metrics: list[str] | None = None,
    at: float = 0.5,
    outcome: Outcome | None = None,
    id: str = "relations",
) -> pd.DataFrame:
    """Returns how metrics at a moment correlate with the outcome after it: within methods over seeds, and between methods' means.

    Args:
        comparison: The runs.
        numbers: Where they are written down.
        metrics: Names without ``plasticity/``; None for all that are not of single layers or single repeats.
        at: Share of the run; the last row up to there is the metric's.
        outcome: None for the report's, over the rest of the run.
        id: First part of the numbers' ids.

    Returns:
        Columns condition, metric, n (runs), groups (methods), within (rho), p (family-wise, of within), between (rho); NaN where
        there are too few.

    Raises:
        ValueError: If the outcome's part starts before ``at``.
    """
    outcome = outcome or _after(comparison.outcome, at)
    if outcome.part[0] < at:
        raise ValueError(f"correlation with {outcome.name}: its part {outcome.part} starts before the metric's moment, {at:g}")
    table, results = metrics_at(comparison, metrics, at), run_outcome(comparison, outcome)
    rows = []
    for condition in comparison.conditions:
        runs = comparison.runs[(comparison.runs["condition"] == condition) & comparison.runs["counted"]]
        runs = runs[np.isfinite(results[runs.index].to_numpy(float))]
        x = table.reindex(runs.index).dropna(axis=1, how="all")
        x = x.loc[:, x.nunique() > 1]
        if len(runs) < FEWEST or not len(x.columns):
            continue
        name = f"{comparison.name}/{condition}/{id}"
        within, ps = within_correlations(x, results[runs.index], runs["method"], name)
        for metric in x.columns:
            between = spearman_between(x[metric], results[runs.index], runs["method"])
            groups = {"condition": condition, "metric": str(metric), "outcome": outcome.name, "at": f"{at:g}"}
            seeds = sorted({int(seed) for seed in runs["seed"].dropna()})
            n, place = within[metric].n, f"{condition}/{metric}"
            formula = "share of permutations within methods whose largest |rho| of all metrics is as large"
            numbers.add(
                f"{id}/within/{place}", groups, n, len(runs), within[metric].value, None, within[metric].formula, seeds, 2
            )
            numbers.add(f"{id}/p/{place}", groups, n, len(runs), ps[metric], None, formula, seeds, 2)
            numbers.add(f"{id}/between/{place}", groups, between.n, between.n, between.value, None, between.formula, seeds, 2)
            rows.append((condition, metric, n, between.n, within[metric].value, ps[metric], between.value))
    found = pd.DataFrame(rows, columns=RELATION_COLUMNS)
    order = {condition: place for place, condition in enumerate(comparison.conditions)}
    found = found.sort_values("p", kind="stable")
    return found.sort_values("condition", kind="stable", ignore_index=True, key=lambda column: column.map(order))


def metrics_at(comparison: Comparison, metrics: list[str] | None = None, at: float = 0.5) -> pd.DataFrame:
    """Returns the last value of each metric up to a share of the run, runs by metrics without ``plasticity/``."""
    there = [str(name).removeprefix("plasticity/") for name in comparison.values["name"].cat.categories]
    pooled = [name for name in there if f"plasticity/{name}" in comparison.values["name"].cat.categories and "/" not in name]
    pooled = [name for name in pooled if not _REPEAT.search(name)]
    part = [0.0, at if at > 0 else 1e-9]
    return pd.DataFrame(
        {
            name: run_outcome(comparison, Outcome(value=f"plasticity/{name}", part=part, reduce="last"))
            for name in (metrics if metrics is not None else pooled)
        },
        index=comparison.runs.index,
    )


def _after(outcome: Outcome, at: float) -> Outcome:
    part = [max(at, outcome.part[0]), 1.0]
    label = f"{outcome.name}, after {100 * at:g} % of the run"
    return Outcome(outcome.value, part, outcome.reduce, outcome.by, outcome.better, label, outcome.scale, outcome.normalise)
