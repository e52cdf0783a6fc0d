"""``status.json``: how far a run is, how it ended, and what it has cost; written during the run, and read by other processes."""

import csv
import fcntl
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

STATUS: Final = "status.json"
RUNNING, FINISHED, STOPPED, FAILED = STATES = ("running", "finished", "stopped", "failed")
REFRESH_SECONDS: Final = 5.0
_UNIT: Final = 1 if sys.platform == "darwin" else 1024  # bytes in which getrusage counts memory
_CHECKPOINT: Final = re.compile(r"step_(\d+)\.pt")
_FAILED_IN_GRID: Final = "failed: "


@dataclass(frozen=True)
class Status:
    """How far a run is, how it ended, and what it has cost.

    Unknown values, as in a folder without ``status.json``, are None. What a killed process spent after its last update, less
    than five seconds or one interval of ``log_every_steps``, is not in the costs.

    Attributes:
        state: ``running``, ``finished``, ``stopped`` (by the user; it can be continued) or ``failed``.
        step: The stream's step.
        steps: The planned number of steps.
        started: When it was first started, ISO 8601.
        ended: When it ended, ISO 8601; None while it runs, and of a process that was killed.
        cpu_seconds: Processor time of the run, in all its processes and before every resume.
        peak_memory_bytes: Largest resident memory of a process of it.
        error: The error that ended it, in one line.
        resumed: How often it was resumed.
        alive: Whether a process runs in the folder now. Not in the file: the lock on the folder shows it.
    """

    state: str
    step: int
    steps: int | None
    started: str | None = None
    ended: str | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None
    resumed: int = 0
    alive: bool = False

    @property
    def killed(self) -> bool:
        """Returns whether its process ended without recording it (``kill -9``, no memory, no power)."""
        return self.state == RUNNING and not self.alive


