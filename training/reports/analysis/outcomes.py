"""From the rows of a run to one number, or to one curve of bins; only then over seeds."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from plasticity.training.config.sweeps import sweep_with_scores
from plasticity.training.reports.analysis.statistics import FEWEST, LEVEL
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.reading.records import TWIN
from plasticity.training.reports.specification import Normalise, Outcome

MOST_BINS: Final = 200
_SHOWN: Final = 8
_places: dict[int, tuple["weakref.ref[pd.DataFrame]", NDArray[np.intp], NDArray[np.int_]]] = {}


@dataclass(frozen=True)
class Cell:
    """The runs of one method in one condition; of branches that differ only in random numbers, the mean of each parent.

    Attributes:
        values: Outcome by seed, of the runs that count and have one; of a parent, if all its repeats do.
        runs: Run of each, by seed; the first of a parent's.
        started: Runs, or parents, that were started or planned; runs that are the same count once.
    """

    values: pd.Series
    runs: pd.Series
    started: int

    @property
    def n(self) -> int:
        """Runs that have an outcome."""
        return len(self.values)

    @property
    def complete(self) -> bool:
        """Whether all runs have one."""
        return self.n == self.started > 0

    @property
    def seeds(self) -> list[int]:
        """Of the runs that have one."""
        return [int(seed) for seed in self.values.index]


def run_outcome(comparison: Comparison, outcome: Outcome) -> pd.Series:
    """Returns the one number of each run, NaN of one without finite rows in the part; of runs that did not finish too.

    Rows enter if their step is after the first share of the planned steps (for a branch, of its own steps) and up to the last; if
    ``part`` starts at 0, step 0 enters too. So what is measured at a moment and what is reached after it share no row. NaN rows,
    which mean that a value could not be computed, do not enter; an infinite one makes the outcome infinite.
    """
    rows = rows_of(comparison, outcome.value)
    inside = _inside(comparison, rows, outcome.part)
    if outcome.by == "task":
        inside = inside[inside["task"].notna()].groupby(["run", "task"], as_index=False)["value"].mean()
        inside = inside.rename(columns={"task": "x"})
    else:
        inside = inside.rename(columns={"step": "x"})
    found = _reduced(inside, outcome.reduce)
    if outcome.normalise is not None:
        low, high = _bounds(comparison, outcome.normalise)
        found = (found - low) / (high - low)
    return (found * outcome.scale).reindex(comparison.runs.index).rename(outcome.name)


def _inside(comparison: Comparison, rows: pd.DataFrame, part: Sequence[float]) -> pd.DataFrame:
    """Returns the rows of which the step is after the first share of the planned steps, or 0, and up to the last."""
    share, (first, last) = shares(comparison, rows), part
    return rows[((share > first) | (first == 0)) & (share <= last)]


def shares(comparison: Comparison, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Returns for each row the share of its run's planned steps that was done by then; 0 is where a branch starts."""
    steps = comparison.runs["steps"].fillna(comparison.runs["step"]).astype("Float64").to_numpy(float, na_value=math.nan)
    begins, runs = first_steps(comparison).to_numpy(float), rows["run"].to_numpy()
    found: NDArray[np.float64] = (rows["step"].to_numpy() - begins[runs]) / np.maximum(steps - begins, 1)[runs]
    return found


def first_steps(comparison: Comparison) -> pd.Series:
    """Returns the step at which each run starts: 0, or that of its branch."""
    return comparison.runs["moment"].fillna(0).astype(int)


def _bounds(comparison: Comparison, normalise: Normalise) -> tuple[pd.Series, pd.Series]:
    """Returns for each run the scores that become 0 and 1, NaN where a list has none for its value."""
    runs = comparison.runs.index
    if not normalise.scores:
        return pd.Series(normalise.low, runs), pd.Series(normalise.high, runs)
    sweep = sweep_with_scores(normalise.scores)
    shared = pd.Series(comparison.config.get(sweep.setting, ""), runs)
    values = comparison.settings.get(sweep.setting, shared)
    pairs = [sweep.scores.get(str(value), (math.nan, math.nan)) for value in values]
    return pd.Series([low for low, _ in pairs], runs), pd.Series([high for _, high in pairs], runs)


