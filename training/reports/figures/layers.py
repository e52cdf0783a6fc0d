"""Values by layer, averaged over seeds: firing rates of ``heatmap.csv``, and metrics of single layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from plasticity.training.reports.comparison import Comparison

FIRING: Final = "plasticity/firing_rate_heatmap"
MOST_COLUMNS: Final = 120
_SUM: Final = "_sum"  # the end of the name of a residual block's second ReLU
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


def read_heatmap(folder: Path) -> pd.DataFrame:
    """Returns the rows of a run's ``heatmap.csv``, empty if there is none; a last line that a kill cut off is left out."""
    columns = ["step", "name", "bin", "units", "share"]
    try:
        table = pd.read_csv(
            folder / "heatmap.csv", usecols=columns, dtype={"name": "category", "bin": "category"}, on_bad_lines="skip"
        )
    except (OSError, ValueError):
        return pd.DataFrame(columns=columns)
    for column in ("step", "units", "share"):
        table[column] = pd.to_numeric(table[column], errors="coerce")
    return table.dropna()


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
        self._tables: dict[int, pd.DataFrame] = {}

    def names(self) -> list[str]:
        """Returns the layers that any run has."""
        found: dict[str, None] = {}
        for run in self._comparison.runs.index[self._comparison.runs["counted"]]:
            names = self._table(run)["name"]
            found |= dict.fromkeys(str(name) for name in names.unique() if str(name).startswith(f"{self.value}/"))
        return [name.removeprefix(f"{self.value}/") for name in found]

    def map(self, runs: pd.Index, layers: list[str] | None) -> Map | None:
        """Returns the mean over runs of the shares, of layers pooled by their units; None where nothing was measured.

        Args:
            runs: Of one group.
            layers: ``None`` for the measurement of the whole network.
        """
        names = [self.value] if layers is None else [f"{self.value}/{layer}" for layer in layers]
        tables, bins = [], []
        for run in runs:
            rows = self._table(run)
            rows = rows[rows["name"].isin(names)]
            if len(rows):
                bins = bins or list(dict.fromkeys(rows["bin"].astype(str)))
                weighted = (rows["share"] * rows["units"]).groupby([rows["step"], rows["bin"].astype(str)]).sum().unstack()
                total = rows.groupby(["step", rows["bin"].astype(str)])["units"].sum().unstack()
                tables.append((weighted / total).reindex(columns=bins))
        return averaged(tables, bins) if tables else None

    def _table(self, run: int) -> pd.DataFrame:
        if run not in self._tables:
            table = read_heatmap(self._comparison.folder_of(run))
            self._tables[run] = table[table["name"].astype(str).str.startswith(self.value)]
        return self._tables[run]


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
        stacked.append(table.groupby(place).mean().reindex(range(len(ends))).to_numpy(float))
    cube = np.stack(stacked)
    known = np.isfinite(cube)
    total = np.where(known, cube, 0).sum(axis=0)
    mean = np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))
    return Map(mean.T, ends, rows, len(tables))
