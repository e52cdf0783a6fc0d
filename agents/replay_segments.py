"""Files that hold consecutive rows of a replay, written once and named by checkpoints.

A checkpoint names the files that it needs. Full files cover a fixed range of rows and are never written again; only the last,
part-filled one is replaced by a longer one. Names tell a file's rows and checksum, so that other contents have another name,
even where a resumed run comes by the same rows again: an older checkpoint finds its own files until they are deleted, and what
a kill cut off is under a name that no checkpoint holds.
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
    path = folder / segment.name
    try:
        data = path.read_bytes()
        if zlib.crc32(data) != segment.checksum:
            raise ValueError(f"{path} is damaged: it does not match its checksum")
        contents: dict[str, Any] = torch.load(BytesIO(data), weights_only=True, map_location="cpu")
    except (OSError, UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return contents


def delete_unused(folder: Path, states: Iterable[Mapping[str, Any]]) -> None:
    """Deletes the files in ``folder`` that none of some replay states names, and what interrupted writes left behind."""
    used = {str(entry[0]) for state in states for entry in state["segments"]}
    for path in [*folder.glob(_PATTERN), *folder.glob(_PATTERN + _TEMPORARY)]:
        if path.name not in used:
            path.unlink(missing_ok=True)
