"""What the files of one run hold: its settings, its state, and its table; damage is reported in the record, never raised."""

import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from plasticity.training.reports.reading.folders import Place, load_yaml
from plasticity.training.reports.reading.scalars import lost_rows, read_table
from plasticity.training.saving.identity import identity, plugin_digests
from plasticity.training.saving.status import is_alive

STATES: Final = ("finished", "running", "stopped", "failed", "missing", "unreadable")
TWIN: Final = "the same run as"  # start of the reason of a run that does not count, because an equal one does
_LARGEST: Final = 2**63 - 1
_CHECKPOINT: Final = re.compile(r"step_(\d{9,})\.pt")


@dataclass
class Record:
    """One run.

    Attributes:
        place: Where it is.
        config: The resolved settings, empty if they cannot be read.
        known: ``provenance.json``, empty if it cannot be read.
        state: One of ``STATES``.
        step: Steps done, None if not known.
        steps: Steps planned, None if not known.
        status: ``status.json``, empty if there is none.
        error: Why it failed, or what cannot be read.
        remarks: What is damaged and does not matter, in words.
        table: Columns step, task, name, value.
    """

    place: Place
    config: dict[str, Any] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    state: str = "missing"
    step: int | None = None
    steps: int | None = None
    status: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    remarks: list[str] = field(default_factory=list)
    table: pd.DataFrame | None = None

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.place.folder

    @property
    def seed(self) -> int | None:
        """As in its settings, otherwise as in its folder."""
        return whole_number(self.config.get("seed", self.place.seed))

    @property
    def identity(self) -> str:
        """SHA-256 of its settings, "" if they are not known."""
        files = self.known.get("files")
        return identity(self.config, None if files is None else plugin_digests(files)) if self.config else ""

    @property
    def branch(self) -> Mapping[str, Any]:
        """Where it starts in another run, as in its settings; empty for a run that is no branch."""
        return _mapping(self.config.get("branch"))

    @property
    def moment(self) -> int | None:
        """Step at which it starts, None for a run that is no branch."""
        said = whole_number(self.branch.get("step"))  # a checkpoint may stand a few steps after the moment that a study names
        return self.place.moment if said is None else said

    @property
    def repeat(self) -> int | None:
        """Number of the branch among those that differ in nothing but random numbers, None of a run that is no branch."""
        said = whole_number(self.branch.get("repeat")) if self.place.repeat is None else self.place.repeat
        return 0 if said is None and self.moment is not None else said

    @property
    def parent(self) -> Path | None:
        """The run folder that it starts from, which may be gone; None for a run that is no branch."""
        if self.place.trunk is not None:
            return self.place.trunk
        said = self.branch.get("run")
        return self.folder / str(said) if said else None  # absolute, or in a bundle as seen from the run

    @property
    def words(self) -> str:
        """The line that repeats it, in a folder of its own."""
        words = [
            str(word) for word in self.known.get("overrides") or () if str(word).partition("=")[0] not in ("run_dir", "resume")
        ]
        return " ".join(["python run_agent.py", *map(shlex.quote, words)]) if self.known.get("overrides") is not None else ""

    @property
    def choices(self) -> dict[str, str]:
        """Words by which groups were chosen, such as ``env: catch``."""
        found = {**_mapping(self.config.get("choices")), **_mapping(self.known.get("choices"))}
        return {str(key): str(value) for key, value in found.items() if value is not None}


def read_record(place: Place) -> Record:
    """Reads the files of a run; damaged files give a record that reports the damage."""
    record = Record(place)
    if not place.folder.is_dir():
        record.error = place.outcome.removeprefix("failed: ") if place.outcome else "its folder is missing"
        record.state = "failed" if place.outcome.startswith("failed") else "missing"
        return record
    _read_settings(record)
    _read_table(record)
    _find_state(record)
    return record


