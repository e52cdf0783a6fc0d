"""Gains: the outcome of a remedy minus that of the unchanged network from the same parent."""

import pandas as pd

from plasticity.training.reports.analysis.statistics import Difference, paired_difference


def gains(remedy: pd.Series, unchanged: pd.Series) -> pd.Series:
    """Returns the remedy minus the unchanged network for the parents that have both, by parent.

    Args:
        remedy: One number a parent at one moment, the mean over its repeats.
        unchanged: The same of the network that continues unchanged.
    """
    parents = remedy.index.intersection(unchanged.index)
    return remedy[parents] - unchanged[parents]


def difference_by_parent(remedy: pd.Series, unchanged: pd.Series) -> Difference:
    """Returns the mean gain and its interval. Pairs start with one network, even if the remedy then changes its structure.

    Args:
        remedy: As of ``gains``.
        unchanged: As of ``gains``.
    """
    parents = remedy.index.intersection(unchanged.index)
    return paired_difference(remedy[parents], unchanged[parents], "parent")
