"""A grid: the names of its runs, how each of them ended, and what is said of them in the end.

``grid.csv`` in the grid's folder has a row for each run that was begun: its folder, how it ended, and the swept words that it was
made of. Runs may be in other processes, which write to it in turn.
"""

import csv
import fcntl
import hashlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig

from plasticity.settings.plugins import load_plugins
from plasticity.training.config.command_line import chosen_files, with_absolute_plugins
from plasticity.training.config.config_store import CHOICES
from plasticity.training.entry import program

GRID: Final = "grid.csv"
FINISHED: Final = "finished"
_STARTED, _FAILED = "started", "failed: "
_COLUMNS: Final = ("run", "outcome", "words")
_LONGEST_NAME, _HASH = 80, 8
_LONGEST_REASON: Final = 100


def run_name(number: int, words: Sequence[str]) -> str:
    r"""Returns a folder name for a run of a grid, ``^\d+(_[A-Za-z0-9.=,+-]{1,80})?$``.

    Lists lose their brackets, their commas become ``+``, and all else that a file system may not like becomes ``-``. What is
    longer than 80 characters is cut and ends in eight digits of a SHA-256 of all words.

    Args:
        number: Of the run in its grid, from 0.
        words: The swept words, ``name=value``.
    """
    bare = [re.sub(r"[\[\]'\"\\]", "", word).replace(",", "+") for word in sorted(words)]
    told = ",".join(re.sub(r"[^A-Za-z0-9.=+-]", "-", word) for word in bare)
    if len(told) > _LONGEST_NAME:
        digest = hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()[:_HASH]
        told = f"{told[: _LONGEST_NAME - _HASH - 1]}-{digest}"
    return f"{number}_{told}" if told else str(number)


def run_grid(folder: Path, launch: Callable[[], object], made: Sequence[Path] = ()) -> int:
    """Claims a folder for a grid, launches it, and says on the last line which runs failed.

    Args:
        folder: Missing or empty.
        launch: Calls ``grid_run`` for each run, here or in other processes; it may raise when one of those was killed.
        made: Folders that this program made just before, the innermost first.

    Returns:
        The exit code: 0, or 1 if a run failed.

    Raises:
        ValueError: If there is something in the folder already, or it cannot be made.
        KeyboardInterrupt: If the user stopped it.
    """
    claimed = [*made, *_claim(folder)]
    try:
        launch()
    except Exception as error:
        if not _read(folder):  # nothing ran: it is the command line that is wrong
            _give_back(folder, claimed)
            raise
        print(f"stopped: the launcher gave up: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        if not _read(folder):
            _give_back(folder, claimed)
        raise
    return _report(folder)


def grid_run(config: Mapping[str, Any]) -> float:
    """Does one run of a grid, whose other runs go on whatever becomes of it.

    Args:
        config: What Hydra composed for it, as plain containers.

    Returns:
        The last return or accuracy, which sweepers that optimise ask for; NaN if the run failed.

    Raises:
        KeyboardInterrupt: If it was stopped: whoever stops one run of a grid stops the grid.
    """
    from plasticity.training.config.settings import plan_from
    from plasticity.training.run import run  # here, as the grid's own process may have no use for it

    hydra = HydraConfig.get()
    fixed = set(hydra.job.config.override_dirname.exclude_keys)
    words = [str(word).replace("\\:", ":") for word in hydra.overrides.task]  # Hydra escapes what needs no escape
    swept = [word for word in words if word.lstrip("+~").partition("=")[0] not in fixed]
    grid, name = Path(hydra.runtime.output_dir), run_name(hydra.job.num, swept)
    folder = grid / name
    threads = "1" if config["threads"] == "auto" else config["threads"]  # the runs of a grid share the machine
    chosen = chosen_files(hydra.runtime.choices)
    _write(grid, name, _STARTED, swept)
    try:
        load_plugins(config["plugins"])
        plan = plan_from({**config, "run_dir": str(folder), "progress": False, "threads": threads, CHOICES: chosen})
        outcome = run(plan, folder, with_absolute_plugins(words))
    except (Exception, SystemExit) as error:  # somebody else's code runs here too, and may raise anything
        if not isinstance(error, ValueError | FloatingPointError | OSError):
            traceback.print_exc()
        print(f"stopped: {name}: {' '.join(str(error).split())}", file=sys.stderr)
        _write(grid, name, _FAILED + _reason(error), swept)
        return float("nan")
    _write(grid, name, FINISHED if outcome.finished else f"stopped at step {outcome.step}", swept)
    print(f"{folder}: {outcome.step} steps")
    if not outcome.finished:
        print(f"Stopped and saved. Go on with:\n  {program()} {shlex.quote(f'resume={folder}')}")
        raise KeyboardInterrupt
    return outcome.score


def _claim(folder: Path) -> list[Path]:
    """Makes the folder and an empty ``grid.csv``; returns the folders that it made, the innermost first."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"run_dir={folder} exists and is not empty; choose another, or go on with one run by resume=<its folder>"
        )
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / GRID).open("x", newline="") as file:  # of two grids that choose the same name at once, one gets it
            csv.writer(file).writerow(_COLUMNS)
    except OSError as error:
        raise ValueError(f"run_dir={folder} cannot be made: {error.strerror}") from error
    return missing


def _give_back(folder: Path, made: Sequence[Path]) -> None:
    """Removes what was claimed, as far as nothing else is in it."""
    (folder / GRID).unlink(missing_ok=True)
    for path in made:
        if any(path.iterdir()):
            return
        path.rmdir()


def _report(folder: Path) -> int:
    rows = _read(folder)
    failed = []
    for name, (outcome, _) in rows.items():
        if outcome.startswith(_FAILED):
            failed.append(f"{name} ({outcome.removeprefix(_FAILED)})")
        elif outcome != FINISHED:
            failed.append(f"{name} (ended without a word)")
    print(f"{len(rows) - len(failed)} of {len(rows)} finished; {folder / GRID} says what each run is")
    if failed:
        sys.stdout.flush()
        print(f"{len(failed)} of {len(rows)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _reason(error: BaseException) -> str:
    """Returns the gist of a message: where it became not finite, or its first sentence."""
    message = " ".join(str(error).split())
    found = re.search(r"not finite in update \d+", message)
    told = found[0] if found else message.partition(". The run, up to")[0] or type(error).__name__
    return told if len(told) <= _LONGEST_REASON else f"{told[:_LONGEST_REASON]}..."


def _write(grid: Path, name: str, outcome: str, words: Sequence[str]) -> None:
    with _alone(grid):
        rows = _read(grid) | {name: (outcome, shlex.join(words))}
        temporary = grid / f"{GRID}.tmp"
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            writer.writerows((name, *rest) for name, rest in sorted(rows.items(), key=lambda row: int(row[0].partition("_")[0])))
        os.replace(temporary, grid / GRID)


def _read(grid: Path) -> dict[str, tuple[str, str]]:
    """Returns outcome and words of each run by name."""
    path = grid / GRID
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["run"]: (row["outcome"], row["words"]) for row in csv.DictReader(file)}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder: the runs of a grid may end at the same moment."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
