"""Camera-trap images by location: iWildCam2020 in the form of WILDS, a file ``metadata.csv`` and the images in ``train/``."""

import csv
import os
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from plasticity.envs.datasets.dataset_files import DatasetError, data_root
from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_data import TaskData
from plasticity.settings.seeding import torch_generator

NAME: Final = "iwildcam_v2.0"
METADATA: Final = "metadata.csv"
IMAGES: Final = "train"  # holds the images of all splits
PHOTOGRAPHS: Final = 203_029  # of the whole data set (Koh et al. 2021, "WILDS")
ORDERS: Final = ("periodic", "fresh")
_COLUMNS: Final = ("filename", "location_remapped", "split", "y")
_TRAIN, _TEST = "train", "id_test"  # the latter are of the same cameras, on other days
_SPLITS: Final = (_TRAIN, "val", "test", "id_val", _TEST)


class Photograph(NamedTuple):
    """An image's file name and its label."""

    file: str
    label: int


class Metadata(NamedTuple):
    """What ``metadata.csv`` says.

    Attributes:
        classes: Labels, one more than the largest of all rows.
        photographs: By location, then by split, in the order of the file.
    """

    classes: int
    photographs: Mapping[int, Mapping[str, list[Photograph]]]


def find_folder(folder: Path | None) -> Path:
    """Returns the folder of the data: the given one, or ``iwildcam_v2.0`` in it or in the folder of all data sets.

    Raises:
        DatasetError: There is no ``metadata.csv``; the message names every way to provide it.
    """
    root = data_root() if folder is None else folder.expanduser()
    places = [root / NAME] if folder is None else [root, root / NAME]
    for place in places:
        if (place / METADATA).is_file():
            return place
    looked = " and ".join(map(str, places))
    raise DatasetError(
        f"iWildCam is not available: no {METADATA} in {looked}. Download {NAME} of WILDS (wilds.stanford.edu, 12 GB) and let "
        f"env.data_folder name the folder with {METADATA} and {IMAGES}/, or put it at {data_root() / NAME}, or point "
        f"PLASTICITY_DATA at a folder whose {NAME}/ holds them"
    )


def read_metadata(path: Path) -> Metadata:
    """Reads ``metadata.csv``; a line on standard error says so if it has not all photographs.

    Raises:
        DatasetError: A column is missing, a row is damaged, or the file is no such text.
    """
    photographs: dict[int, dict[str, list[Photograph]]] = {}
    classes = count = 0
    try:
        for location, split, photograph in _rows(path):
            photographs.setdefault(location, {}).setdefault(split, []).append(photograph)
            classes, count = max(classes, photograph.label + 1), count + 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is damaged: expected a table in UTF-8, found: {error}") from None
    if count != PHOTOGRAPHS:
        print(
            f"note: {path} has {count} photographs, all of {NAME} are {PHOTOGRAPHS}; results are those of these", file=sys.stderr
        )
    return Metadata(classes, photographs)


