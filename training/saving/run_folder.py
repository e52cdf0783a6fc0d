"""The folder of one run: its config, where its code came from, and never twice the same."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import yaml

from plasticity.training.saving.checkpoint import FOLDER, latest_checkpoint
from plasticity.training.saving.provenance import provenance
from plasticity.training.saving.status import STATUS
from plasticity.training.tracking.array_writer import ARRAYS

CONFIG: Final = "config.yaml"
PROVENANCE: Final = "provenance.json"
_GROWING: Final = ("metrics.csv", "curves.csv", "heatmap.csv", "notes.log", "events.out.tfevents.*", STATUS)
_LOCK_WAITS: Final = (0.002, 0.01, 0.05)  # seconds


def default_run_dir(config: Mapping[str, Any], grid: bool, root: Path = Path("runs")) -> Path:
    """Returns a folder's name: date and time, agent, environment, interventions, seed.

    Args:
        config: The run's config, or that of the first run of a grid.
        grid: Whether the folder is for a whole grid, whose runs have folders of their own in it.
        root: Where the folder will be.
    """
    methods = "+".join(config["interventions"]) or "plain"
    time = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    what = "grid" if grid else f"{methods}_seed{config['seed']}"
    chosen = {group: config[group]["name"] for group in ("agent", "env")} | config.get("choices", {})
    return root / f"{time}_{chosen['agent']}_{chosen['env']}_{what}"


def numbered(folder: Path) -> Iterator[Path]:
    """Yields a folder's name, then the same with ``_2``, ``_3`` and so on at its end."""
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}_{number}")


def create_grid_folder(folder: Path) -> Path:
    """Makes a folder of that name, or of the next one that is free, and returns it.

    Raises:
        ValueError: If it cannot be made.
    """
    for path in numbered(folder):
        with _making(path):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if not path.exists():  # a parent folder is a file
                    raise
            else:
                return path
    raise AssertionError("numbers do not end")


def create_run_folder(
    folder: Path,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    free_name: bool = False,
    settings: Sequence[Path] = (),
    structure: str = "",
) -> tuple[Path, dict[str, Any]]:
    """Makes a folder that holds ``config.yaml`` and ``provenance.json`` from the moment it appears.

    It is made under another name and then renamed, which fails if there is something under its name already: of several runs
    that choose one name at once, one gets it.

    Args:
        folder: Missing or empty.
        config: The resolved config.
        overrides: Words of the command line that it was composed from.
        free_name: Whether the next free name may be used; ``run_dir`` of the config is then that name.
        settings: The user's YAML files that the config came from.
        structure: Hash of the names and shapes of the agent's parameters, "" if it is not to be recorded.

    Returns:
        The folder and the config.

    Raises:
        ValueError: If there is something in it already, for a run is never overwritten; or if it cannot be made.
    """
    known = _known(config, overrides, settings, structure)
    for path in numbered(folder):
        config = dict(config) | ({"run_dir": str(path)} if free_name else {})
        if _claimed(path, config, known):
            return path, config
        if not free_name:
            raise ValueError(f"run_dir={folder} exists and is not empty; choose another, or continue it with resume={folder}")
    raise AssertionError("numbers do not end")


def _claimed(folder: Path, config: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Returns whether the folder could be made and was empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return False
    with _making(folder):
        place = folder.resolve()  # a link to an empty folder stays one
        new = _hidden(place)
        new.mkdir(parents=True)
        try:
            _write(new, config, known)
            os.rename(new, place)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            if place.is_dir() and any(place.iterdir()):
                return False
            if not place.is_dir():
                raise
            _write(place, config, known)  # an empty folder that cannot be replaced, such as the root of a mounted disk
    return True


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"run_dir={folder} cannot be made: {error.strerror}") from error


def can_start_again(folder: Path, overrides: Sequence[str]) -> bool:
    """Tells whether a folder holds a run of the same words that was stopped before its first checkpoint."""
    if latest_checkpoint(folder) is not None:
        return False
    with suppress(ValueError):
        return saved_overrides(folder) == list(overrides)
    return False


