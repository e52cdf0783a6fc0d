"""Where the runs of a comparison are: grids, studies, single runs, and folders that hold any of them."""

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

RUN_FILES: Final = ("config.yaml", "provenance.json", "status.json", "metrics.csv")
STUDY, PLAN, GRID, TUNING = "study.yaml", "plan.csv", "grid.csv", "tuning"
_SKIPPED: Final = {"checkpoints", "report", TUNING, "branches", "arrays", "data", "figures", "tables"}
_SEED: Final = re.compile(r"seed_(\d+)")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Place:
    """Where a run is, or should be.

    Attributes:
        folder: It may be missing.
        condition: As the study's folders say; None if nothing says it.
        method: As the study's folders say.
        seed: As the study's folders say.
        outcome: What ``grid.csv`` says became of it, "" if nothing.
        words: The swept words that ``grid.csv`` gives it.
        planned: Whether its study has it, if it is in one.
        identity: That which the study plans for it, "" if nothing says it.
    """

    folder: Path
    condition: str | None = None
    method: str | None = None
    seed: int | None = None
    outcome: str = ""
    words: str = ""
    planned: bool = True
    identity: str = ""


def load_yaml(path: Path) -> Any:
    """Returns what a YAML file holds.

    Raises:
        ValueError: If it cannot be read, in one line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # a safe loader, the one in C where there is one
    except OSError as error:
        raise ValueError(f"{path.name} is missing" if not path.exists() else f"{path.name}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(f"{path.name} cannot be read: {told}") from error


def study_of(folder: Path) -> dict[str, Any] | None:
    """Returns what ``study.yaml`` of a study's folder holds, None if it is no study.

    Raises:
        ValueError: If the file cannot be read.
    """
    path = folder / STUDY
    if not path.exists():
        return None
    try:
        found = load_yaml(path)
    except ValueError as error:
        raise ValueError(f"report={folder}: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold settings, <name>: <value>")
    return dict(found)


def find_runs(folder: Path) -> list[Place]:
    """Returns the runs in a folder, each once, those that were planned and are not there among them.

    Raises:
        ValueError: If the folder is missing, or there is no run in it.
    """
    if not folder.is_dir():
        raise ValueError(f"report={folder} is not a folder")
    found = list({place.folder.absolute(): place for place in _runs(folder)}.values())
    if not found:
        raise ValueError(f"report={folder} holds no runs: none of its folders has {', '.join(RUN_FILES)}")
    return found


def _runs(folder: Path) -> Iterator[Place]:
    if (folder / STUDY).exists() or (folder / PLAN).exists():
        yield from _of_study(folder)
    elif (folder / GRID).exists():
        yield from _of_grid(folder)
    elif any((folder / name).exists() for name in RUN_FILES):
        yield Place(folder)
    else:
        for inner in _inner(folder):
            yield from _runs(inner)


def _inner(folder: Path) -> list[Path]:
    try:
        names = sorted((entry.name for entry in os.scandir(folder) if entry.is_dir()), key=_numbers_first)
    except OSError:
        return []
    return [folder / name for name in names if not name.startswith(".") and name not in _SKIPPED]


def _numbers_first(name: str) -> tuple[int, str]:
    """Sorts 2_... before 10_..., and seed_2 before seed_10."""
    number = re.search(r"\d+", name) if re.match(r"\d|seed_", name) else None
    return int(number[0]) if number else 0, name


def _of_grid(folder: Path) -> Iterator[Place]:
    known = {row["run"]: row for row in _rows(folder / GRID) if row.get("run")}
    for name, row in known.items():
        yield Place(folder / name, outcome=row.get("outcome") or "", words=row.get("words") or "")
    for inner in _inner(folder):
        if inner.name not in known:
            yield from _runs(inner)


def _of_study(folder: Path) -> Iterator[Place]:
    """Yields ``runs/<condition>/<method>/seed_<s>``: those of the plan, then all others that are there."""
    planned = _planned(folder)
    for condition, method, seed, identity in planned:
        yield Place(folder / "runs" / condition / method / f"seed_{seed}", condition, method, seed, identity=identity)
    known = {cell[:3] for cell in planned}
    for place in _inner(folder / "runs"):
        for inner in _inner(place):
            for run in _inner(inner):
                found = _SEED.fullmatch(run.name)
                if found is not None and (place.name, inner.name, int(found[1])) not in known:
                    yield Place(run, place.name, inner.name, int(found[1]), planned=not known)


def _planned(folder: Path) -> list[tuple[str, str, int, str]]:
    """Returns condition, method, seed and identity of each run of a study: as in its plan, or else as its settings say."""
    if (folder / PLAN).exists():
        keys = ("condition", "method", "seed", "identity")
        rows = [[row.get(key) or "" for key in keys] for row in _rows(folder / PLAN)]
        return [(place, method, int(seed), told) for place, method, seed, told in rows if place and method and seed.isdecimal()]
    study = study_of(folder) or {}
    seeds = study.get("seeds", [])
    numbers = range(seeds) if isinstance(seeds, int) else seeds if isinstance(seeds, list) else []
    left_out = [(cell.get("condition"), cell.get("method")) for cell in study.get("leave_out") or () if isinstance(cell, Mapping)]
    cells = [
        (str(place), str(method)) for place in study.get("conditions") or {"main": []} for method in study.get("methods") or ()
    ]
    return [
        (place, method, seed, "")
        for place, method in cells
        if (place, method) not in left_out
        for seed in numbers
        if isinstance(seed, int)
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, none if it is missing or not one."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return list(csv.DictReader(file))
    except (OSError, csv.Error):
        return []