class StatusFile:
    """Keeps ``status.json`` of a run in this process; a writer of the tracker, which is called at each log line.

    It is replaced in one rename, at most every five seconds. It never ends a run: what cannot be written is left out.

    Args:
        folder: The run folder.
        step: Returns the stream's step.
        steps: The planned number of steps.
        resumed: How often it was resumed, this time included.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, folder: Path, step: Callable[[], int], steps: int, resumed: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._step, self._steps, self._resumed, self._clock = folder / STATUS, step, steps, resumed, clock
        before = (_read(self._path) or {}) if resumed else {}
        self._started = before.get("started") or _now()
        self._seconds_before, self._peak_before = before.get("cpu_seconds") or 0.0, before.get("peak_memory_bytes") or 0
        self._children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        _forget_peak()
        self._cpu_at_start = cpu_seconds()
        self._ended = False
        self._written_at = 0.0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Records that the run is running, and how it ended if the block is left by an exception; otherwise see ``end``."""
        self._write(RUNNING)
        try:
            yield
        except KeyboardInterrupt:
            self.end(STOPPED)
            raise
        except BaseException as error:
            self.end(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise

    def end(self, state: str, error: str | None = None, step: int | None = None) -> None:
        """Records how the run ended, and at which step if that is not the stream's; only the first call counts."""
        if not self._ended:
            self._ended = True
            self._write(state, error, step)

    def write(self, step: int, scalars: Mapping[str, float], rich: Mapping[str, Any]) -> None:
        """Notes how far the run is, if the last note is five seconds old."""
        self.flush()

    def flush(self) -> None:
        """Notes how far the run is, if the last note is five seconds old."""
        if self._clock() - self._written_at >= REFRESH_SECONDS and not self._ended:
            self._write(RUNNING)

    def close(self) -> None:
        """Has nothing to do: ``end`` is called when everything else is closed."""

    def _write(self, state: str, error: str | None = None, step: int | None = None) -> None:
        self._written_at = self._clock()
        status = asdict(
            Status(
                state,
                self._step() if step is None else step,
                self._steps,
                self._started,
                None if state == RUNNING else _now(),
                round(self._seconds_before + cpu_seconds() - self._cpu_at_start, 3),
                max(self._peak_before, self._peak()),
                error,
                self._resumed,
            )
        )
        del status["alive"]
        temporary = self._path.with_name(f"{STATUS}.tmp")
        with suppress(OSError):
            try:
                temporary.write_text(json.dumps(status, indent=2) + "\n")
                os.replace(temporary, self._path)
            finally:
                temporary.unlink(missing_ok=True)

    def _peak(self) -> int:
        """Returns the largest resident memory in bytes of this process, or of a child that has ended, since the run started."""
        own = _high_water()
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return max(own, children * _UNIT if children > self._children else 0)


def read_status(folder: Path) -> Status:
    """Returns how far the run in a folder is and how it ended; changes nothing, and does not disturb a run in progress there.

    A folder without a readable ``status.json``, as of an older version of this program, gets a status from its checkpoints, its
    rows and the ``grid.csv`` next to it. There, a run that was killed cannot be distinguished from one that was stopped.

    Raises:
        ValueError: If it is not a run folder.
    """
    saved, alive = _read(folder / STATUS), is_alive(folder)
    if saved is None:
        return _derived(folder, alive)
    return Status(**{name: saved[name] for name in Status.__dataclass_fields__ if name in saved}, alive=alive)


def is_alive(folder: Path) -> bool:
    """Returns whether a process runs in a folder; False where the file system has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: readers do not take each other for a run
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def cpu_seconds() -> float:
    """Returns the processor time of this process so far and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _read(path: Path) -> dict[str, Any] | None:
    """Returns what a status file holds, or None without one that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    complete = isinstance(found, dict) and found.get("state") in STATES and isinstance(found.get("step"), int)
    return found if complete and "steps" in found else None


def _derived(folder: Path, alive: bool) -> Status:
    try:
        steps = yaml.safe_load((folder / "config.yaml").read_text())["steps"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ValueError(f"{folder} is not a run folder: it holds no readable {STATUS} and no readable config.yaml") from error
    checkpoints = [int(found[1]) for path in folder.glob("checkpoints/*") if (found := _CHECKPOINT.fullmatch(path.name))]
    saved = max(checkpoints, default=0)
    failure = _failure_in_grid(folder)
    if saved >= steps:
        state = FINISHED
    elif alive:
        state = RUNNING
    else:
        state = STOPPED if failure is None else FAILED
    reached = max(saved, _last_row(folder / "metrics.csv"))
    return Status(state, reached, steps, error=failure if state == FAILED else None, resumed=_resumed(folder), alive=alive)


def _resumed(folder: Path) -> int:
    with suppress(OSError, ValueError, AttributeError, TypeError):
        return len(json.loads((folder / "provenance.json").read_text()).get("resumed", ()))
    return 0


def _last_row(path: Path) -> int:
    """Returns the step of the last complete row of a table, 0 without one."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        rows = file.read().split(b"\n")[:-1]
        steps = [int(step) for row in rows[-2:] if (step := row.partition(b",")[0]).isdigit()]
        return steps[-1] if steps else 0
    return 0


def _failure_in_grid(folder: Path) -> str | None:
    """Returns the error of a run according to the ``grid.csv`` next to its folder."""
    place = folder.resolve()
    with suppress(OSError, KeyError, csv.Error), (place.parent / "grid.csv").open(newline="") as file:
        outcomes = [row["outcome"] for row in csv.DictReader(file) if row["run"] == place.name]
        failed = [outcome for outcome in outcomes if outcome.startswith(_FAILED_IN_GRID)]
        return failed[-1].removeprefix(_FAILED_IN_GRID) if failed else None
    return None


def _forget_peak() -> None:
    """Resets this process's peak to what it holds now, where Linux can: other runs may have been in it before."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _high_water() -> int:
    """Returns the largest resident memory of this process in bytes."""
    with suppress(OSError, ValueError, IndexError):  # preferred to getrusage, which also counts what started the process
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
