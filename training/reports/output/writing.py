"""The folder of a report: page, numbers, values, figures and tables."""

import csv
import gzip
import io
import json
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from plasticity.training.reports.analysis.findings import Findings
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, pdf_of
from plasticity.training.reports.output.tables import Table, to_csv, to_latex, to_markdown
from plasticity.training.reports.specification import Figure

PAGE, REPORT = "index.html", "report.json"
_VALUE_COLUMNS: Final = ("run", "condition", "method", "seed", "step", "task", "name", "value")
_OF_BRANCHES: Final = ("moment", "remedy", "repeat", "parent")
_WRITERS: Final = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
_PARTS: Final = ("figures", "tables", "data")


def claim(folder: Path) -> None:
    """Makes the folder, and empties it of the figures and tables of an earlier report.

    Raises:
        ValueError: There is something in it that is no report.
    """
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / REPORT).exists():
            raise ValueError(f"run_dir={folder} exists and holds no report ({REPORT}); choose another folder")
        for part in _PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True)
        if not (folder / REPORT).exists():
            (folder / REPORT).write_text("{}\n")  # marks the folder as a report's, in case writing is interrupted
    except OSError as error:
        raise ValueError(f"run_dir={folder} cannot be made: {error.strerror}") from error
    for part in _PARTS:
        for path in (folder / part).iterdir():
            if path.suffix in (".png", ".pdf", ".csv", ".md", ".tex", ".gz"):
                path.unlink()


def write_values(comparison: Comparison, path: Path) -> None:
    """Writes all values with their groups, run by run, so that memory does not grow with the text."""
    values = comparison.values
    names = [_quoted(str(name)) for name in values["name"].cat.categories]
    shown = told_runs(comparison, path.parent.parent)
    own = [name for name in _OF_BRANCHES if name in shown]
    columns = (*_VALUE_COLUMNS[:4], *own, *_VALUE_COLUMNS[4:])
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=2, fileobj=raw, mtime=0) as packed:
        file = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        file.write(f"{','.join(columns)}\n")
        for run, rows in values.groupby("run", sort=True):
            row = shown.loc[run]
            head = ",".join([str(run), *(_cell(row[name]) for name in ("condition", "method", "seed", *own))])
            file.write("".join(_lines(head, rows, names)))
        file.flush()
        file.detach()


def _lines(head: str, rows: pd.DataFrame, names: list[str]) -> list[str]:
    """Returns the lines of a run. What rows share, their step, task and name, is put together once."""
    steps, tasks = rows["step"].to_numpy(), rows["task"].to_numpy(np.int64, na_value=-1)
    ends = np.flatnonzero((np.diff(steps) != 0) | (np.diff(tasks) != 0)) + 1
    codes, values, lines = rows["name"].cat.codes.tolist(), rows["value"].tolist(), list[str]()
    for first, last in pairwise([0, *ends.tolist(), len(rows)]):
        start = f"{head},{steps[first]},{tasks[first] if tasks[first] >= 0 else ''},"
        lines += [f"{start}{names[code]},{value!r}\n" for code, value in zip(codes[first:last], values[first:last], strict=True)]
    return lines


def write_runs(comparison: Comparison, outcomes: Mapping[str, pd.Series], path: Path) -> None:
    """Writes one row for each run, its outcomes among the columns; folders relative to that of the report."""
    table = told_runs(comparison, path.parent.parent)
    for name, values in outcomes.items():
        table[name] = values
    table.to_csv(path, index_label="run")


def told_runs(comparison: Comparison, folder: Path) -> pd.DataFrame:
    """Returns the runs as a report lists them: folders relative to its own, columns of branches only if there are some."""
    table = comparison.runs.copy()
    table["folder"] = [seen_from(place, folder) for place in table["folder"]]
    if not (table["parent"] != "").any():
        return table.drop(columns=list(_OF_BRANCHES))
    seen = [seen_from(place, folder) if place else "" for place in table["parent"]]
    table["words"] = [_from_parent(words, place) for words, place in zip(table["words"], seen, strict=True)]
    table["parent"] = seen
    return table


def _from_parent(words: str, parent: str) -> str:
    """Returns the line that repeats a branch with another path to its parent."""
    if not parent or not words:
        return words
    return shlex.join(f"branch.run={parent}" if word.startswith("branch.run=") else word for word in shlex.split(words))


def write_figure(figure: Figure, drawing: Drawing, png: bytes, folder: Path) -> None:
    """Writes a figure as PNG and PDF, and what is drawn as CSV."""
    (folder / f"{figure.id}.png").write_bytes(png)
    (folder / f"{figure.id}.pdf").write_bytes(pdf_of(drawing.figure))
    drawing.data.to_csv(folder / f"{figure.id}.csv", index=False)


def write_tables(tables: Mapping[str, Table], folder: Path) -> None:
    """Writes each table that has rows as CSV, Markdown and LaTeX."""
    for table in tables.values():
        for ending, written in _WRITERS.items() if table.rows else ():
            (folder / f"{table.id}.{ending}").write_text(written(table), encoding="utf-8")


def write_report(
    comparison: Comparison,
    found: Findings,
    numbers: Numbers,
    figures: Mapping[str, Drawing],
    not_drawn: Mapping[str, str],
    path: Path,
) -> None:
    """Writes ``report.json``: every number of the page, the answers and warnings, and what the runs were."""
    shown = told_runs(comparison, path.parent)
    content = {
        "title": comparison.title,
        "about": comparison.about,
        "name": comparison.name,
        "baseline": comparison.baseline,
        "conditions": comparison.conditions,
        "methods": comparison.methods,
        "answers": found.answers,
        "published": found.published,
        "warnings": comparison.warnings,
        "notes": comparison.notes,
        "specification": plain(asdict(comparison.spec)),
        "numbers": numbers.records(),
        "figures": [
            {"id": id, "caption": drawing.caption, "alts": [panel.alt for panel in drawing.panels]}
            for id, drawing in figures.items()
        ],
        "not_drawn": dict(not_drawn),
        "runs": plain([{"run": run, **row} for run, row in zip(shown.index, shown.to_dict("records"), strict=True)]),
        "varying_settings": {str(run): dict(row) for run, row in comparison.settings.iterrows()},
        "shared_settings": comparison.config,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_page(text: str, path: Path) -> None:
    """Writes the page in one rename, after all files that it links to."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def seen_from(place: str | Path, folder: Path) -> str:
    """Returns the relative path from one folder to another, which stays right when both are moved together."""
    return Path(os.path.relpath(Path(place).resolve(), folder.resolve())).as_posix()


def plain(value: Any) -> Any:
    """Returns plain containers as JSON has them, None for what is not finite or missing."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _quoted(text: str) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="").writerow([text])
    return file.getvalue()


def _cell(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else "" if pd.isna(value) else str(int(value))
