"""Tiny ImageNet at 32 x 32 pixels, one array file for each class.

Its images may be used for research that is not commercial, so they are not fetched: a user puts ``<class>.npy`` files of as many
of the 200 classes as wanted into the folder ``tiny_imagenet_32``. Each holds bytes (550, 3, 32, 32): the 500 images of the class
in the published training set, then its 50 of the published validation set. The latter are the test set here, as the labels of the
published test set are not public.
"""

from pathlib import Path
from typing import Final

import torch

from plasticity.envs.datasets.array_folder import ArrayFolder
from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.datasets.datasets import Dataset, Split, dataset

NAME: Final = "tiny_imagenet_32"
TRAIN_PER_CLASS: Final = 500
PER_CLASS: Final = 550
IMAGE_SHAPE: Final = (3, 32, 32)


@dataset("tiny_imagenet_32")
def load_tiny_imagenet_32(split: Split, root: Path) -> Dataset:
    """500 + 50 uint8 images (3, 32, 32) of each class whose file is there, up to 200 classes; not fetched."""
    folder = open_folder(root / NAME)
    rows = {"train": [slice(TRAIN_PER_CLASS)], "test": [slice(TRAIN_PER_CLASS, None)]}
    rows["all"] = rows["train"] + rows["test"]
    classes = [folder.images(label) for label in range(folder.classes)]
    parts = [(images[part], label) for part in rows[split] for label, images in enumerate(classes)]
    targets = torch.cat([torch.full((len(images),), label) for images, label in parts])
    return Dataset(NAME, torch.cat([images for images, _ in parts]), targets, folder.classes)


def open_folder(place: Path) -> ArrayFolder:
    """Opens the folder.

    Raises:
        DatasetError: It holds no array files, or one of another shape; the message says what is needed.
    """
    form = f"<class>.npy files, bytes {(PER_CLASS, *IMAGE_SHAPE)}, the {TRAIN_PER_CLASS} images to train on first"
    if not any(place.glob("*.npy")):
        raise DatasetError(
            f"data set {NAME!r} is not available: put {form}, in {place}, or point PLASTICITY_DATA at a folder whose {NAME}/ "
            "holds them"
        )
    folder = ArrayFolder(place)
    for label in range(folder.classes):
        shape = (folder.count(label), *folder.input_shape)
        if shape != (PER_CLASS, *IMAGE_SHAPE):
            raise DatasetError(f"{folder.name(label)} holds images {shape}; {NAME!r} needs {form}")
    return folder
