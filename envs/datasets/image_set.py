"""An image classification data set described by its raw files, and how it becomes arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile, Source, read_or_fetch
from plasticity.envs.datasets.datasets import Dataset, Split

Parser = Callable[[Sequence[RawFile], Sequence[bytes]], tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


@dataclass(frozen=True)
class ImageSet:
    """A published data set of uint8 images with an official test set.

    Attributes:
        name: what users call it; also the name of its folder.
        classes: number of classes.
        train_files: raw files of the training set.
        test_files: raw files of the test set.
        sources: where the files can come from, in order of preference.
        parse: turns the raw files of one split into images (N, C, H, W) and labels (N,).
    """

    name: str
    classes: int
    train_files: tuple[RawFile, ...]
    test_files: tuple[RawFile, ...]
    sources: tuple[Source, ...]
    parse: Parser


def image_dataset(image_set: ImageSet, split: Split, root: Path) -> Dataset:
    """Returns a split of an image set as tensors; for the arguments see ``load_image_set``."""
    images, labels = load_image_set(image_set, split, root)
    targets = torch.from_numpy(labels.astype("int64"))
    return Dataset(image_set.name, torch.from_numpy(images.copy()), targets, image_set.classes)


def load_image_set(image_set: ImageSet, split: Split, root: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns images (N, C, H, W) and labels (N,), both uint8, of one split; ``all`` is the training set, then the test.

    Args:
        image_set: which data.
        split: which part of it.
        root: the folder that holds one folder per data set.

    Raises:
        DatasetError: a file is missing or damaged, or images and labels do not belong together.
    """
    if split == "all":
        parts = [load_image_set(image_set, part, root) for part in ("train", "test")]
        return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
    wanted = image_set.train_files if split == "train" else image_set.test_files
    every = (*image_set.train_files, *image_set.test_files)
    contents = read_or_fetch(image_set.name, root / image_set.name, wanted, every, image_set.sources)
    images, labels = image_set.parse(wanted, contents)
    if len(images) != len(labels):
        raise DatasetError(f"{image_set.name} {split}: {len(images)} images do not match {len(labels)} labels")
    return images, labels
