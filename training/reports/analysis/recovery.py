"""When a remedy has caught up with a fresh network that started at the same moment of the same parent."""

import math
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell, rows_of, shares
from plasticity.training.reports.analysis.survival import median_time
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.reading.branches import FRESH

BINS: Final = 10
COLUMNS: Final = ["condition", "method", "n", "N", "recovered", "median", "text"]


def recovery_of(comparison: Comparison, cells: dict[tuple[str, str], Cell], numbers: Numbers) -> pd.DataFrame:
    """Returns how many parents of each remedy recover, and their median time.

    The steps after the branch are cut into ten bins. A branch has recovered at the end of the first bin from which on, in every
    bin, the mean of the outcome's rows is at least as good as that of ``fresh`` on the same parent and moment. Bins in which one
    of the two has no rows are not used. A branch that has not recovered is censored at its end.

    Args:
        comparison: The runs.
        cells: By moment and remedy, of the outcome.
        numbers: Where they are written down.

    Returns:
        Columns condition, method, n (parents for which it is known), N (parents), recovered (of n), median (steps after the
        branch, NaN if it is not reached) and text. No rows without a remedy ``fresh``.
    """
    rows = []
    curves = _curves(comparison)
    for (condition, method), cell in cells.items():
        fresh = cells.get((condition, FRESH))
        if fresh is None or method == FRESH:
            continue
        seeds = [seed for seed in cell.seeds if seed in fresh.seeds]
        own, other = (_of_parents(comparison, curves, condition, name) for name in (method, FRESH))
        known = own.index.intersection(other.index)
        bins = [first_bin(own.loc[seed].to_numpy(), other.loc[seed].to_numpy()) for seed in seeds if seed in known]
        bins = [number for number in bins if number >= 0]
        length = _length(comparison, cell)
        times, happened = [(number or BINS) * length / BINS for number in bins], [number > 0 for number in bins]
        median, n, recovered = median_time(times, happened), len(bins), sum(happened)
        groups = {"condition": condition, "method": method, "outcome": comparison.outcome.name}
        id = f"{condition}/{method}"
        formula = (
            f"parents with a first of {BINS} bins from which on its mean is at least as good as that of {FRESH} in every bin"
        )
        numbers.add(f"recovered/{id}", groups, n, cell.started, recovered, None, formula, seeds)
        told = numbers.add(f"recovery/{id}", groups, n, cell.started, median, None, _FORMULA, seeds)
        text = f"{told} steps" if math.isfinite(median) else f"not reached in {n - recovered} of {n}" if n else "–"
        rows.append((condition, method, n, cell.started, recovered, median, text))
    return pd.DataFrame(rows, columns=COLUMNS)


_FORMULA: Final = "median steps after the branch until recovery, by Kaplan and Meier, censored at the branch's end"


def first_bin(remedy: NDArray[np.float64], fresh: NDArray[np.float64]) -> int:
    """Returns the first bin, from 1, from which on a remedy is at least as good in all bins; 0 if there is none, -1 if unknown.

    Args:
        remedy: Mean of each bin, higher is better; NaN of a bin without rows.
        fresh: The same of a fresh network.
    """
    known = np.flatnonzero(np.isfinite(remedy) & np.isfinite(fresh))
    if not len(known):
        return -1
    worse = known[remedy[known] < fresh[known]]
    later = known if not len(worse) else known[known > worse[-1]]
    return int(later[0]) + 1 if len(later) else 0


def _curves(comparison: Comparison) -> pd.DataFrame:
    """Returns the mean of the outcome's rows in each bin, runs by bins; in the direction of better."""
    rows = rows_of(comparison, comparison.outcome.value)
    place = np.clip(np.ceil(shares(comparison, rows) * BINS), 1, BINS).astype(int)
    table = rows["value"].groupby([rows["run"], pd.Series(place, rows.index, name="bin")]).mean().unstack("bin")
    return comparison.outcome.sign * table.reindex(columns=range(1, BINS + 1))


def _of_parents(comparison: Comparison, curves: pd.DataFrame, condition: str, method: str) -> pd.DataFrame:
    """Returns the curves of one remedy at one moment by parent, the mean over its repeats."""
    runs = comparison.cell(condition, method)
    mine = curves.reindex(runs.index[runs.index.isin(curves.index)])
    return mine.groupby(runs.loc[mine.index, "seed"].astype(int)).mean()


def _length(comparison: Comparison, cell: Cell) -> float:
    """Returns the steps of a branch."""
    if not cell.n:
        return math.nan
    row = comparison.runs.loc[cell.runs.iloc[0]]
    return float(row["steps"] - row["moment"])
