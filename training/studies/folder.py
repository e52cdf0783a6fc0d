"""The folder of a study: its file, its list of runs, what happened, and which process works on which run."""

import csv
import fcntl
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from plasticity.training.studies.cells import Cell

STUDY, PLAN, EVENTS, REPORT = "study.yaml", "plan.csv", "events.jsonl", "report"
STARTED, FINISHED, STOPPED, FAILED, SKIPPED = "started", "finished", "stopped", "failed", "skipped"
_COLUMNS: Final = (
    *("cell", "condition", "method", "seed", "words", "folder", "seconds", "bytes", "identity"),
    *("moment", "remedy", "repeat"),  # of branches
)
_LOCKS: Final = ".locks"
_LONGEST_MESSAGE: Final = 1000
_WAITS: Final = (0.002, 0.01, 0.05)  # seconds


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study; several processes may work in it.

    Attributes:
        path: Absolute.
    """

    path: Path

    def claim(self, resolved: Mapping[str, Any]) -> None:
        """Makes the folder if it is missing, and writes the study as it is run.

        Raises:
            ValueError: If it holds another study or something else, or it cannot be made.
        """
        file = self.path / STUDY
        try:
            if file.exists():
                known = yaml.safe_load(file.read_text(encoding="utf-8"))
                name = known.get("name") if isinstance(known, Mapping) else None
                if name != resolved["name"]:
                    raise ValueError(f"run_dir={self.path} holds the study {name}, not {resolved['name']}; choose another folder")
            elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ValueError(f"run_dir={self.path} exists, is not empty and holds no study; choose another folder")
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / _LOCKS).mkdir(exist_ok=True)
            write_whole(file, yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True))
        except OSError as error:
            raise ValueError(f"run_dir={self.path} cannot be made: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is damaged: {' '.join(str(error).split())}; choose another folder") from error

    def write_plan(self, cells: Sequence[Cell], costs: Mapping[str, tuple[float | None, int | None]]) -> None:
        """Writes ``plan.csv``.

        Args:
            cells: The runs that are reported, and those that branches start from.
            costs: Processor seconds and bytes on disk by place, of runs that have ended.
        """
        with self.locked("plan"):
            temporary = self.path / f"{PLAN}.tmp"
            with temporary.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(_COLUMNS)
                for number, cell in enumerate(cells):
                    told = (cell.condition, cell.method, cell.seed, shlex.join(cell.words), cell.place)
                    cost = ["" if each is None else each for each in costs.get(cell.place, ("", ""))]
                    origin = cell.origin
                    branch = ("", "", "") if origin is None else (origin.moment, origin.remedy, origin.repeat)
                    writer.writerow((number, *told, *cost, cell.identity, *branch))
            os.replace(temporary, self.path / PLAN)

    def note(self, cell: Cell, event: str, message: str = "") -> None:
        """Adds a line to ``events.jsonl``; one short write, so that lines of several processes do not mix."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        told: dict[str, Any] = {
            "time": now,
            "cell": cell.place,
            "event": event,
            "message": message[:_LONGEST_MESSAGE],
            "identity": cell.identity,
        }
        told["folder"] = (self.path / cell.place).exists()
        line = f"{json.dumps(told)}\n".encode()
        descriptor = os.open(self.path / EVENTS, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # by a process that was killed
            os.write(descriptor, (b"\n" if torn else b"") + line)
        finally:
            os.close(descriptor)

    def last_events(self) -> dict[str, dict[str, Any]]:
        """Returns the last event of each run, by place; torn lines are left out, and runs that were skipped."""
        try:
            lines = (self.path / EVENTS).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        found = {}
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") != SKIPPED and isinstance(event.get("cell"), str):
                found[event["cell"]] = event
        return found

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Waits until no other process holds a lock of that name, and holds it in the block."""
        with self._lock_file(name) as descriptor:
            _lock(descriptor, fcntl.LOCK_EX)
            yield

    @contextmanager
    def taken(self, cell: Cell) -> Iterator[bool]:
        """Takes a run for this process, if no other has it; returns whether it could. It ends with the block or the process."""
        with self._lock_file(cell.place) as descriptor:
            mine = _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for wait in () if mine else _WAITS:  # a process that only checks holds the lock for a moment too
                time.sleep(wait)
                mine = mine or _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mine:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield mine

    def is_taken(self, cell: Cell) -> bool:
        """Tells whether a process works on a run of this study."""
        if not (self.path / _LOCKS / _lock_name(cell.place)).exists():
            return False
        with self._lock_file(cell.place) as descriptor:
            return not _lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def has_taken(self, cells: Sequence[Cell], processes: Set[int]) -> bool:
        """Tells whether one of some processes of this machine works on one of some runs."""
        known = {str(number).encode() for number in processes}
        paths = [(cell, self.path / _LOCKS / _lock_name(cell.place)) for cell in cells] if known else []
        return any(path.is_file() and path.read_bytes() in known and self.is_taken(cell) for cell, path in paths)

    @contextmanager
    def _lock_file(self, name: str) -> Iterator[int]:
        (self.path / _LOCKS).mkdir(exist_ok=True)
        descriptor = os.open(self.path / _LOCKS / _lock_name(name), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Writes a file in one rename, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _lock(descriptor: int, how: int) -> bool:
    """Locks a file; False if another process holds it. On a file system without locks every process gets it."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _lock_name(name: str) -> str:
    return name.replace("/", "~")


def bytes_in(folder: Path) -> int:
    """Returns the bytes that the files in a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
