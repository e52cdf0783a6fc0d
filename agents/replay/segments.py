"""Files that hold consecutive rows of a replay, written once and named by checkpoints.

A checkpoint names the files that it needs. Full files cover a fixed range of rows and are never written again; only the last,
part-filled one is replaced by a longer one. Names contain a file's rows and checksum, so that other contents have another name,
even where a resumed run reaches the same rows again: an older checkpoint finds its own files until they are deleted, and what a
kill cut off has a name that no checkpoint holds.
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

SEGMENTS: Final = "replay_segments"  # key under which a replay's state lists its files
SEGMENT_BYTES: Final = 2**24
_PATTERN: Final = "rows_*.pt"
_TEMPORARY: Final = ".tmp"


class Segment(NamedTuple):
    """One file: its name, its first row, the number behind its last row, and its CRC-32."""

    name: str
    first: int
    end: int
    checksum: int


def rows_per_segment(row_bytes: int) -> int:
    """Returns the power of two whose rows take at most 16 MiB, and not more than 65,536."""
    return min(2**16, 1 << max(0, (SEGMENT_BYTES // max(1, row_bytes)).bit_length() - 1))


def pieces(first: int, end: int, rows: int) -> Iterator[tuple[int, int]]:
    """Divides rows ``first`` to ``end - 1`` at the multiples of ``rows``."""
    while first < end:
        until = min(end, (first // rows + 1) * rows)
        yield first, until
        first = until


def write_segment(folder: Path, first: int, end: int, contents: Mapping[str, Tensor]) -> Segment:
    """Writes a file that appears only when it is complete and on disk.

    Raises:
        OSError: If it could not be written; other files are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    memory = BytesIO()
    torch.save(dict(contents), memory)
    checksum = zlib.crc32(memory.getbuffer())
    segment = Segment(f"rows_{first:012d}_{end:012d}_{checksum:08x}.pt", first, end, checksum)
    temporary = folder / (segment.name + _TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(memory.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / segment.name)
        _sync_folder(folder)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the replay to {folder}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return segment


def read_segment(folder: Path, segment: Segment) -> dict[str, Tensor]:
    """Returns the contents of a file, on the CPU.

    Raises:
        ValueError: If it is missing, cut off or damaged.
    """
    try:
        contents: dict[str, Any] = torch.load(BytesIO(_read(folder, segment)), weights_only=True, map_location="cpu")
    except UnpicklingError as error:
        raise ValueError(f"replay file {folder / segment.name} holds something other than tensors") from error
    return contents


def segments_named(state: Any) -> Iterator[Segment]:
    """Yields the files that a nested state names, those of all replays in it."""
    if isinstance(state, Mapping):
        yield from (Segment(*entry) for entry in state.get(SEGMENTS, ()))
        state = [value for key, value in state.items() if key != SEGMENTS]
    if isinstance(state, list | tuple):
        for value in state:
            yield from segments_named(value)


def require_segments(folder: Path, state: Any) -> None:
    """Reads all files that a nested state names.

    Raises:
        ValueError: If one is missing, cut off or damaged; it is named.
    """
    for segment in segments_named(state):
        _read(folder, segment)


def delete_unused(folder: Path, states: Iterable[Any]) -> None:
    """Deletes the files in ``folder`` that none of the given nested states names, and what interrupted writes left behind."""
    used = {segment.name for state in states for segment in segments_named(state)}
    for path in [*folder.glob(_PATTERN), *folder.glob(_PATTERN + _TEMPORARY)]:
        if path.name not in used:
            path.unlink(missing_ok=True)


def _read(folder: Path, segment: Segment) -> bytes:
    path = folder / segment.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"replay file {path} cannot be read: {error.strerror}") from error
    if zlib.crc32(data) != segment.checksum:
        raise ValueError(f"replay file {path} is damaged: it does not match its checksum")
    return data


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, before a checkpoint names the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
