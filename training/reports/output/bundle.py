"""A bundle: one zip with settings, metrics and provenance of all runs and with the page, from which it can be rebuilt."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.output.moved import Moved
from plasticity.training.reports.specification import ReportSettings, report_settings

CONTENTS: Final = "bundle.json"
UNPACKED: Final = "bundle"  # folder in a report for the runs of the bundle that it was made from
_RUNS, _REPORT = "runs", "report"
_FILES: Final = {
    "config.yaml", "provenance.json", "status.json", "metrics.csv", "curves.csv", "heatmap.csv", "notes.log",
    "grid.csv", "study.yaml", "plan.csv", "events.jsonl", "chosen.yaml", "chosen.csv",
}  # fmt: skip
_LEFT_OUT: Final = {"checkpoints", "report", "videos"}
_FIRST_DAY: Final = (1980, 1, 1, 0, 0, 0)  # of zip files: the same content is the same file whenever it was packed
_KNOWN_STATES: Final = ("finished", "stopped", "failed")


def write_bundle(path: Path, folders: Sequence[Path], comparison: Comparison, report: Path) -> Path:
    """Packs runs and report; checkpoints, videos and event files stay out.

    The state of a run without ``status.json`` follows from its checkpoints, so it gets one in the bundle.

    Raises:
        ValueError: If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    states = {Path(row["folder"]).resolve(): row for row in comparison.runs.to_dict("records")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
            _put(file, CONTENTS, json.dumps(_contents(comparison, len(folders)), indent=1).encode())
            roots = {folder: f"{_RUNS}/{number}_{folder.resolve().name}" for number, folder in enumerate(folders)}
            moved = Moved(roots)
            for folder, root in roots.items():
                for found in _packed(folder):
                    inside_root = Path(root) / found.relative_to(folder)
                    _put(file, inside_root.as_posix(), moved.content(found, inside_root.parent.as_posix()))
                for place, row in states.items():
                    inside = place.is_relative_to(folder.resolve()) and place.is_dir() and not (place / "status.json").exists()
                    if inside and row["state"] in _KNOWN_STATES:
                        where = place.relative_to(folder.resolve()).as_posix()
                        name = f"{root}/status.json" if where == "." else f"{root}/{where}/status.json"
                        _put(file, name, json.dumps(_status(row)).encode())
            for found in sorted(each for each in report.rglob("*") if each.is_file()):
                inside_name = found.relative_to(report)
                if inside_name.parts[0] != UNPACKED:
                    _put(file, f"{_REPORT}/{inside_name.as_posix()}", found)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"bundle={path} cannot be written: {error.strerror or error}") from error
    return path


def unpack_bundle(path: Path, folder: Path) -> tuple[list[Path], dict[str, str], ReportSettings]:
    """Unpacks the runs of a bundle; returns their folders, the names of the comparison, and what the report shows.

    Raises:
        ValueError: If the file is no bundle, or cannot be unpacked there.
    """
    try:
        with zipfile.ZipFile(path) as file:
            contents = json.loads(file.read(CONTENTS))
            for name in file.namelist():
                if name.startswith(f"{_RUNS}/"):
                    file.extract(name, folder)  # it drops parts of a path that would lead out of the folder
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"report={path} is not a bundle of a report: {' '.join(str(error).split())}") from error
    places = sorted((folder / _RUNS).iterdir(), key=lambda each: int(each.name.partition("_")[0]))
    return places, dict(contents["names"]), report_settings(contents["report"])


def changed(settings: Any) -> Any:
    """Returns settings as plain containers, without those that have their default; ``report_settings`` reads them back."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fresh = {each.name: _default(each) for each in dataclasses.fields(settings)}
        values = {name: getattr(settings, name) for name in fresh}
        return {name: changed(value) for name, value in values.items() if value != fresh[name]}
    return [changed(each) for each in settings] if isinstance(settings, list) else settings


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _contents(comparison: Comparison, folders: int) -> dict[str, Any]:
    names = {name: getattr(comparison, name) for name in ("title", "about", "name", "baseline")}
    return {"names": names, "report": changed(comparison.spec), "folders": folders}


def _status(row: dict[str, Any]) -> dict[str, Any]:
    whole = {name: None if row[name] is None or row[name] != row[name] else int(row[name]) for name in ("step", "steps")}
    return {"state": row["state"], **whole, "error": row["error"] or None}


def _packed(folder: Path) -> Iterator[Path]:
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name not in _LEFT_OUT and not name.startswith("."))
        arrays = "arrays" in Path(place).relative_to(folder).parts
        for name in sorted(names):
            if name in _FILES or (arrays and name.endswith(".npz")):
                yield Path(place) / name


def _put(file: zipfile.ZipFile, name: str, content: Path | bytes) -> None:
    info = zipfile.ZipInfo(name, _FIRST_DAY)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    if isinstance(content, bytes):
        file.writestr(info, content)
        return
    with content.open("rb") as source, file.open(info, "w", force_zip64=True) as target:
        while block := source.read(1 << 20):
            target.write(block)
