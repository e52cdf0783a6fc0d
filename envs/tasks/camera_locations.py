"""Camera-trap images of iWildCam, a place in each task."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch

from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.datasets.iwildcam import IMAGES, METADATA, TEST, TRAIN, Photograph, find_folder, read_image, read_metadata
from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_settings import ImageTaskSettings
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator

ORDERS: Final = ("periodic", "fresh")


@stream("camera_locations")
@dataclass
class CameraLocationsSettings(ImageTaskSettings):
    """Camera-trap images of iWildCam, a place in each task."""

    dataset: str = setting("iwildcam", "``iwildcam``, the one that has places.", choices=("iwildcam",))
    data_folder: str | None = setting(
        None,
        "Folder with ``metadata.csv`` and ``train/``, or with ``iwildcam_v2.0/``; None for ``$PLASTICITY_DATA`` "
        "or ``~/.cache/plasticity``.",
    )
    side: int = setting(64, "Side in pixels to which images are resized.", low=1)
    images_at_least: int = setting(100, "Training images that a place must have.", low=1)
    places: int | None = setting(None, "How many of these places take part; None for all.")
    order: str = setting(
        "periodic",
        "``periodic``, one order of the places again and again, or ``fresh``, a place at random in each task.",
        choices=ORDERS,
    )

    def source(self, seed: int, device: torch.device) -> "CameraLocations":
        """Makes the tasks."""
        return CameraLocations(find_folder(self.folder()), self, seed, device)


class CameraLocations:
    """A task is to classify the species at one camera's place; a source of tasks.

    In the order ``periodic`` the chosen places are repeated in an order that the seed decides; in
    the order ``fresh`` each task is a place drawn at random, other than that of the task before. Training images are those of the
    split ``train`` of WILDS, test images those of ``id_test``, if the place has any. Labels are those of WILDS, the same in all
    tasks. Images are read when their task is requested; the two latest tasks are kept.

    See "Towards perpetually trainable neural networks", B.4: the place changes at fixed intervals, among 8 or 10 places.

    Args:
        folder: The folder of ``find_folder``.
        settings: The settings.
        seed: The run's seed, on which the places and their order depend.
        device: Where tasks are wanted.

    Raises:
        ValueError: There are fewer places than requested.
        DatasetError: (a ValueError) The metadata are damaged, images of a place that takes part are missing, or no place has
            enough images.
    """

    classification = True
    has_validation = False
    input_dtype = torch.uint8

    def __init__(self, folder: Path, settings: CameraLocationsSettings, seed: int, device: torch.device | str = "cpu") -> None:
        side, images_at_least = settings.side, settings.images_at_least
        places, order = settings.places, settings.order
        metadata = read_metadata(folder / METADATA)
        counts = {location: len(splits.get(TRAIN, ())) for location, splits in metadata.photographs.items()}
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
        self._drawn = None if order == "periodic" else [0]  # places by number of the task, as far as they were requested
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
        return len(self._photographs[self.location(number)][TRAIN])

    def task(self, number: int) -> TaskData:
        """Reads the images of a task's place, unless they are those of one of the two latest tasks."""
        return self._kept(self.location(number))

    def _read_task(self, location: int) -> TaskData:
        splits = self._photographs[location]
        return TaskData(self._read(splits[TRAIN]), test=self._read(splits[TEST]) if TEST in splits else None)

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
            for split in (TRAIN, TEST)
            for photograph in self._photographs[location].get(split, ())
        ]
        missing = [file for file in wanted if file not in there]
        if missing:
            raise DatasetError(f"{len(missing)} of {len(wanted)} images are not in {folder}, such as {missing[0]}")
