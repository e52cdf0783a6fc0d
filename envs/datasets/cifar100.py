"""CIFAR-100 (Krizhevsky 2009, "Learning multiple layers of features from tiny images") in its official Python version.

Two pickles, ``train`` and ``test``, each a dictionary with ``data`` (N, 3072) uint8 and N ``fine_labels`` from 0 to 99; they
come in a folder ``cifar-100-python``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plasticity.envs.datasets.cifar10 import CHANNELS, HEIGHT, WIDTH, pixels_and_labels, require_fit
from plasticity.envs.datasets.dataset_files import RawFile
from plasticity.envs.datasets.dataset_sources import archive_source, download, unpacked_folder
from plasticity.envs.datasets.datasets import Dataset, Split, dataset
from plasticity.envs.datasets.image_set import ImageSet, image_dataset

CLASSES = 100
FOLDER = "cifar-100-python"
_OFFICIAL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"


def parse_pickles(files: Sequence[RawFile], contents: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns images (N, 3, 32, 32) and fine labels (N,) of one or more pickles.

    Raises:
        DatasetError: a file is no such pickle, or images and labels do not fit together.
    """
    parts = []
    for file, content in zip(files, contents, strict=True):
        pixels, labels = pixels_and_labels(file.name, content, "fine_labels")
        require_fit(file.name, pixels, labels, CLASSES)
        parts.append((pixels, labels.astype(np.uint8)))
    pixels, labels = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    return pixels.reshape(-1, CHANNELS, HEIGHT, WIDTH), labels


_FILES = (
    RawFile("train", "16019d7e3df5f24257cddd939b257f8d"),
    RawFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
)

CIFAR100 = ImageSet(
    name="cifar100",
    classes=CLASSES,
    train_files=_FILES[:1],
    test_files=_FILES[1:],
    sources=(
        unpacked_folder(FOLDER, [file.name for file in _FILES]),
        archive_source(
            f"download {_OFFICIAL}",
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            [f"{FOLDER}/{file.name}" for file in _FILES],
            lambda: download(_OFFICIAL),
        ),
    ),
    parse=parse_pickles,
)


@dataset("cifar100")
def load_cifar100(split: Split, root: Path) -> Dataset:
    """50,000 + 10,000 uint8 images (3, 32, 32) of 100 classes."""
    return image_dataset(CIFAR100, split, root)
