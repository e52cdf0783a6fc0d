"""Where the runs of a comparison are: grids, studies, single runs, and folders that hold any of them."""

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

RUN_FILES: Final = ("config.yaml", "provenance.json", "status.json", "metrics.csv")
STUDY, PLAN, GRID, TUNING = "study.yaml", "plan.csv", "grid.csv", "tuning"
TRUNKS, BRANCHES = "runs", "branches"  # folders of a study; the runs that branches start from are its trunks
_SKIPPED: Final = {"checkpoints", "report", TUNING, BRANCHES, "arrays", "data", "figures", "tables"}
_SEED: Final = re.compile(r"seed_(\d+)")
_STEP: Final = re.compile(r"step_(\d+)")
_REPEAT: Final = re.compile(r"repeat_(\d+)")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Place:
    """Where a run is, or should be.

    Attributes:
        folder: It may be missing.
        condition: From the study's folders; None if unknown. For a branch, that of its trunk.
        method: From the study's folders. For a branch, that of its trunk.
        seed: From the study's folders.
        outcome: How it ended according to ``grid.csv``, "" if unknown.
        words: The swept words that ``grid.csv`` gives it.
        planned: Whether its study has it, if it is in one.
        identity: The one that the study plans for it, "" if unknown.
        moment: Step of the trunk at which a study's branch starts; None if it is no such branch.
        remedy: Name of what the branch does, "" if it is none.
        repeat: Of the branch, from 0.
        trunk: Run folder that the branch starts from; None if it is no such branch.
    """

    folder: Path
    condition: str | None = None
    method: str | None = None
    seed: int | None = None
    outcome: str = ""
    words: str = ""
    planned: bool = True
    identity: str = ""
    moment: int | None = None
    remedy: str = ""
    repeat: int | None = None
    trunk: Path | None = None


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
    number = re.search(r"\d+", name) if re.match(r"\d|(seed|step|repeat)_", name) else None
    return int(number[0]) if number else 0, name


def _of_grid(folder: Path) -> Iterator[Place]:
    known = {row["run"]: row for row in _rows(folder / GRID) if row.get("run")}
    for name, row in known.items():
        yield Place(folder / name, outcome=row.get("outcome") or "", words=row.get("words") or "")
    for inner in _inner(folder):
        if inner.name not in known:
            yield from _runs(inner)


def _of_study(folder: Path) -> Iterator[Place]:
    """Yields the runs of the plan, then all others that are there, and likewise the branches of a study that has some."""
    planned = _planned(folder)
    yield from planned
    known = {place.folder for place in planned}
    for place in (*_there(folder), *_branches_there(folder)):
        if place.folder not in known:
            yield replace(place, planned=not known)


def _there(folder: Path) -> Iterator[Place]:
    """Yields ``runs/<condition>/<method>/seed_<s>``."""
    for place in _inner(folder / TRUNKS):
        for inner in _inner(place):
            for run in _inner(inner):
                found = _SEED.fullmatch(run.name)
                if found is not None:
                    yield Place(run, place.name, inner.name, int(found[1]))


def _branches_there(folder: Path) -> Iterator[Place]:
    """Yields ``branches/<condition>/<method>/seed_<s>/step_<n>/<remedy>/repeat_<k>``."""
    there = [path for path in (folder / BRANCHES).glob("*/*/seed_*/step_*/*/repeat_*") if path.is_dir()]
    for path in sorted(there, key=lambda each: [_numbers_first(part) for part in each.parts]):
        condition, method, seed, moment, remedy, repeat = path.parts[-6:]
        numbers = [form.fullmatch(name) for form, name in ((_SEED, seed), (_STEP, moment), (_REPEAT, repeat))]
        counted = [int(found[1]) for found in numbers if found is not None]
        if len(counted) == len(numbers):
            yield _branch(folder, (condition, method, counted[0]), counted[1], remedy, counted[2])


def _trunk(folder: Path, condition: str, method: str, seed: int, identity: str = "") -> Place:
    return Place(folder / TRUNKS / condition / method / f"seed_{seed}", condition, method, seed, identity=identity)


def _branch(folder: Path, trunk: tuple[str, str, int], moment: int, remedy: str, repeat: int, identity: str = "") -> Place:
    run = _trunk(folder, *trunk)
    within = folder / BRANCHES / trunk[0] / trunk[1] / f"seed_{trunk[2]}"
    place = within / f"step_{moment}" / remedy / f"repeat_{repeat}"
    told = replace(run, folder=place, identity=identity, trunk=run.folder)
    return replace(told, moment=moment, remedy=remedy, repeat=repeat)


def _planned(folder: Path) -> list[Place]:
    """Returns the runs of a study: as in its plan, otherwise as in its settings."""
    if (folder / PLAN).exists():
        return [place for row in _rows(folder / PLAN) if (place := _of_row(folder, row)) is not None]
    study = study_of(folder) or {}
    left_out = [(cell.get("condition"), cell.get("method")) for cell in study.get("leave_out") or () if isinstance(cell, Mapping)]
    cells = [
        (str(place), str(method)) for place in study.get("conditions") or {"main": []} for method in study.get("methods") or ()
    ]
    trunks = [(*cell, seed) for cell in cells if cell not in left_out for seed in _whole_numbers(study.get("seeds", []))]
    said = study.get("branch")
    branch: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    moments, remedies = _whole_numbers(branch.get("at") or []), branch.get("remedies") or {}
    repeats = _whole_numbers(branch.get("repeats", 1))
    branches = [
        _branch(folder, trunk, moment, str(remedy), repeat)
        for trunk in trunks
        for moment in moments
        for remedy in remedies
        for repeat in repeats
    ]
    return [*(_trunk(folder, *trunk) for trunk in trunks), *branches]


def _of_row(folder: Path, row: Mapping[str, str | None]) -> Place | None:
    """Returns the run of a row of ``plan.csv``, None of a torn one."""
    told = {key: row.get(key) or "" for key in ("condition", "method", "seed", "identity", "moment", "remedy", "repeat")}
    if not (told["condition"] and told["method"] and told["seed"].isdecimal()):
        return None
    trunk = told["condition"], told["method"], int(told["seed"])
    if not told["moment"]:
        return _trunk(folder, *trunk, told["identity"])
    if not (told["remedy"] and told["moment"].isdecimal() and (told["repeat"] or "0").isdecimal()):
        return None
    return _branch(folder, trunk, int(told["moment"]), told["remedy"], int(told["repeat"] or 0), told["identity"])


def _whole_numbers(value: Any) -> list[int]:
    """Returns n as 0 to n - 1, and of a list its whole numbers."""
    numbers = range(value) if isinstance(value, int) else value if isinstance(value, list) else []
    return [number for number in numbers if isinstance(number, int)]


def _rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, none if it is missing or not one."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return list(csv.DictReader(file))
    except (OSError, csv.Error):
        return []
