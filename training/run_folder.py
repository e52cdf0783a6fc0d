"""The folder of one run: its config, where its code came from, and never twice the same."""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import yaml

CONFIG: Final = "config.yaml"
PROVENANCE: Final = "provenance.json"
_PACKAGES: Final = ("torch", "numpy", "gymnasium", "ale-py", "mujoco", "dm-control", "scikit-learn", "hydra-core", "tensorboard")


def default_run_dir(config: Mapping[str, Any], grid: bool, root: Path = Path("runs")) -> Path:
    """Returns a folder name that does not exist yet: date and time, agent, environment, interventions, seed.

    Args:
        config: The run's config, or that of the first run of a grid.
        grid: Whether the folder is for a whole grid, whose runs have folders of their own in it.
        root: Where the folder will be.
    """
    methods = "+".join(config["interventions"]) or "plain"
    time = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    what = "grid" if grid else f"{methods}_seed{config['seed']}"
    chosen = {group: config[group]["name"] for group in ("agent", "env")} | config.get("choices", {})
    name = f"{time}_{chosen['agent']}_{chosen['env']}_{what}"
    path, number = root / name, 2
    while path.exists():
        path, number = root / f"{name}_{number}", number + 1
    return path


def create_run_folder(folder: Path, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Makes the folder and writes ``config.yaml`` and ``provenance.json``.

    Args:
        folder: Missing or empty.
        config: The resolved config.
        overrides: Words of the command line that it was composed from.

    Raises:
        ValueError: If there is something in it already, for a run is never overwritten; or if it cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"run_dir={folder} exists and is not empty; choose another, or go on with it by resume={folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).touch(exist_ok=False)  # of two runs that choose the same name at once, one gets it
    except OSError as error:
        raise ValueError(f"run_dir={folder} cannot be made: {error.strerror}") from error
    _write(folder, config, {"overrides": list(overrides), **provenance()})


def update_run_folder(folder: Path, config: Mapping[str, Any], overrides: Sequence[str], step: int) -> None:
    """Makes ``config.yaml`` and the overrides those of the run as it goes on, and notes where and with what code it did.

    Args:
        folder: The run folder.
        config: The resolved config.
        overrides: Words of the command line that it was composed from, the run's own among them.
        step: Where it goes on.
    """
    known = json.loads((folder / PROVENANCE).read_text())
    resumed = [*known.get("resumed", ()), {"step": step, **provenance()}]
    _write(folder, config, known | {"overrides": list(overrides), "resumed": resumed})


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keeps other processes from running in a folder during the block.

    The lock is the operating system's and ends with this process, however it ends; no file stays behind. On a file system that
    has no locks nothing is kept out.

    Raises:
        ValueError: If another process runs in the folder, or there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"{folder} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(f"{folder} is in use: another process runs in it, and two would spoil each other's files") from error
    except OSError:  # no locks here, as on some network file systems
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def saved_overrides(folder: Path) -> list[str]:
    """Returns the words of the command line that the run in a folder was composed from.

    Raises:
        ValueError: If it is not a run folder.
    """
    path = folder / PROVENANCE
    try:
        return [str(word) for word in json.loads(path.read_text())["overrides"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"resume={folder} is not a run folder: it holds no readable {PROVENANCE}") from error


def _write(folder: Path, config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Writes both files, each in one rename, so that a kill leaves the old one or the new one."""
    texts = {CONFIG: yaml.safe_dump(dict(config), sort_keys=False), PROVENANCE: json.dumps(known, indent=2) + "\n"}
    for name, text in texts.items():
        temporary = folder / f"{name}.tmp"
        temporary.write_text(text)
        os.replace(temporary, folder / name)


def provenance() -> dict[str, Any]:
    """Returns git revision, whether the tree had changes, and package versions; None for what is not known."""
    changes = _git("status", "--porcelain")
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _git(*words: str) -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
