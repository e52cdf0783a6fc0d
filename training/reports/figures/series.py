"""Series of ``curves.csv`` at one moment: singular values by index, or what principal directions add to the outputs by input."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, joined, shown, styles
from plasticity.training.reports.specification import Figure

_MOST: Final = 12  # panels
_MOST_FILES: Final = 200  # curves that are remembered
_WIDE: Final = 100.0  # ratio of values above which the axis is logarithmic
_LEAST: Final = 1e-9  # of the largest value, below which a logarithmic axis shows nothing: rounding of float32
_COLUMNS: Final = ("step", "name", "curve", "x", "value")
Place = tuple[str, str]  # condition and method
Lines = dict[str, tuple[Place, pd.DataFrame]]  # by what the legend calls them


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws one panel for each condition, a line a method, the mean over runs.

    Of series with several curves it draws one panel for each method, a line a curve, of the run with the first seed: what stands
    at one place in two runs, such as the contribution to the output of one input, is not comparable.

    Raises:
        ValueError: No run has such a series.
    """
    conditions = shown("condition", figure.conditions, comparison.conditions)
    methods = shown("method", figure.methods, comparison.methods)
    found = {(each, method): _mean(comparison, figure, each, method) for each in conditions for method in methods}
    found = {place: table for place, table in found.items() if len(table)}
    if not found:
        raise ValueError(f"no run that counts has a series {figure.value} in curves.csv")
    panels = _panels(found)
    style = styles(list(dict.fromkeys(name for lines in panels.values() for name in lines)))
    sheet = Sheet(list(panels), columns=2 if len(panels) > 1 else 1, legend=style)
    wide = _is_wide(found.values())
    alts = []
    for axes, (title, lines) in zip(sheet.axes, panels.items(), strict=True):
        for name, (_, rows) in lines.items():
            axes.plot(rows["x"], rows["value"], color=style[name].colour, linestyle=style[name].dash, linewidth=1.3)
        _finish(axes, figure, wide, max(float(table["value"].max()) for table in found.values()))
        alts.append(f"Series {figure.value} of {title}: {_told(lines, figure, numbers)}.")
    n = sorted({int(table["n"].max()) for table in found.values()})
    runs = f"the mean over {joined(n)} runs" if n != [1] else "one run each"
    data = pd.concat([table.assign(condition=place[0], method=place[1]) for place, table in found.items()], ignore_index=True)
    moments = joined([f"{int(step):,}" for step in sorted(set(data["step"]))])
    scale = f" Vertical axis logarithmic, down to {_LEAST:g} of the largest value." if wide else ""
    caption = f"{figure.value} at step {moments}, {runs}.{scale}"
    return Drawing(sheet.figure, sheet.panels(alts), data, caption, style)


def _panels(found: Mapping[Place, pd.DataFrame]) -> dict[str, Lines]:
    """Returns what each panel shows, by its title."""
    panels: dict[str, Lines] = {}
    one_condition = len({condition for condition, _ in found}) == 1
    if all(table["curve"].nunique() == 1 for table in found.values()):
        for place, table in found.items():
            panels.setdefault(place[0], {})[place[1]] = (place, table)
        return panels
    for place, table in list(found.items())[:_MOST]:
        lines = {str(curve): (place, rows) for curve, rows in table.groupby("curve", sort=False)}
        panels[place[1] if one_condition else ": ".join(place)] = lines
    return panels


def _mean(comparison: Comparison, figure: Figure, condition: str, method: str) -> pd.DataFrame:
    """Returns the columns curve, x, value, n and step: the mean over the runs of a group, or of several curves the first run."""
    runs = comparison.cell(condition, method).sort_values("seed")
    tables = [series_of(Path(run.folder), figure.value, figure.at, run.steps) for run in runs.itertuples()]
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame()
    together = pd.concat(tables if tables[0]["curve"].nunique() == 1 else tables[:1])
    grouped = together.groupby(["curve", "x"], sort=False)["value"]
    made = grouped.agg(value="mean", n="count").reset_index()
    order = {curve: place for place, curve in enumerate(dict.fromkeys(together["curve"]))}
    made = made.sort_values(["curve", "x"], key=lambda column: column.map(order) if column.name == "curve" else column)
    return made.assign(step=int(together["step"].max())).reset_index(drop=True)


def series_of(folder: Path, name: str, at: float | None, steps: object) -> pd.DataFrame:
    """Returns the newest series of a run up to a share of it, columns step, curve, x and value; empty if it has none.

    Args:
        folder: Of the run.
        name: Of the series, with or without ``plasticity/`` and its part; without a part it is the first one found.
        at: Share of the run; None for its end.
        steps: Planned steps.
    """
    path = folder / "curves.csv"
    try:
        state = path.stat()
    except OSError:
        return pd.DataFrame(columns=_COLUMNS)
    table = _read(path, state.st_mtime_ns, state.st_size)
    names = [each for each in dict.fromkeys(table["name"]) if f"/{name}/" in f"/{each}/"]
    rows = table[table["name"].isin(names[:1])]
    if at is not None and not pd.isna(steps):
        rows = rows[rows["step"] <= at * float(steps)]  # type: ignore[arg-type]
    return rows[rows["step"] == rows["step"].max()]


@lru_cache(maxsize=_MOST_FILES)
def _read(path: Path, changed: int, size: int) -> pd.DataFrame:
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a kill may have cut off the last line, and a number in it
        table = pd.read_csv(BytesIO(whole), usecols=list(_COLUMNS), on_bad_lines="skip")
    except (OSError, ValueError):
        return pd.DataFrame(columns=_COLUMNS)
    for column in ("step", "x", "value"):
        table[column] = pd.to_numeric(table[column], errors="coerce")
    return table.dropna()


def _is_wide(tables: Iterable[pd.DataFrame]) -> bool:
    """Tells whether no value is negative and those that are not 0 differ by more than a factor."""
    values = pd.concat([table["value"] for table in tables])
    return bool((values >= 0).all() and values.max() > _WIDE * values[values > 0].min())


def _finish(axes: Axes, figure: Figure, wide: bool, largest: float) -> None:
    axes.set(xlabel="index" if "singular" in figure.value else "x", ylabel=figure.value.rpartition("/")[2])
    if wide:
        axes.set_yscale("log")
        axes.set_ylim(max(axes.get_ylim()[0], _LEAST * largest), 2 * largest)
    axes.grid(alpha=0.25)


def _told(lines: Lines, figure: Figure, numbers: Numbers) -> str:
    """Returns the largest and the smallest value of each line in words; the numbers are written down."""
    told = []
    for name, ((condition, method), rows) in lines.items():
        groups = {"condition": condition, "method": method, "series": figure.value, "curve": str(rows["curve"].iloc[0])}
        n, ends = int(rows["n"].max()), []
        for what, value in (("largest", np.max), ("smallest", np.min)):
            id = f"series/{figure.id}/{condition}/{method}/{groups['curve']}/{what}"
            number = float(value(rows["value"].to_numpy()))
            ends.append(numbers.add(id, groups, n, n, number, None, f"{what} value of the mean series"))
        told.append(f"{name} from {ends[1]} to {ends[0]}")
    return "; ".join(told)
