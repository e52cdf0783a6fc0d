"""Scalars as ``metrics.csv`` (columns ``step,name,value``); beside it series as ``curves.csv``, heatmaps as ``heatmap.csv``."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from metrics.log_values import Heatmap, Rich, Series

METRIC_COLUMNS = ("step", "name", "value")
CURVE_COLUMNS = ("step", "name", "curve", "x", "value")
HEATMAP_COLUMNS = ("step", "name", "task", "units", "bin", "share")


class CsvWriter:
    """Appends every scalar to ``path``, and every series to ``curves.csv`` and every heatmap to ``heatmap.csv`` in its folder.

    A heatmap adds its newest column, one row per bin, and a growing series its newest point; histograms and matrices are not
    written.

    Numbers are written so that reading them back gives the same float; ``nan`` stands for a value that could not be computed.
    The files are flushed at each write, so a killed run loses nothing that was written before.

    Args:
        path: The file of scalars, usually ``<run folder>/metrics.csv``.
        resume_step: The step a resumed run continues from: rows of later steps, and a last line cut off by a kill, are
            dropped. ``None`` starts a new run.

    Raises:
        ValueError: A new run finds rows of another one, or a file to be resumed is not such a table.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self._scalars = _Table(path, METRIC_COLUMNS, resume_step)
        self._curves = _Table(path.with_name("curves.csv"), CURVE_COLUMNS, resume_step)
        self._heatmaps = _Table(path.with_name("heatmap.csv"), HEATMAP_COLUMNS, resume_step)

    def write(self, step: int, scalars: Mapping[str, float], rich: Mapping[str, Rich]) -> None:
        """Appends one row per scalar, one per point of each curve, and one per bin of each heatmap's newest column."""
        self._scalars.append((step, name, _number(value)) for name, value in scalars.items())
        curves = {name: value for name, value in rich.items() if isinstance(value, Series)}
        for name, series in curves.items():
            new = slice(-1, None) if series.grows else slice(None)
            positions = series.x[new].tolist()
            for curve, heights in series.ys.items():
                points = zip(positions, heights[new].tolist(), strict=True)
                self._curves.append((step, name, curve, _number(x), _number(y)) for x, y in points)
        for name, value in rich.items():
            if isinstance(value, Heatmap):
                place = (step, name, int(value.tasks[-1]), int(value.counts[-1]))
                shares = zip(value.bins, value.shares[-1].tolist(), strict=True)
                self._heatmaps.append((*place, label, _number(share)) for label, share in shares)

    def flush(self) -> None:
        """Has nothing to do: rows leave this process as they are written."""

    def close(self) -> None:
        """Closes the files."""
        for table in (self._scalars, self._curves, self._heatmaps):
            table.close()


class _Table:
    """One append-only CSV file whose first column is the step; the file appears with its first row."""

    def __init__(self, path: Path, columns: Sequence[str], resume_step: int | None) -> None:
        self._path = path
        self._columns = columns
        self._file: TextIO | None = None
        if resume_step is not None and path.exists():
            drop_rows_after(path, columns, resume_step)
        elif path.exists():
            raise ValueError(f"{path} holds another run's rows: resume that run or choose another folder")

    def append(self, rows: Iterable[Sequence[object]]) -> None:
        rows = list(rows)
        if not rows:
            return
        if self._file is None:
            self._file = self._open()
        csv.writer(self._file, lineterminator="\n").writerows(rows)
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> TextIO:
        new = not self._path.exists()
        file = self._path.open("a", encoding="utf-8", newline="")
        if new:
            csv.writer(file, lineterminator="\n").writerow(self._columns)
        return file


def drop_rows_after(path: Path, columns: Sequence[str], step: int) -> None:
    """Rewrites a table without the rows of later steps and without a torn last line.

    The new file replaces the old one in a single rename: a kill in between leaves the old one.

    Args:
        path: The table; its first line holds the column names and its first column the step.
        columns: The column names it must have.
        step: Rows of this step and of earlier ones stay.

    Raises:
        ValueError: The file has other columns, or a complete line without a step.
    """
    temporary = path.with_name(path.name + ".tmp")
    header = ",".join(columns)
    with path.open(encoding="utf-8", errors="replace", newline="") as old:
        first = old.readline()
        if not first.endswith("\n") and header.startswith(first):
            first = header + "\n"  # the kill came while the first line was being written
        if first.rstrip("\r\n") != header:
            raise ValueError(f"{path} begins with {first.rstrip()!r}, expected the columns {header!r}")
        with temporary.open("w", encoding="utf-8", newline="") as new:
            new.write(first)
            for number, line in enumerate(old, start=2):
                if line.endswith("\n") and _step_of(path, number, line) <= step:
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
    os.replace(temporary, path)


def _step_of(path: Path, number: int, line: str) -> int:
    try:
        return int(line.partition(",")[0])
    except ValueError:
        raise ValueError(f"{path} line {number} is {line.rstrip()!r}, expected a row that begins with a step") from None


def _number(value: float) -> str:
    return repr(float(value))  # float() first: a subclass may print itself differently
