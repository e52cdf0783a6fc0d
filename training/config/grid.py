"""A grid: the names of its runs, how each of them ended, and the summary at the end.

``grid.csv`` in the grid's folder has a row for each run that was started: its folder, how it ended, and the swept words that it
was made of. Runs may be in other processes, which write to it in turn.
"""

import csv
import fcntl
import hashlib
import multiprocessing
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from plasticity.settings.plugins import load_plugins
from plasticity.training.config.choices import chosen_from
from plasticity.training.config.command_line import Composer, chosen_files, method_of
from plasticity.training.config.config_store import CHOICES
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.config.words import quoted
from plasticity.training.entry import program
from plasticity.training.stopping import STOP

if TYPE_CHECKING:
    from plasticity.training.run import Outcome

GRID: Final = "grid.csv"
FINISHED: Final = "finished"
_STARTED, _FAILED = "started", "failed: "
_COLUMNS: Final = ("run", "outcome", "words")
_LONGEST_NAME, _HASH = 80, 8
_LONGEST_REASON: Final = 100
_stopped: set[str] = set()  # launches of which this process, a worker, has stopped a job


def run_name(number: int, words: Sequence[str]) -> str:
    r"""Returns a folder name for a run of a grid, ``^\d+(_[A-Za-z0-9.=,+-]{1,80})?$``.

    Lists lose their brackets, their commas become ``+``, and every other character that a file system may refuse becomes ``-``. A
    name that is longer than 80 characters is cut and ends in eight digits of a SHA-256 of all words.

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
    """Claims a folder for a grid, launches it, and prints on the last line which runs failed.

    Args:
        folder: Missing or empty.
        launch: Does each run, here or in other processes; it may raise when one of those was killed.
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
        if not _read(folder):  # nothing ran: the command line is wrong
            _give_back(folder, claimed)
            raise
        print(f"stopped: the launcher failed: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        if not _read(folder):
            _give_back(folder, claimed)
        raise
    return _report(folder)


@dataclass(frozen=True)
class GridRun:
    """Does one run of a grid, here or in another process; the others continue even if it fails.

    Attributes:
        said: The words of the user for each run, from which it is composed and named.
        own: Folder of the user's YAML files.
    """

    said: tuple[tuple[str, ...], ...]
    own: Path | None = None

    def __call__(self, config: DictConfig) -> float:
        """Plans and runs what Hydra composed; returns the last return or accuracy, NaN if the run failed.

        Raises:
            KeyboardInterrupt: If it was stopped: stopping one run of a grid stops the grid.
        """
        hydra = HydraConfig.get()
        words = self.said[hydra.job.num]
        common = frozenset.intersection(*map(frozenset, self.said))
        swept = [_unescaped(word) for word in words if word not in common]
        grid, name = Path(hydra.runtime.output_dir), run_name(hydra.job.num, swept)
        folder = grid / name
        _write(grid, name, _STARTED, swept)
        try:
            outcome = self.run(config, words, [_unescaped(word) for word in words], folder)
        except (Exception, SystemExit) as error:  # plugins and other libraries run here too, and may raise anything
            if not isinstance(error, ValueError | FloatingPointError | OSError):
                traceback.print_exc()
            print(f"stopped: {name}: {' '.join(str(error).split())}", file=sys.stderr)
            _write(grid, name, _FAILED + _reason(error), swept)
            return float("nan")
        except KeyboardInterrupt:
            _write(grid, name, "stopped before its first step", swept)
            raise
        _write(grid, name, FINISHED if outcome.finished else f"stopped at step {outcome.step}", swept)
        print(f"{folder}: {outcome.step} steps")
        if not outcome.finished:
            print(f"Stopped and saved. Continue with:\n  {program()} {shlex.quote(f'resume={folder}')}")
            raise KeyboardInterrupt
        return outcome.score

    def run(self, config: DictConfig, words: Sequence[str], told: Sequence[str], folder: Path) -> "Outcome":
        """Plans and runs.

        Args:
            config: What Hydra composed.
            words: Of this run.
            told: The same words as the user wrote them.
            folder: The run folder.
        """
        from plasticity.training.run import run  # imported here, because the grid's own process may not need it

        values: Any = OmegaConf.to_container(config, resolve=True)
        choices = HydraConfig.get().runtime.choices
        values |= {"run_dir": str(folder), CHOICES: chosen_files(choices, method_of(words))}
        load_plugins(values["plugins"])
        plan = sharing_the_machine(plan_from(values))
        return run(plan, folder, told, settings=chosen_from(self.own, values[CHOICES]))


@dataclass(frozen=True)
class _UntilStopped:
    """Does jobs until one of them is stopped: otherwise a worker would start the next one that it was given.

    Attributes:
        task: Does a job.
        name: Of the launch.
    """

    task: Callable[[DictConfig], float]
    name: str

    def __call__(self, config: DictConfig) -> float:
        if self.name in _stopped:
            raise KeyboardInterrupt
        try:
            return self.task(config)
        except KeyboardInterrupt:
            _stopped.add(self.name)
            raise


def workers() -> set[int]:
    """Returns the process numbers of the workers that a launcher has started here; those on other machines are not among them."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def launch(
    runs: Sequence[Sequence[str]],
    task: Callable[[DictConfig], float],
    folder: Path,
    words: Sequence[str],
    unsaved: Callable[[], bool] | None = None,
) -> None:
    """Gives runs to one of Hydra's launchers, which take any list of word lists.

    Args:
        runs: The words of each run, as Hydra composes them.
        task: Does one of them from what Hydra composed, here or in another process.
        folder: Where their folders will be.
        words: Hydra's own words: which launcher, how it is set up, and where a user's YAML files are.
        unsaved: Tells whether a worker has a run that is not yet saved; None reads it from the folders of a grid.

    Raises:
        HydraException: If there is no such launcher or setting of it.
        Exception: What the launcher raises.
    """
    place = f"hydra.sweep.dir={quoted(str(folder.absolute()))}"
    composer = Composer()
    with composer.hydra():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = composer.launcher_config([*words, place])
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)),
            task_function=_UntilStopped(task, f"{os.getpid()} {time.time()}"),
            config=config,
        )
        with STOP.waiting_for(unsaved or (lambda: bool(workers()) and _STARTED in dict(_read(folder).values()))):
            for job in launcher.launch(runs, initial_job_idx=0):
                _ = job.return_value  # raises what ended the job


def _unescaped(word: str) -> str:
    """Returns a word as it was written: in the values of a sweep Hydra escapes what needs no escape."""
    return word.replace("\\:", ":")


def sharing_the_machine(plan: Plan) -> Plan:
    """Returns the plan of a run with others around it. Its config is as it was, because a run that continues may be alone."""
    threads = "1" if plan.run.threads == "auto" else plan.run.threads
    return replace(plan, run=replace(plan.run, progress=False, threads=threads))


def _claim(folder: Path) -> list[Path]:
    """Makes the folder and an empty ``grid.csv``; returns the folders that it made, the innermost first."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"run_dir={folder} exists and is not empty; choose another, or continue one run with resume=<its folder>"
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
            failed.append(f"{name} (ended without a record)")
    print(f"{len(rows) - len(failed)} of {len(rows)} finished; {folder / GRID} lists the runs")
    if failed:
        sys.stdout.flush()
        print(f"{len(failed)} of {len(rows)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _reason(error: BaseException) -> str:
    """Returns the core of a message: where a value became not finite, or its first sentence."""
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