def without_outcome(comparison: Comparison) -> list[str]:
    """Returns a warning that names the runs that finished and have no finite outcome: their rows are NaN, cut or elsewhere."""
    known = run_outcome(comparison, comparison.outcome).astype(float)
    lost = comparison.runs[comparison.runs["counted"] & ~np.isfinite(known)]
    if not len(lost):
        return []
    told = [f"{row.condition} / {row.method} seed {row.seed}" for row in lost.head(_SHOWN).itertuples()]
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    return [f"{len(lost)} runs finished without a finite {comparison.outcome.value}: {', '.join(told)}{more}."]


def uneven_rows(comparison: Comparison) -> list[str]:
    """Returns a warning that names the groups whose runs have unequal numbers of rows of an outcome or a metric.

    Returns of training have one row for each interval in which an episode ended.
    """
    values, categories = comparison.values, comparison.values["name"].cat.categories
    wanted = {each.value for each in (comparison.outcome, *comparison.spec.also) if not each.value.startswith("rollout/")}
    names = [str(name) for name in categories if name in wanted or str(name).startswith("plasticity/")]
    if not names or not len(comparison.runs):
        return []
    codes, places = values["name"].cat.codes.to_numpy(), categories.get_indexer(pd.Index(names))
    flat = np.bincount(values["run"].to_numpy() * len(categories) + codes, minlength=len(comparison.runs) * len(categories))
    counts = pd.DataFrame(flat.reshape(-1, len(categories))[:, places], comparison.runs.index, names)
    told = []
    for (condition, method), rows in comparison.runs[comparison.runs["counted"]].groupby(["condition", "method"], sort=False):
        mine = counts.loc[rows.index]
        uneven = [name for name in names if mine[name].nunique() > 1]
        if uneven:
            numbers = ", ".join(map(str, sorted(set(mine[uneven[0]]))))
            more = f" and of {len(uneven) - 1} more" if len(uneven) > 1 else ""
            told.append(f"{condition} / {method} ({numbers} of {uneven[0]}{more})")
    return [f"Runs of one group have unequal numbers of rows, as if some were lost: {', '.join(told)}."] if told else []


def cell_of(comparison: Comparison, outcomes: pd.Series, condition: str, method: str) -> Cell:
    """Returns one cell; an outcome that is not finite counts as one that was not reached."""
    rows = comparison.cell(condition, method, counted=False)
    rows = rows[~rows["why_not"].str.startswith(TWIN)]
    known = rows["counted"] & np.isfinite(outcomes[rows.index].astype(float))
    if not rows["moment"].notna().any():
        return _cell(rows[known], outcomes, len(rows))
    lost = rows.loc[~known, "seed"]  # gains are of the same repeats, so that a mean over some of them would be another number
    cell = _cell(rows[known & ~rows["seed"].isin(lost)], outcomes, rows["seed"].nunique())
    return Cell(cell.values.groupby(level=0).mean(), cell.runs.groupby(level=0).first(), cell.started)


def _cell(rows: pd.DataFrame, outcomes: pd.Series, started: int) -> Cell:
    rows = rows.sort_values("seed", kind="stable")
    seeds = pd.Index(rows["seed"].fillna(-1).astype(int), name="seed")
    return Cell(pd.Series(outcomes[rows.index].to_numpy(float), seeds), pd.Series(rows.index, seeds), started)


def rows_of(comparison: Comparison, name: str) -> pd.DataFrame:
    """Returns the rows of a value in all runs without those that are NaN."""
    rows = _named(comparison.values, name)
    return rows[rows["value"].notna()]


def _named(values: pd.DataFrame, name: str) -> pd.DataFrame:
    """Returns the rows of a name in their order. Where each name's rows are is found once for a table, which nothing changes."""
    known = _places.get(id(values))
    if known is None or known[0]() is not values:
        for key in [key for key, (table, *_) in _places.items() if table() is None]:
            del _places[key]
        codes = values["name"].cat.codes.to_numpy()
        order = np.argsort(codes, kind="stable")
        known = _places[id(values)] = (weakref.ref(values), order, codes[order])
    _, order, codes = known
    code = values["name"].cat.categories.get_indexer(pd.Index([name]))[0]
    first, last = np.searchsorted(codes, [code, code + 1]) if code >= 0 else (0, 0)
    return values.take(order[first:last])


