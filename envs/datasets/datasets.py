"""Image data sets by name, as tensors.

``digits`` comes with scikit-learn. ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100`` and ``quick_draw`` are kept under
``$PLASTICITY_DATA`` or ``~/.cache/plasticity``, verified at every load and fetched at the first.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, get_args

import numpy as np
import torch
from torch import Tensor

from plasticity.envs.datasets.cifar10 import CIFAR10
from plasticity.envs.datasets.cifar100 import CIFAR100
from plasticity.envs.datasets.dataset_files import DatasetError, data_root
from plasticity.envs.datasets.idx import FASHION_MNIST, MNIST
from plasticity.envs.datasets.image_set import Split, load_image_set
from plasticity.envs.datasets.quick_draw import CLASSES as DRAWING_CLASSES
from plasticity.envs.datasets.quick_draw import PER_CLASS as DRAWINGS_PER_CLASS
from plasticity.envs.datasets.quick_draw import load_drawings
from plasticity.settings.naming import did_you_mean

IMAGE_SETS = {image_set.name: image_set for image_set in (MNIST, FASHION_MNIST, CIFAR10, CIFAR100)}
DATASETS = ("digits", *IMAGE_SETS, "quick_draw")
_DIGITS: Final = "datasets/data/digits.csv.gz"  # 1,797 rows: 64 values from 0 to 16, and the class
DIGITS_TRAIN_EXAMPLES = 1500
DRAWINGS_TRAIN_PER_CLASS = 80


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image data set in memory.

    Attributes:
        name: what it is called.
        inputs: (N, C, H, W); uint8 from 0 to 255, or float32 in [0, 1].
        targets: (N,) int64 class labels from 0 to ``classes`` - 1.
        classes: number of classes.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    classes: int

    def __post_init__(self) -> None:
        """Raises ValueError if the tensors do not fit together."""
        if self.inputs.ndim != 4 or self.inputs.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"inputs of {self.name!r} must be (N, C, H, W) uint8 or float32, got {tuple(self.inputs.shape)} "
                f"{self.inputs.dtype}"
            )
        if self.targets.shape != self.inputs.shape[:1] or self.targets.dtype != torch.int64:
            raise ValueError(
                f"targets of {self.name!r} must be ({len(self.inputs)},) int64, got {tuple(self.targets.shape)} "
                f"{self.targets.dtype}"
            )
        if len(self.targets) == 0:
            raise ValueError(f"data set {self.name!r} is empty")
        low, high = int(self.targets.min()), int(self.targets.max())
        if low < 0 or high >= self.classes:
            raise ValueError(f"targets of {self.name!r} must lie in 0..{self.classes - 1}, got {low}..{high}")


def load_dataset(name: str, split: Split | None = None, root: Path | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: ``digits`` (1,797 float32 images (1, 8, 8) in [0, 1]), ``mnist`` or ``fashion_mnist`` (60,000 + 10,000 uint8
            images (1, 28, 28)), ``cifar10`` (50,000 + 10,000 uint8 images (3, 32, 32)), ten classes each; ``cifar100`` (as
            many, 100 classes); ``quick_draw`` (34,500 uint8 images (1, 28, 28) of 345 classes).
        split: ``train``, ``test``, or ``all`` (the training set, then the test set). None is ``train`` where there is an
            official test set and ``all`` for the two that have none: the ``train`` of digits is the first 1,500 images and its
            ``test`` the last 297; of each class of quick_draw the first 80 and the last 20.
        root: the folder that holds one folder per data set; None is ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.

    Raises:
        ValueError: an unknown name or split.
        DatasetError: (a ValueError) the data are missing, damaged, or cannot be stored.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}{did_you_mean(name, DATASETS)}; choose from {', '.join(DATASETS)}")
    if split is not None and split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    if name == "digits":
        return _digits(split or "all")
    root = data_root() if root is None else root.expanduser()
    if name == "quick_draw":
        return _quick_draw(split or "all", root)
    image_set = IMAGE_SETS[name]
    images, labels = load_image_set(image_set, split or "train", root)
    targets = torch.from_numpy(labels.astype("int64"))
    return Dataset(name, torch.from_numpy(images.copy()), targets, image_set.classes)


def _digits(split: Split) -> Dataset:
    place = find_spec("sklearn")
    if place is None or not place.submodule_search_locations:
        raise DatasetError("env.dataset=digits comes with scikit-learn, which is not installed")
    # Read from the package's folder: importing scikit-learn takes longer than the default run's first thousand steps.
    table = np.loadtxt(Path(place.submodule_search_locations[0]) / _DIGITS, delimiter=",", encoding="utf-8")
    inputs = torch.from_numpy(table[:, :-1]).to(torch.float32).div(16).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(table[:, -1]).to(torch.int64)
    rows = {"all": slice(None), "train": slice(DIGITS_TRAIN_EXAMPLES), "test": slice(DIGITS_TRAIN_EXAMPLES, None)}[split]
    return Dataset("digits", inputs[rows], targets[rows], 10)


def _quick_draw(split: Split, root: Path) -> Dataset:
    images, labels = load_drawings(root)
    place = torch.arange(len(labels)) % DRAWINGS_PER_CLASS
    kept = {"all": place >= 0, "train": place < DRAWINGS_TRAIN_PER_CLASS, "test": place >= DRAWINGS_TRAIN_PER_CLASS}[split]
    return Dataset("quick_draw", torch.from_numpy(images.copy())[kept], torch.from_numpy(labels)[kept], DRAWING_CLASSES)
