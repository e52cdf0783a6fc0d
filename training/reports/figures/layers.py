"""Values by layer, averaged over seeds: firing rates of ``heatmap.csv``, and metrics of single layers."""

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import joined

FIRING: Final = "plasticity/firing_rate_heatmap"
MOST_COLUMNS: Final = 120
_SUM: Final = "_sum"  # the end of the name of a residual block's second ReLU
_MOST_FILES: Final = 2000  # heatmaps that are remembered, about 0.1 MB each
FIRST, SECOND = "first ReLUs of blocks", "second ReLUs of blocks"


@dataclass(frozen=True)
class Map:
    """An image over the run.

    Attributes:
        values: Rows by columns, NaN where nothing was measured; the first row is the lowest.
        steps: Of the columns.
        rows: Names of the rows.
        n: Runs that it is averaged over.
    """

    values: np.ndarray
    steps: np.ndarray
    rows: list[str]
    n: int


@dataclass(frozen=True)
class Rates:
    """Distributions of one run, each of one layer at one step.

    Attributes:
        names: Of the layers, shape (distributions,).
        steps: Shape (distributions,).
        units: Units of the layer, shape (distributions,).
        shares: Shape (distributions, bins).
        bins: Names of the bins, from the lowest.
        damaged: Whether rows of an incomplete distribution were left out.
    """

    names: np.ndarray
    steps: np.ndarray
    units: np.ndarray
    shares: np.ndarray
    bins: list[str]
    damaged: bool = False


def damaged_heatmaps(comparison: Comparison) -> list[str]:
    """Returns a warning that names the runs whose heatmaps are damaged, or missing where others of their group have one."""
    told = []
    for _, rows in comparison.runs[comparison.runs["counted"]].groupby(["condition", "method"], sort=False):
        rates = {run: read_rates(comparison.folder_of(int(str(run)))) for run in rows.index}
        measured = any(len(each.names) for each in rates.values())
        for row in rows.itertuples():
            if rates[row.Index].damaged or (measured and not len(rates[row.Index].names)):
                what = "damaged" if rates[row.Index].damaged else "missing"
                told.append(f"{row.condition} / {row.method} seed {row.seed} ({what})")
    return [f"Of some runs heatmap.csv is damaged or missing; figures show what can be read: {joined(told)}."] if told else []


def read_rates(folder: Path) -> Rates:
    """Returns what a run's ``heatmap.csv`` holds, nothing if there is none; a distribution that a kill cut off is left out."""
    path = folder / "heatmap.csv"
    try:
        state = path.stat()
    except OSError:
        return _NOTHING
    return _read_rates(path, state.st_mtime_ns, state.st_size)


_NOTHING: Final = Rates(np.empty(0, object), np.empty(0, np.int64), np.empty(0), np.empty((0, 0)), [])
_DAMAGED: Final = replace(_NOTHING, damaged=True)


@lru_cache(maxsize=_MOST_FILES)
def _read_rates(path: Path, changed: int, size: int) -> Rates:
    columns = ["step", "name", "bin", "units", "share"]
    kinds = {"name": "category", "bin": "category"}
    try:
        data = path.read_bytes()
        table = pd.read_csv(io.BytesIO(data), usecols=columns, dtype=kinds, on_bad_lines="skip")
    except (OSError, ValueError):
        return _DAMAGED
    for column in ("step", "units", "share"):
        table[column] = pd.to_numeric(table[column], errors="coerce")
    lines, table = data.count(b"\n") - 1 + (not data.endswith(b"\n")), table.dropna()
    if not len(table):
        return _DAMAGED if lines else _NOTHING
    place, order = pd.factorize(table["bin"])  # in the order in which they stand there
    starts = np.flatnonzero(place == 0)
    starts = starts[starts + len(order) <= len(table)]
    places = starts[:, None] + np.arange(len(order))
    whole = (place[places] == np.arange(len(order))).all(axis=1)  # rows of one distribution follow each other
    starts, places = starts[whole], places[whole]
    step, units, share = (table[column].to_numpy(float) for column in ("step", "units", "share"))
    names = table["name"].astype(str).to_numpy(object)[starts]
    labels = [str(label) for label in order]
    return Rates(names, step[starts].astype(np.int64), units[starts], share[places], labels, damaged=places.size != lines)


