"""The scalars of one run: ``metrics.csv`` as a table, the task of each row, and where rows are lost."""

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

_CLOCK: Final = "time/steps_per_second"  # which is written whenever an interval ends
_HEADER: Final = b"step,name,value"
_MOST_TASKS: Final = 2**31 - 2


def read_table(path: Path) -> tuple[pd.DataFrame, bool]:
    """Returns a run's scalars, columns step, task, name and value, and whether a torn last line was left out.

    Raises:
        ValueError: If there is no such table, in one line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name} is missing" if not path.exists() else f"{path.name}: {error.strerror}") from error
    end = data.rfind(b"\n") + 1
    if not data.startswith(_HEADER) or data[len(_HEADER) : len(_HEADER) + 1].strip():
        raise ValueError(f"{path.name} begins with {data[:40]!r}, expected the columns step,name,value")
    kinds: Any = {"step": np.int64, "name": "category", "value": np.float64}
    try:
        table = pd.read_csv(io.BytesIO(data[:end]), dtype=kinds, na_filter=True, on_bad_lines="error")
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise ValueError(f"{path.name} is damaged: {' '.join(str(error).split())[:150]}") from error
    back = np.flatnonzero(np.diff(table["step"].to_numpy()) < 0)
    if len(back):
        raise ValueError(f"{path.name} is damaged: row {int(back[0]) + 3} goes back to step {table['step'].iloc[back[0] + 1]}")
    if table["name"].isna().any():
        raise ValueError(f"{path.name} is damaged: row {int(np.flatnonzero(table['name'].isna())[0]) + 2} has no name")
    table.insert(1, "task", _tasks(table))
    return table, end != len(data)


def _tasks(table: pd.DataFrame) -> pd.api.extensions.ExtensionArray:
    """Returns the task of each row: ``task/number`` stands at the last step of each; later rows belong to the next."""
    if "task/number" not in table["name"].cat.categories:
        return _no_tasks(len(table))
    known = (table["name"] == "task/number") & table["value"].between(0, _MOST_TASKS)
    ends = table.loc[known, ["step", "value"]].sort_values("step")
    if not len(ends):
        return _no_tasks(len(table))
    numbers = np.append(ends["value"].to_numpy().astype(np.int32), np.int32(ends["value"].iloc[-1]) + 1)
    return pd.array(numbers[np.searchsorted(ends["step"].to_numpy(), table["step"].to_numpy())], dtype="Int32")


def _no_tasks(rows: int) -> pd.api.extensions.ExtensionArray:
    return pd.arrays.IntegerArray(np.zeros(rows, np.int32), np.ones(rows, bool))


def lost_rows(table: pd.DataFrame, every: int, begin: int = 0) -> str:
    """Returns between which rows others are missing; "" if none are.

    A run writes ``time/steps_per_second`` at its first step at or after each multiple of ``every``, so that such rows are less
    than two intervals apart, or all of them as far apart as its steps are long.

    Args:
        table: Of the run.
        every: Steps of an interval.
        begin: Step at which the run starts; for a branch, the step of its checkpoint.
    """
    codes = {str(name): code for code, name in enumerate(table["name"].cat.categories)}
    steps = table["step"].to_numpy()[table["name"].cat.codes.to_numpy() == codes.get(_CLOCK, -2)]
    gaps = np.diff(steps, prepend=begin)
    wide = np.flatnonzero((gaps >= 2 * every) & (gaps > (np.median(gaps) if len(gaps) else 0)))
    return "" if not len(wide) else f"metrics.csv has no rows between steps {steps[wide[0]] - gaps[wide[0]]} and {steps[wide[0]]}"
