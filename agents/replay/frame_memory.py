"""Memory for a replay: on a device or mapped to a file, and written in a ring."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy.typing as npt
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


class Ring:
    """Tensors whose rows are written in turn, at most once around at a time; number g goes to row g % size of each.

    What is written comes from the host. On the CPU it goes through NumPy views of the same memory: for a single row that takes a
    tenth of the time in which a tensor is narrowed and copied to.

    Args:
        tensors: Of as many rows each, on one device.

    Attributes:
        size: Their number of rows.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.size = tensors[0].shape[0]
        self._on_host = tensors[0].device.type == "cpu"
        self._views: list[Any] = [tensor.numpy() for tensor in tensors] if self._on_host else list(tensors)

    def put(self, number: int, *rows: npt.NDArray[Any]) -> None:
        """Writes consecutive rows, as many into each tensor; the first of them has that number."""
        start, count = number % self.size, len(rows[0])
        if start + count > self.size:
            first = self.size - start
            self.put(start, *(each[:first] for each in rows))
            self.put(0, *(each[first:] for each in rows))
            return
        for view, new in zip(self._views, rows, strict=True):
            view[start : start + count] = new if self._on_host else torch.from_numpy(new)

    def put_latest(self, number: int, total: int, *rows: npt.NDArray[Any]) -> None:
        """As ``put``, without the rows that are no longer kept once ``total`` rows have been written."""
        late = max(0, total - self.size - number)
        self.put(number + late, *(each[late:] for each in rows))


def _reserve(descriptor: int, size: int, folder: Path) -> None:
    # Writing to a mapped file for which the disk has no room ends the program without a message.
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OSError(error.errno, f"cannot keep {size / 1e9:.1f} GB of observations in {folder}: {error.strerror}") from error
