"""Memory for a replay: on a device or mapped to a file, and written in a ring."""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, folder: Path | None) -> Tensor:
    """Returns an uninitialised tensor; memory is used only as it is written.

    Args:
        shape: Its shape.
        dtype: Its type.
        device: Where it is, if it is not mapped.
        folder: Where to put a file that it is mapped to, or None. The file no longer has a name when this returns: its space is
            free again once the tensor is deleted, even if the program is killed.

    Raises:
        OSError: If there is no room for the file.
    """
    if folder is None:
        return torch.empty(shape, dtype=dtype, device=device)
    folder.mkdir(parents=True, exist_ok=True)
    size = torch.Size(shape).numel()
    descriptor, name = tempfile.mkstemp(suffix=".frames", dir=folder)
    try:
        _reserve(descriptor, max(1, size * dtype.itemsize), folder)
        return torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
    finally:
        os.close(descriptor)
        os.unlink(name)


def put(ring: Tensor, number: int, rows: Tensor) -> None:
    """Writes consecutive rows into a ring, at most once around; row ``number`` goes to ``number % len(ring)``."""
    start, count = number % ring.shape[0], rows.shape[0]
    first = min(count, ring.shape[0] - start)
    ring.narrow(0, start, first).copy_(rows.narrow(0, 0, first) if first < count else rows)
    if first < count:
        ring.narrow(0, 0, count - first).copy_(rows.narrow(0, first, count - first))


def put_latest(ring: Tensor, number: int, total: int, rows: Tensor) -> None:
    """As ``put``, without the rows that are no longer kept once ``total`` rows have been written."""
    late = min(max(0, total - ring.shape[0] - number), rows.shape[0])
    put(ring, number + late, rows[late:])


def _reserve(descriptor: int, size: int, folder: Path) -> None:
    # Writing to a mapped file for which the disk has no room ends the program without a message.
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OSError(error.errno, f"cannot keep {size / 1e9:.1f} GB of observations in {folder}: {error.strerror}") from error
