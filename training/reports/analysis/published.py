"""The numbers of a paper next to those of the runs: both, their difference, and how sure it is."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from plasticity.training.reports.analysis.numbers import Numbers, number_text
from plasticity.training.reports.analysis.outcomes import Cell
from plasticity.training.reports.analysis.statistics import FEWEST, LEVEL, Interval
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.specification import Published


def next_to_papers(comparison: Comparison, cells: Mapping[tuple[str, str], Cell], numbers: Numbers) -> list[str]:
    """Returns a sentence for each number of a paper: ``paper x ± y, here x ± y, difference d [interval]``.

    Args:
        comparison: The runs, with the papers' numbers.
        cells: Outcomes by condition and method.
        numbers: Where the differences are written down.
    """
    found = []
    for place, each in enumerate(comparison.spec.published):
        lead = each.method if len(comparison.conditions) == 1 else f"{each.condition}, {each.method}"
        paper = f"paper {_told(each.value, each.spread, each.kind, each.n, each.where)}"
        cell = cells.get((each.condition, each.method))
        if cell is None or cell.n == 0:
            found.append(f"{lead}: {paper}, here not run.")
            continue
        spread = _spread(cell.values) if each.kind == "sd" else _spread(cell.values) / math.sqrt(cell.n)
        kind = "sd" if each.kind == "sd" else "se"
        here = f"here {_told(float(cell.values.mean()), spread if cell.n > 1 else None, kind, cell.n)}"
        groups = {"condition": each.condition, "method": each.method, "outcome": comparison.outcome.name, "where": each.where}
        interval = difference_from_paper(cell.values, each)
        told = numbers.add_interval(f"published/{place}", groups, interval, cell.started, cell.seeds)
        found.append(f"{lead}: {paper}, {here}, difference {told}{'' if interval.known else ', without an interval'}.")
    return found


def difference_from_paper(values: pd.Series, published: Published, level: float = LEVEL) -> Interval:
    """Returns the mean of runs minus a paper's number, with Welch's t interval from the paper's spread and number of runs.

    Without a spread or a number of runs in the paper, or below three runs on a side, there are no bounds.

    Args:
        values: One number a run.
        published: The paper's number. A ``ci`` is read as half the width of Student's 95 % interval.
        level: Of the interval.
    """
    x, m = values.to_numpy(np.float64), published.n or 0
    value = float(np.mean(x)) - published.value if len(x) else math.nan
    if published.spread is None or min(len(x), m) < FEWEST:
        formula = "mean of the runs minus the paper's number; no interval below 3 runs a side, or if the paper names no spread"
        return Interval(value, math.nan, math.nan, len(x), formula, level)
    theirs = published.spread / {"sd": math.sqrt(m), "se": 1.0, "ci": float(stats.t.ppf(0.975, m - 1))}[published.kind]
    a, b = float(np.var(x, ddof=1)) / len(x), theirs**2
    divisor = a**2 / (len(x) - 1) + b**2 / (m - 1)
    freedom = (a + b) ** 2 / divisor if divisor > 0 else float(len(x) + m - 2)
    formula = "mean of the runs minus the paper's number, Welch's t interval from the paper's spread"
    return Interval(value, math.nan, math.nan, len(x), formula, level, math.sqrt(a + b), freedom).at(level)


def _spread(values: pd.Series) -> float:
    return float(np.std(values.to_numpy(np.float64), ddof=1)) if len(values) > 1 else math.nan


def _told(value: float, spread: float | None, kind: str, n: int | None, where: str = "") -> str:
    """Returns a value with its spread, what that is, the number of runs and its place, as far as they are known."""
    about = ", ".join([*([kind] if spread is not None else []), *([f"n = {n}"] if n is not None else [])])
    about = "; ".join(each for each in (about, where) if each)
    if spread is None:
        return number_text(value, None, 4) + (f" ({about})" if about else "")
    decimals = 3 if spread == 0 else max(0, 1 - math.floor(math.log10(spread)))
    return f"{value:.{decimals}f} ± {spread:.{decimals}f} ({about})"