def start_again(
    folder: Path, config: Mapping[str, Any], overrides: Sequence[str], settings: Sequence[Path] = (), structure: str = ""
) -> None:
    """Makes the folder of a run without a checkpoint as it was when the run started.

    Args:
        folder: The run folder.
        config: The resolved config.
        overrides: Words of the command line.
        settings: The user's YAML files that were read now; those that were read before are kept.
        structure: Hash of the names and shapes of the agent's parameters, "" if it is not to be recorded.
    """
    for pattern in _GROWING:
        for path in folder.glob(pattern):
            path.unlink()
    for name in (FOLDER, ARRAYS):
        shutil.rmtree(folder / name, ignore_errors=True)
    before = known_of(folder).get("files", {})
    read = {place: digest for place, digest in before.items() if place.endswith(".yaml")}
    known = _known(config, overrides, settings, structure)
    _write(folder, config, known | {"files": read | known["files"]})


def update_run_folder(
    folder: Path, config: Mapping[str, Any], overrides: Sequence[str], step: int, settings: Sequence[Path] = ()
) -> None:
    """Replaces config, choices and overrides by those of the continued run, and notes the step and the code of the resume.

    Args:
        folder: The run folder.
        config: The resolved config.
        overrides: Words with which it was started and resumed.
        step: The step at which it continues.
        settings: The user's YAML files that new settings came from.
    """
    known = known_of(folder)
    resumed = [*known.get("resumed", ()), {"step": step, **provenance(config.get("plugins", ()), settings)}]
    said = {"overrides": list(overrides), "choices": config.get("choices", {})}
    _write(folder, config, known | said | {"resumed": resumed})


def remove_run_folder(folder: Path) -> None:
    """Removes a run folder, which is gone from its place at once."""
    place = folder.resolve()
    with suppress(OSError):
        hidden = _hidden(place)
        os.rename(place, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keeps other processes from running in a folder during the block.

    The lock is the operating system's and ends with this process, however it ends; no file stays behind. On a file system without
    locks no process is kept out.

    Raises:
        ValueError: If another process runs in the folder, or there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"{folder} cannot be opened: {error.strerror}") from error
    try:
        _lock(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(f"{folder} is in use: another process runs in it, and two would damage each other's files") from error
    except OSError:  # no locks here, as on some network file systems
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Takes the lock; tries again for a moment, because a process that checks the folder holds a shared lock for that time."""
    for wait in _LOCK_WAITS:
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(wait)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def saved_overrides(folder: Path) -> list[str]:
    """Returns the words with which the run in a folder was started and resumed.

    Raises:
        ValueError: If it is not a run folder.
    """
    return [str(word) for word in known_of(folder)["overrides"]]


def known_of(folder: Path) -> dict[str, Any]:
    """Returns what ``provenance.json`` holds.

    Raises:
        ValueError: If it is not the folder of a run.
    """
    try:
        known = json.loads((folder / PROVENANCE).read_text())
        if not isinstance(known["overrides"], list):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"resume={folder} is not a run folder: it holds no readable {PROVENANCE}") from error
    return dict(known)


def config_remark(folder: Path) -> str | None:
    """Returns a note for the user before the run continues if ``config.yaml`` is missing or has been edited."""
    path = folder / CONFIG
    if not path.exists():
        return f"{path} is missing; it is written again"
    if _digest(path.read_bytes()) == known_of(folder).get("config_sha256"):
        return None
    return f"{path} has been edited, and is written again as it was: words after resume= change settings, as in steps=20000"


def _known(config: Mapping[str, Any], overrides: Sequence[str], settings: Sequence[Path], structure: str) -> dict[str, Any]:
    """Returns what ``provenance.json`` holds when a run starts."""
    said = {"overrides": list(overrides), "choices": config.get("choices", {}), "structure": structure or None}
    said |= {"branch": config["branch"]} if "branch" in config else {}
    return said | provenance(config.get("plugins", ()), settings)


def _write(folder: Path, config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Writes both files, each in one rename, so that a kill leaves the old one or the new one."""
    text = yaml.safe_dump(dict(config), sort_keys=False)
    known = {**known, "config_sha256": _digest(text.encode())}
    for name, content in {PROVENANCE: json.dumps(known, indent=2) + "\n", CONFIG: text}.items():
        temporary = folder / f"{name}.tmp"
        with temporary.open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / name)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hidden(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