def _read_settings(record: Record) -> None:
    try:
        record.config = _checked(_whole(load_yaml(record.folder / "config.yaml"), "config.yaml"))
        record.steps = int(record.config["steps"])
    except ValueError as error:
        record.error = str(error)
    record.known = {key: value for key, value in _json(record, "provenance.json").items() if _fits(key, value)}
    record.status = _json(record, "status.json")
    if record.status and record.status.get("state") not in STATES:
        record.remarks.append(f"status.json has state={record.status.get('state')!r}, expected one of {', '.join(STATES[:4])}")


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config that has what a report reads.

    Raises:
        ValueError: It has not.
    """
    for name in ("steps", "seed"):
        if whole_number(config.get(name)) is None:
            raise ValueError(f"config.yaml has {name}={config.get(name)!r}, expected a whole number from 0 to {_LARGEST}")
    if not isinstance(config.get("interventions"), Mapping):
        raise ValueError(f"config.yaml has interventions={config.get('interventions')!r}, expected their settings by name")
    return config


def _fits(key: str, value: Any) -> bool:
    """Returns whether an entry of ``provenance.json`` has its type; one of another type counts as missing."""
    if key in ("overrides", "resumed"):
        kind = str if key == "overrides" else Mapping
        return isinstance(value, list) and all(isinstance(each, kind) for each in value)
    return key not in ("files", "packages", "machine", "choices") or isinstance(value, Mapping)


def _json(record: Record, name: str) -> dict[str, Any]:
    path = record.folder / name
    try:
        return _whole(json.loads(path.read_text(encoding="utf-8")), name) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        record.remarks.append(f"{name} cannot be read: {' '.join(str(error).split())[:100]}")
        return {}


def whole_number(value: Any) -> int | None:
    """Returns a number of steps or a seed, 100.0 too; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST or value != int(value):
        return None
    return int(value)


def _read_table(record: Record) -> None:
    try:
        record.table, cut = read_table(record.folder / "metrics.csv")
    except ValueError as error:
        record.error = record.error or str(error)
        return
    if cut:
        record.remarks.append("the last line of metrics.csv is torn and left out")
    lost = lost_rows(record.table, whole_number(record.config.get("log_every_steps")) or _LARGEST, record.moment or 0)
    record.remarks += [lost] if lost else []


def _find_state(record: Record) -> None:
    """Takes the state from ``status.json``; of runs without it, from the grid's table, the checkpoints and the last row."""
    last = None if record.table is None or not len(record.table) else int(record.table["step"].max())
    saved = max((int(found[1]) for path in _checkpoints(record.folder) if (found := _CHECKPOINT.fullmatch(path))), default=None)
    reached = max((step for step in (last, saved) if step is not None), default=None)
    said = record.status.get("state")
    step, steps = whole_number(record.status.get("step")), whole_number(record.status.get("steps"))
    record.step = reached if step is None else step
    record.steps = steps if record.steps is None else record.steps
    complete = record.steps is not None and reached is not None and reached >= record.steps
    outcome = record.place.outcome
    if not record.config or record.table is None:
        record.state = (
            said if said in ("failed", "running", "stopped") else "failed" if outcome.startswith("failed") else "unreadable"
        )
    elif said in STATES and not (said == "running" and outcome and outcome != "started"):  # a killed run does not write its end
        record.state = str(said)
    elif outcome.startswith("failed"):
        record.state = "failed"
    else:
        record.state = "finished" if outcome == "finished" or complete else "stopped"
    lost = _lost_end(record) if record.state == "finished" else ""
    if lost:
        record.state, record.error = "unreadable", lost
    told = record.status.get("error") or (outcome.removeprefix("failed: ") if outcome.startswith("failed") else "")
    if record.state not in ("finished", "unreadable") and told:
        record.error = " ".join(str(told).split())
    elif record.state == "running" and not record.error:
        reached_now = f"at step {record.step} of {record.steps}"
        record.error = (
            f"{reached_now} when this was read" if is_alive(record.folder) else f"its process was killed {reached_now} or later"
        )
    elif record.state == "stopped" and not record.error:
        record.error = f"ended at step {record.step} of {record.steps}"


def _lost_end(record: Record) -> str:
    """Returns a remark if the rows of a run that finished end before it did; "" if not, or if that is not known."""
    every, step = whole_number(record.config.get("log_every_steps")), whole_number(record.status.get("step"))
    if not every or step is None or record.table is None:
        return ""
    last = int(record.table["step"].max()) if len(record.table) else 0
    return f"metrics.csv ends at step {last}, the run at step {step}" if last < step // every * every else ""


def _checkpoints(folder: Path) -> list[str]:
    try:
        return [path.name for path in (folder / "checkpoints").iterdir()]
    except OSError:
        return []


def _whole(found: Any, name: str) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} holds no settings")
    return dict(found)


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def number_of(value: Any) -> float:
    """Returns a number of a JSON file, NaN if it is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
