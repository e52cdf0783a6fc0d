"""Checkpoints on disk: written so that a kill at any moment leaves a readable one, and read without running any code.

A checkpoint names the files that hold most of a replay (``plasticity.agents.replay.segments``), in a folder next to it. They are
on disk before it is, so that it is usable from the moment it appears, and are deleted once no checkpoint names them.

A checkpoint holds tensors and plain containers only. ``torch.load(weights_only=True)`` enforces that when reading; writing
checks it too, so that an unreadable state is refused while the run still holds it.
"""

import os
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from plasticity.agents.replay.segments import delete_unused, require_segments

FOLDER = "checkpoints"
REPLAY = "replay"
_NAME = re.compile(r"step_(\d+)\.pt")
_TEMPORARY = ".tmp"
_ATOMS = (str, bytes, int, float, bool, complex, type(None), Tensor, Parameter, torch.Size, torch.dtype, torch.device)
_ABSENT = object()


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Writes ``<folder>/checkpoints/step_<step>.pt``; until it is complete and on disk, the file does not appear.

    Args:
        folder: The run folder.
        step: The stream's step, at least 0. It is added to the state as ``"step"``.
        state: Nested dicts (string or integer keys), lists, tuples and sets of tensors, numbers, strings, bytes and None.

    Returns:
        The path of the new file.

    Raises:
        TypeError: The state holds anything else; the message names where.
        ValueError: ``step`` is negative, or ``state["step"]`` is another one.
        OSError: The file could not be written, as on a full disk. Earlier checkpoints are as they were.
    """
    if step < 0 or state.get("step", step) != step:
        raise ValueError(f"step={step}: a checkpoint's step is at least 0 and equal to its state's {state.get('step')}")
    payload = {**state, "step": step}
    _require_plain(payload, "state")
    path = checkpoint_path(folder, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch hides a failed write in a RuntimeError
        if not isinstance(cause, OSError):
            raise
        what = f"cannot write checkpoint {path}: {cause.strerror}; earlier checkpoints are intact"
        raise OSError(cause.errno, what) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def load_checkpoint(path: Path, replay: bool = True) -> dict[str, Any]:
    """Returns the state in a checkpoint, on the CPU; its ``"step"`` states which one was read.

    A checkpoint that is damaged or cut off, or needs a replay file that is damaged or missing, is skipped with a warning, and
    the next older one in the same folder is read.

    Args:
        path: The checkpoint.
        replay: Whether its replay will be needed; otherwise its files are not checked.

    Raises:
        ValueError: Neither this checkpoint nor an older one can be read.
    """
    candidates = [p for p in reversed(_checkpoints(path.parent)) if _step_of(p) <= _step_of(path)]
    for candidate in candidates:
        try:
            return _read(candidate, replay)
        except ValueError as error:
            warnings.warn(f"skipping checkpoint {candidate}: {error}", stacklevel=2)
    raise ValueError(f"no readable checkpoint at {path} or before it; {len(candidates)} could not be read")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the path of a run folder's checkpoint of a step, if there is one."""
    return folder / FOLDER / f"step_{step:09d}.pt"


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a run folder, in order."""
    return [_step_of(path) for path in _checkpoints(folder / FOLDER)]


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint with the highest step in a run folder, or None where there is none. Does not open it."""
    paths = _checkpoints(folder / FOLDER)
    return paths[-1] if paths else None


def saved_config(folder: Path) -> dict[str, Any] | None:
    """Returns the config in the newest checkpoint of a run folder that can be read, or None. Tensors stay on disk."""
    found = map(config_in, reversed(_checkpoints(folder / FOLDER)))
    return next((config for config in found if config is not None), None)


def config_in(path: Path) -> dict[str, Any] | None:
    """Returns the config in a checkpoint, or None if it cannot be read or is not one of a run. Tensors stay on disk."""
    with suppress(ValueError):
        config = _open(path, mmap=True).get("config")
        if isinstance(config, dict) and isinstance(config.get("interventions"), dict):
            return config
    return None