def layers_of(names: list[str], chosen: list[str]) -> list[str]:
    """Returns the layers among names ``<value>/<part>/<layer>``, as ``<part>/<layer>``; chosen ones by either name."""
    return [name for name in names if not chosen or name in chosen or name.rpartition("/")[2] in chosen]


def grouped(layers: list[str]) -> dict[str, list[str]]:
    """Returns first and second ReLUs of residual blocks, ``<block>`` and ``<block>_sum``; other layers are in neither."""
    second = [layer for layer in layers if layer.endswith(_SUM)]
    return {FIRST: [layer for layer in layers if f"{layer}{_SUM}" in second], SECOND: second}


class FiringRates:
    """Shares of units by firing rate, of the runs of a comparison; each file is read once."""

    def __init__(self, comparison: Comparison, value: str = "") -> None:
        self._comparison, self.value = comparison, value or FIRING

    def names(self) -> list[str]:
        """Returns the layers that any run has."""
        found: dict[str, None] = {}
        for run in self._comparison.runs.index[self._comparison.runs["counted"]]:
            found |= dict.fromkeys(read_rates(self._comparison.folder_of(run)).names)
        start = f"{self.value}/"
        return [name.removeprefix(start) for name in found if name.startswith(start)]

    def map(self, runs: pd.Index, layers: list[str] | None) -> Map | None:
        """Returns the mean over runs of the shares, of layers pooled by their units; None where nothing was measured.

        Args:
            runs: Of one group.
            layers: ``None`` for the measurement of the whole network.
        """
        wanted = [self.value] if layers is None else [f"{self.value}/{layer}" for layer in layers]
        tables: list[pd.DataFrame] = []
        bins: list[str] = []
        for run in runs:
            rates = read_rates(self._comparison.folder_of(run))
            chosen = np.zeros(len(rates.names), bool)
            for name in wanted:
                chosen |= rates.names == name
            if chosen.any():
                bins = bins or rates.bins
                steps, place = np.unique(rates.steps[chosen], return_inverse=True)
                total = np.bincount(place, rates.units[chosen])
                weighted = np.zeros((len(steps), len(rates.bins)))
                np.add.at(weighted, place, rates.shares[chosen] * rates.units[chosen, None])
                tables.append(pd.DataFrame(weighted / total[:, None], steps, rates.bins).reindex(columns=bins))
        return averaged(tables, bins) if tables else None


def scalar_map(comparison: Comparison, value: str, runs: pd.Index, layers: list[str]) -> Map | None:
    """Returns the mean over runs of ``<value>/<layer>``, layers by steps."""
    values = comparison.values
    tables = []
    names = [f"{value}/{layer}" for layer in layers]
    part = values[values["name"].isin(names) & values["run"].isin(runs)]
    for _, rows in part.groupby("run"):
        tables.append(rows.pivot_table(index="step", columns="name", values="value", observed=True).reindex(columns=names))
    return averaged(tables, layers) if tables else None


def scalar_layers(comparison: Comparison, value: str) -> list[str]:
    """Returns the layers that have values of that name."""
    names = [str(name) for name in comparison.values["name"].cat.categories]
    return [name.removeprefix(f"{value}/") for name in names if name.startswith(f"{value}/")]


def averaged(tables: list[pd.DataFrame], rows: list[str]) -> Map:
    """Returns the mean over runs: steps are put into bins for each run first, at most 120 of them."""
    steps = np.unique(np.concatenate([table.index.to_numpy(np.int64) for table in tables]))
    ends = steps if len(steps) <= MOST_COLUMNS else np.linspace(0, steps[-1], MOST_COLUMNS + 1)[1:]
    stacked = []
    for table in tables:
        place = np.minimum(np.searchsorted(ends, table.index.to_numpy()), len(ends) - 1)
        if len(np.unique(place)) == len(place):  # nothing to take the mean of
            spread = np.full((len(ends), table.shape[1]), np.nan)
            spread[place] = table.to_numpy(float)
            stacked.append(spread)
        else:
            stacked.append(table.groupby(place).mean().reindex(range(len(ends))).to_numpy(float))
    cube = np.stack(stacked)
    known = np.isfinite(cube)
    total = np.where(known, cube, 0).sum(axis=0)
    mean = np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))
    return Map(mean.T, ends, rows, len(tables))