def _rows(path: Path) -> Iterator[tuple[int, str, Photograph]]:
    """Yields location, split and photograph of every row."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, strict=True)
        missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise DatasetError(f"{path} has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)}")
        for row in rows:
            try:
                location, label = int(row["location_remapped"]), int(row["y"])
            except (TypeError, ValueError):
                location = label = -1
            # A row that is cut short has None in its last columns, and one that is too long has the rest under None.
            if label < 0 or not row["filename"] or row["split"] not in _SPLITS or None in row or None in row.values():
                raise DatasetError(
                    f"{path}, line {rows.line_num}: expected a file name, numbers location_remapped and y, and a split among "
                    f"{', '.join(_SPLITS)}"
                )
            yield location, row["split"], Photograph(row["filename"], label)


class CameraLocations:
    """A task is to tell the species at one camera's place; a source of tasks.

    In the order ``periodic`` the places that take part are gone through in an order that the seed decides, again and again; in
    the order ``fresh`` each task is a place drawn at random, another one than the task before. Training images are those of the
    split ``train`` of WILDS, test images those of ``id_test``, if the place has any. Labels are those of WILDS, alike in all
    tasks. Images are read when their task is asked for; the two latest tasks are kept.

    See "Towards perpetually trainable neural networks", B.4: the place changes at fixed intervals, among 8 or 10 places.

    Args:
        folder: the folder of ``find_folder``.
        seed: the run's seed, on which the places and their order depend.
        device: where tasks are wanted.
        side: side in pixels to which images are resized, whatever their shape.
        images_at_least: training images that a place must have.
        places: how many of these places take part; None for all.
        order: one of ``ORDERS``.

    Raises:
        ValueError: a setting outside its range.
        DatasetError: (a ValueError) the metadata are damaged, images of a place that takes part are missing, or no place has
            enough images.
    """

    classification = True
    has_validation = False
    input_dtype = torch.uint8

    def __init__(
        self,
        folder: Path,
        seed: int,
        device: torch.device | str = "cpu",
        side: int = 64,
        images_at_least: int = 100,
        places: int | None = None,
        order: str = "periodic",
    ) -> None:
        for name, value in (("side", side), ("images_at_least", images_at_least)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        if order not in ORDERS:
            raise ValueError(f"unknown order {order!r}; choose from {', '.join(ORDERS)}")
        metadata = read_metadata(folder / METADATA)
        counts = {location: len(splits.get(_TRAIN, ())) for location, splits in metadata.photographs.items()}
        chosen = sorted(location for location, count in counts.items() if count >= images_at_least)
        if not chosen:
            most = max(counts.values(), default=0)
            raise DatasetError(f"no place has images_at_least={images_at_least} images to train on; the largest has {most}")
        wanted = len(chosen) if places is None else places
        if not (2 if order == "fresh" else 1) <= wanted <= len(chosen):
            raise ValueError(
                f"places={places} with order={order}: {len(chosen)} places have images_at_least={images_at_least} images"
            )
        self.input_shape: tuple[int, ...] = (3, side, side)
        self.outputs = metadata.classes
        self._folder, self._device, self._side, self._seed = folder, device, side, seed
        self._photographs = metadata.photographs
        permutation = torch.randperm(len(chosen), generator=torch_generator(seed, "order of the places"))
        self._places: list[int] = [chosen[place] for place in permutation[:wanted].tolist()]
        self._drawn = None if order == "periodic" else [0]  # places by number of the task, as far as they were asked for
        self._kept = lru_cache(maxsize=2)(self._read_task)
        self._refuse_missing_images()

    @property
    def places(self) -> int:
        """How many places take part."""
        return len(self._places)

    def location(self, number: int) -> int:
        """Returns the ``location_remapped`` of a task."""
        if self._drawn is None:
            return self._places[number % len(self._places)]
        while len(self._drawn) <= number:
            generator = torch_generator(self._seed, "task", len(self._drawn), "place")
            further = 1 + int(torch.randint(len(self._places) - 1, (), generator=generator))
            self._drawn.append((self._drawn[-1] + further) % len(self._places))
        return self._places[self._drawn[number]]

    def examples_in(self, number: int) -> int:
        """Returns the training images of a task's place."""
        return len(self._photographs[self.location(number)][_TRAIN])

    def task(self, number: int) -> TaskData:
        """Reads the images of a task's place, unless they are those of one of the two latest tasks."""
        return self._kept(self.location(number))

    def _read_task(self, location: int) -> TaskData:
        splits = self._photographs[location]
        return TaskData(self._read(splits[_TRAIN]), test=self._read(splits[_TEST]) if _TEST in splits else None)

    def _read(self, photographs: list[Photograph]) -> Examples:
        pixels = np.stack([read_image(self._folder / IMAGES / photograph.file, self._side) for photograph in photographs])
        labels = torch.tensor([photograph.label for photograph in photographs])
        return Examples(torch.from_numpy(pixels).to(self._device), labels.to(self._device))

    def _refuse_missing_images(self) -> None:
        """Raises DatasetError unless all images that can be asked for are there: at the start, and not in the 50th task."""
        folder = self._folder / IMAGES
        there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        wanted = [
            photograph.file
            for location in self._places
            for split in (_TRAIN, _TEST)
            for photograph in self._photographs[location].get(split, ())
        ]
        missing = [file for file in wanted if file not in there]
        if missing:
            raise DatasetError(f"{len(missing)} of {len(wanted)} images are not in {folder}, such as {missing[0]}")


def read_image(path: Path, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Reads an image and resizes it with bilinear interpolation; returns (3, side, side).

    Raises:
        DatasetError: The file is missing or damaged.
    """
    from PIL import Image  # here, as few data sets are files of pictures

    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # the library raises each of them
        raise DatasetError(f"{path} is missing or damaged: {error}") from None
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