def prune(folder: Path, keep: int, at_steps: Collection[int] = ()) -> None:
    """Deletes all but the ``keep`` newest checkpoints of a run folder, replay files that none of those names, and torn writes.

    Args:
        folder: The run folder.
        keep: How many; at least 1. Those of ``at_steps`` do not count.
        at_steps: Steps for each of which the first checkpoint at or after it is kept as well.

    Raises:
        ValueError: ``keep`` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: at least 1 checkpoint must be kept")
    there = _checkpoints(folder / FOLDER)
    for_good = {next((path for path in there if _step_of(path) >= step), None) for step in at_steps}
    old = [path for path in there if path not in for_good][:-keep]
    for path in [*old, *(folder / FOLDER).glob(f"step_*{_TEMPORARY}")]:
        path.unlink(missing_ok=True)
    replay = folder / FOLDER / REPLAY
    if old and replay.is_dir():  # otherwise there is hardly anything to delete, and reading names takes time
        with suppress(ValueError):  # the files of a damaged checkpoint are unknown: wait until it is pruned itself
            delete_unused(replay, [_open(path, mmap=True) for path in _checkpoints(folder / FOLDER)])


def discard_after(folder: Path, step: int) -> None:
    """Deletes the checkpoints of later steps, once a run has resumed from ``step``.

    Without it a damaged newest file would count among the newest for ever, and :func:`prune` would delete good ones instead.
    """
    for path in _checkpoints(folder / FOLDER):
        if _step_of(path) > step:
            path.unlink(missing_ok=True)


def require_run(state: Mapping[str, Any], parts: Collection[str], where: str) -> None:
    """Refuses a readable file that is no checkpoint of a run.

    Args:
        state: What was read.
        parts: Names that a run's checkpoint has.
        where: What the user named, for the message.

    Raises:
        ValueError: In one line that names what it lacks.
    """
    absent = [name for name in parts if name not in state]
    config = state.get("config")
    if not absent and not (isinstance(config, Mapping) and isinstance(config.get("interventions"), Mapping)):
        absent = ["config of a run"]
    if not absent and type(state["step"]) is not int:
        absent = ["step that is a number"]
    if absent:
        raise ValueError(f"{where}: the checkpoint has no {', no '.join(absent)}; another program or version made it")


def require_match(
    saved: Mapping[str, Any],
    requested: Mapping[str, Any],
    ignore: Collection[str] = (),
    sides: tuple[str, str] = ("checkpoint", "command line"),
) -> None:
    """Refuses to continue a run under another configuration.

    Args:
        saved: The checkpoint's configuration, nested plain containers; lists and tuples count as equal.
        requested: The configuration asked for now.
        ignore: Dotted names that may differ; a name covers everything below it.
        sides: What the two are called in the message.

    Raises:
        ValueError: One line that names each differing key with both sides.
    """
    ours, theirs = dict(_leaves(saved)), dict(_leaves(requested))
    differences = [
        f"{sides[0]} has {_setting(name, ours)}, {sides[1]} has {_setting(name, theirs)}"
        for name in sorted(ours.keys() | theirs.keys())
        if not _same(ours.get(name, _ABSENT), theirs.get(name, _ABSENT)) and not _covered(name, ignore)
    ]
    if differences:
        raise ValueError("; ".join(differences))


def _checkpoints(folder: Path) -> list[Path]:
    """Returns the folder's checkpoints from the oldest step to the newest."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in paths if _NAME.fullmatch(path.name)), key=_step_of)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named like a checkpoint, step_<number>.pt")
    return int(match[1])


def _read(path: Path, replay: bool) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare checksums when it reads
            damaged = archive.testzip()
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is damaged or cut off: {_one_line(error)}") from error
    if damaged is not None:
        raise ValueError(f"it is damaged: {damaged} does not match its checksum")
    state = _open(path)
    if replay:
        require_segments(path.parent / REPLAY, state)
    return state


def _open(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Returns the state in a file; with ``mmap`` its tensors stay on disk until they are used."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except UnpicklingError as error:  # its message recommends to read the file with code execution
        raise ValueError("it holds something other than tensors and plain data") from error
    except (OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"it is damaged or cut off: {_one_line(error)}") from error
    if not (isinstance(state, dict) and "step" in state):
        raise ValueError("it is not a checkpoint of this program")
    return state


def _require_plain(value: Any, where: str) -> None:
    """Walks a state and raises at the first entry that reading would refuse. Types are exact: subclasses are refused too."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where} has the key {key!r} ({type(key).__name__}): keys are strings or integers")
            _require_plain(item, f"{where}.{key}")
    elif kind in (list, tuple, set):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    elif kind not in _ATOMS:
        raise TypeError(f"{where} is a {kind.__module__}.{kind.__qualname__}: checkpoints hold tensors and plain data")


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _same(left: Any, right: Any) -> bool:
    return bool(_plain(left) == _plain(right))


def _covered(name: str, ignore: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in ignore)


def _setting(name: str, leaves: Mapping[str, Any]) -> str:
    return f"{name}={leaves[name]!r}" if name in leaves else f"no {name}"