def _reduced(rows: pd.DataFrame, reduce: str) -> pd.Series:
    groups = rows.groupby("run")
    if reduce == "area":
        return pd.Series({run: _area(each["x"].to_numpy(float), each["value"].to_numpy()) for run, each in groups}, dtype=float)
    if reduce == "last":
        return rows.sort_values("x", kind="stable").groupby("run")["value"].last()
    return {"mean": groups["value"].mean, "min": groups["value"].min, "max": groups["value"].max}[reduce]()


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Returns the area under a curve divided by its width; the value itself of a single point."""
    order = np.argsort(x, kind="stable")
    width = float(x[order[-1]] - x[order[0]])
    return float(np.trapezoid(y[order], x[order])) / width if width > 0 else float(np.mean(y))


def binned(
    comparison: Comparison,
    name: str,
    by: str = "step",
    bins: int = 0,
    window: int = 1,
    runs: pd.Index | None = None,
    part: Sequence[float] = (0.0, 1.0),
) -> pd.DataFrame:
    """Returns one curve a run: the mean of its rows in each bin, NaN in a bin without rows, which is never filled.

    Args:
        comparison: The runs.
        name: Of the value.
        by: ``step`` or ``task``.
        bins: How many; 0 is one for each step or task there is, 200 at most.
        window: Running mean over this number of bins, the last of them the bin itself; the first bins have shorter ones.
        runs: Only those of one group, whose bins are then their own: others may be measured at other steps. None for all runs.
        part: First and last share of the steps that are shown, as for an outcome.

    Returns:
        Runs by bins; the columns are the last step or task of each bin. Empty if no run has a value. Where all that was measured
        is NaN, there is a bin without values.
    """
    rows = _named(comparison.values, name)
    if runs is not None:
        rows = rows[rows["run"].isin(runs).to_numpy()]
    rows = rows if tuple(part) == (0.0, 1.0) else _inside(comparison, rows, part)
    x = rows["task"] if by == "task" else rows["step"]
    rows, x = rows[x.notna()], x[x.notna()].astype(np.int64)
    distinct, known = np.unique(x.to_numpy()), rows["value"].notna()
    rows, x = rows[known], x[known]
    if not len(x):
        return pd.DataFrame(index=pd.Index([], name="run"), dtype=float)
    if (bins or MOST_BINS) < len(distinct):
        begin = 0 if by == "task" else int(first_steps(comparison)[rows["run"].unique()].min())
        start = min(begin, int(distinct[0])) if part[0] == 0 else int(distinct[0])
        edges = np.linspace(start, int(distinct[-1]), (bins or MOST_BINS) + 1)
        ends = edges[1:]
    else:
        ends = distinct.astype(float)
    place = np.minimum(np.searchsorted(ends, x.to_numpy(), side="left"), len(ends) - 1)
    table = rows["value"].groupby([rows["run"], pd.Series(place, rows.index, name="bin")]).mean().unstack("bin")
    table = table.reindex(columns=range(len(ends))).set_axis(ends, axis=1)
    if window > 1:
        table = table.T.rolling(window, min_periods=1).mean().T.where(table.notna())
    return table


def of_parents(comparison: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    """Returns curves of one group with those that branch from one parent averaged, at the first of them; others as they are.

    Args:
        comparison: The runs.
        table: What ``binned`` returned.
    """
    runs = comparison.runs.loc[table.index]
    if not runs["moment"].notna().any() or not runs["seed"].duplicated().any():
        return table
    first = table.index.to_series().groupby(runs["seed"]).transform("first")
    return table.groupby(first).mean().rename_axis("run")


def over_seeds(table: pd.DataFrame, runs: pd.Index, band: str = "auto") -> pd.DataFrame:
    """Returns the mean over runs of each bin with a pointwise band.

    Args:
        table: What ``binned`` returned.
        runs: Those of one group.
        band: ``sd`` and ``se`` on both sides of the mean, ``t`` a 95 % t interval, ``auto`` the same; no band below three runs.

    Returns:
        Columns mean, low, high and n, the index that of the bins; low and high are NaN where there is no band.
    """
    part = table.reindex(table.index.intersection(runs))
    n, mean, sd = part.notna().sum(), part.mean(), part.std(ddof=1)
    if band in ("auto", "t"):
        half = pd.Series(stats.t.ppf((1 + LEVEL) / 2, np.maximum(n - 1, 1)), part.columns) * sd / np.sqrt(n)
        half = half.where(n >= FEWEST)
    else:
        half = (sd if band == "sd" else sd / np.sqrt(n)).where(n >= FEWEST)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "n": n})
