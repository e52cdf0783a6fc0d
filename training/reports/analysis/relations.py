"""What correlates with an outcome: rank correlations of metrics between methods, and within them over seeds.

A rho pooled over methods is not computed: a method that lowers a metric by construction would be taken for its cause.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from plasticity.training.reports.analysis.statistics import Interval, correlation, generator_of

PERMUTATIONS: Final = 1000


def spearman_between(x: pd.Series, y: pd.Series, groups: pd.Series) -> Interval:
    """Returns Spearman's rho of the groups' means, NaN below three groups; ``n`` counts groups."""
    means = pd.DataFrame({"x": x, "y": y, "group": groups}).dropna().groupby("group", observed=True)[["x", "y"]].mean()
    value = correlation(means["x"].rank().to_numpy(), means["y"].rank().to_numpy())
    return Interval(value, math.nan, math.nan, len(means), "Spearman's rho of the methods' means")


def within_correlations(
    x: pd.DataFrame, y: pd.Series, groups: pd.Series, name: str = ""
) -> tuple[dict[str, Interval], dict[str, float]]:
    """Returns the correlation of ranks within groups of each column of ``x`` with ``y``, and the p of each in the family of all.

    Ranks are taken within a group and centred there, then pooled. Under permutation the outcomes change places among the seeds of
    a group; p is the share of permutations, the observed order included, whose largest correlation of any column is at least as
    large. A missing value counts as the centre of its group.

    Args:
        x: Runs by metrics.
        y: Outcome of the same runs.
        groups: Group, or method, of the same runs.
        name: Of the study; seeds the generator.
    """
    labels = groups.to_numpy()
    members = [np.flatnonzero(labels == label) for label in pd.unique(labels)]
    outcome = _unit(_centred_ranks(y.to_numpy(float), members))
    metrics = np.stack([_unit(_centred_ranks(x[column].to_numpy(float), members)) for column in x], axis=0)
    rho = metrics @ outcome
    largest = _largest_under_permutation(metrics, outcome, members, generator_of(name))
    found: dict[str, Interval] = {}
    ps: dict[str, float] = {}
    for column, value in zip(x, rho, strict=True):
        constant = not metrics[len(found)].any() or not outcome.any()
        number = math.nan if constant else round(float(value), 12)  # 0 up to rounding counts as 0
        found[str(column)] = Interval(
            number, math.nan, math.nan, int(x[column].notna().sum()), "correlation of ranks within methods, centred by method"
        )
        ps[str(column)] = math.nan if constant else float((1 + np.sum(largest >= abs(number) - 1e-12)) / (1 + len(largest)))
    return found, ps


def _largest_under_permutation(
    metrics: NDArray[np.float64],
    outcome: NDArray[np.float64],
    members: Sequence[NDArray[np.intp]],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    permuted = np.tile(outcome, (PERMUTATIONS, 1))
    for places in members:
        permuted[:, places] = generator.permuted(permuted[:, places], axis=1)
    found: NDArray[np.float64] = np.abs(metrics @ permuted.T).max(axis=0)
    return found


def _centred_ranks(x: NDArray[np.float64], members: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
    ranks = np.zeros(len(x))
    for places in members:
        there = places[np.isfinite(x[places])]
        if len(there):
            found = stats.rankdata(x[there])
            ranks[there] = found - found.mean()
    return ranks


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(x))
    return x / length if length > 0 else x
