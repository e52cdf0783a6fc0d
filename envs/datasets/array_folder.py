"""A folder with one array file of images for each class."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plasticity.envs.datasets.dataset_files import DatasetError


class ArrayFolder:
    """A folder with a file ``<class>.npy`` for each class, an array (n, C, H, W); classes are ordered by name, numbers by value.

    Pixels are bytes, or floats that stand for bytes: whole numbers from 0 to 255, or those divided by 255. The headers of all
    files are read when the folder is opened, and each file when its class is requested, so that a thousand classes need no
    memory.

    Args:
        folder: the folder.

    Raises:
        DatasetError: the folder holds no such file, or a file is damaged or of another form.
    """

    input_dtype = torch.uint8

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = sorted(folder.glob("*.npy"), key=_by_number_or_name) if folder.is_dir() else []
        if not self._files:
            raise DatasetError(f"{folder} holds no <class>.npy files; env.data_folder must name a folder that does")
        shapes = [_open(file).shape for file in self._files]
        self.classes = len(self._files)
        self.input_shape = shapes[0][1:]
        self._counts: list[int] = [shape[0] for shape in shapes]
        for file, shape in zip(self._files, shapes, strict=True):
            if shape[1:] != self.input_shape:
                raise DatasetError(f"{file} holds images {shape[1:]}, and {self._files[0].name} {self.input_shape}")

    def name(self, label: int) -> str:
        """Returns the path of the class's file."""
        return str(self._files[label])

    def count(self, label: int) -> int:
        """Returns how many images a class has."""
        return self._counts[label]

    def images(self, label: int) -> Tensor:
        """Reads all images of a class."""
        file = self._files[label]
        return torch.from_numpy(as_bytes(str(file), np.array(_open(file))))


def as_bytes(name: str, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Returns pixels as bytes; DatasetError naming the file if they do not stand for bytes."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    scaled = pixels.astype(np.float64)
    if scaled.size and scaled.max() <= 1:
        scaled = scaled * 255
    whole = np.rint(scaled)
    if not (np.abs(scaled - whole) < 1e-3).all() or whole.min() < 0 or whole.max() > 255:  # a NaN fails too
        raise DatasetError(f"{name}: pixels must be whole numbers from 0 to 255, or those divided by 255")
    return whole.astype(np.uint8)


def _open(file: Path) -> npt.NDArray[np.generic]:
    """Maps a file, which checks its header against its size."""
    try:
        array: npt.NDArray[np.generic] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DatasetError(f"{file} is damaged: expected a complete .npy file, found: {error}") from None
    if array.ndim != 4 or array.dtype.kind not in "uif" or not array.size:
        raise DatasetError(f"{file}: expected an array (n, C, H, W) of numbers, found {array.dtype} {array.shape}")
    return array


def _by_number_or_name(file: Path) -> tuple[bool, int, str]:
    number = file.stem.isdecimal()
    return (not number, int(file.stem) if number else 0, file.stem)
