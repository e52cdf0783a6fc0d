"""Scalars as ``metrics.csv`` (columns ``step,name,value``); next to it series as ``curves.csv``, heatmaps as ``heatmap.csv``."""

import csv
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from plasticity.metrics.log_values import Heatmap, Rich, Series

METRIC_COLUMNS = ("step", "name", "value")
CURVE_COLUMNS = ("step", "name", "curve", "x", "value")
HEATMAP_COLUMNS = ("step", "name", "task", "units", "bin", "share")
_TABLES: Final = {"metrics.csv": METRIC_COLUMNS, "curves.csv": CURVE_COLUMNS, "heatmap.csv": HEATMAP_COLUMNS}


class CsvWriter:
    """Appends every scalar to ``path``, and every series to ``curves.csv`` and every heatmap to ``heatmap.csv`` in its folder.

    A heatmap adds its newest column, one row per bin, and a growing series its newest point; histograms, matrices and arrays
    are not written.

    Numbers are written so that reading them back gives the same float; ``nan`` stands for a value that could not be computed.
    The files are flushed at each write, so a killed run loses nothing that was written before.

    Args:
        path: The file of scalars, usually ``<run folder>/metrics.csv``.
        resume_step: The step a resumed run continues from: rows of later steps, and a last line cut off by a kill, are
            dropped. ``None`` starts a new run.
        saved: What ``state_dict`` returned at that step. Rows of that step which were written later, such as those of the start
            of the next task, are then dropped too, unless the file was edited since.

    Raises:
        ValueError: A new run finds rows of another one, or a file to be resumed is not such a table.
    """

    def __init__(
        self, path: Path, resume_step: int | None = None, saved: Mapping[str, Sequence[int]] = MappingProxyType({})
    ) -> None:
        self._scalars, self._curves, self._heatmaps = (
            _Table(path if columns is METRIC_COLUMNS else path.with_name(name), columns, resume_step, saved.get(name))
            for name, columns in _TABLES.items()
        )

    def state_dict(self) -> dict[str, tuple[int, int]]:
        """Returns the length in bytes and the CRC-32 of each file by its name; (0, 0) of one that has no rows yet."""
        return {table.path.name: (table.length, table.checksum) for table in (self._scalars, self._curves, self._heatmaps)}

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

    def __init__(self, path: Path, columns: Sequence[str], resume_step: int | None, saved: Sequence[int] | None = None) -> None:
        self.path = path
        self.length = self.checksum = 0
        self._columns = columns
        self._file: BinaryIO | None = None
        if resume_step is not None and path.exists():
            unedited = saved is not None and _extent(path, saved[0]) == tuple(saved)
            drop_rows_after(path, columns, resume_step, saved[0] if saved is not None and unedited else None)
            self.length, self.checksum = _extent(path)
        elif path.exists():
            raise ValueError(f"{path} holds another run's rows: resume that run or choose another folder")

    def append(self, rows: Iterable[Sequence[object]]) -> None:
        rows = list(rows)
        if not rows:
            return
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows([self._columns, *rows] if self.length == 0 else rows)
        data = text.getvalue().encode()
        if self._file is None:
            self._file = self.path.open("ab")
        self._file.write(data)
        self._file.flush()
        self.length, self.checksum = self.length + len(data), zlib.crc32(data, self.checksum)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def table_remarks(folder: Path, saved: Mapping[str, Sequence[int]]) -> list[str]:
    """Returns a line for each file that no longer starts with what it held when a checkpoint was written.

    Args:
        folder: The run folder.
        saved: What ``CsvWriter.state_dict`` returned then.

    Raises:
        ValueError: If a file is not a table of its kind.
    """
    remarks = []
    for name, (length, checksum) in saved.items():
        path = folder / name
        if not path.exists():
            if length:
                remarks.append(f"{path} is missing: its rows up to the checkpoint are lost")
            continue
        _require_columns(path, _TABLES[name])
        found, now = _extent(path, length)
        if found < length:
            remarks.append(f"{path} has been cut: {length - found} of the {length} bytes that it held at the checkpoint are lost")
        elif now != checksum:
            remarks.append(f"{path} has been edited since the checkpoint; its rows stay as they are")
    return remarks


def _extent(path: Path, limit: int | None = None) -> tuple[int, int]:
    """Returns the number of bytes of a file, or of its first ``limit``, and their CRC-32."""
    length = checksum = 0
    with path.open("rb") as file:
        while data := file.read(2**20 if limit is None else min(2**20, limit - length)):
            length, checksum = length + len(data), zlib.crc32(data, checksum)
    return length, checksum


def _require_columns(path: Path, columns: Sequence[str]) -> str:
    """Returns the first line of a table, completed if a kill cut it off; raises ValueError if it names other columns."""
    header = ",".join(columns)
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        first = file.readline()
    if not first.endswith("\n") and header.startswith(first):
        first = header + "\n"
    if first.rstrip("\r\n") != header:
        raise ValueError(f"{path} begins with {first.rstrip()!r}, expected the columns {header!r}")
    return first


def drop_rows_after(path: Path, columns: Sequence[str], step: int, length: int | None = None) -> None:
    """Rewrites a table without the rows of later steps and without a torn last line.

    The new file replaces the old one in a single rename: a kill in between leaves the old one.

    Args:
        path: The table; its first line holds the column names and its first column the step.
        columns: The column names it must have.
        step: Rows of this step and of earlier ones stay.
        length: Bytes that the file had when the run was saved at that step; what was added to it later is removed. None if
            unknown.

    Raises:
        ValueError: The file has other columns, or a complete line without a step.
    """
    temporary = path.with_name(path.name + ".tmp")
    first = _require_columns(path, columns)
    with path.open("rb") as old:
        place = len(old.readline())
        with temporary.open("wb") as new:
            new.write(first.encode())
            for number, line in enumerate(old, start=2):
                known = length is None or place < length
                if known and line.endswith(b"\n") and _step_of(path, number, line.decode("utf-8", "replace")) <= step:
                    new.write(line)
                place += len(line)
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
