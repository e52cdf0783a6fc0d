"""Small classification tasks between a few of many classes: the protocol of Continual ImageNet."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from plasticity.envs.datasets.array_folder import ArrayFolder
from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.datasets.datasets import names_of_datasets
from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.class_images import ClassImages, DatasetClasses
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_settings import ImageTaskSettings
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator

ORDERS: Final = ("periodic", "fresh")
FOLDER: Final = "folder"


@stream("class_pairs")
@dataclass
class ClassPairsSettings(ImageTaskSettings):
    """Tasks between a few of many classes, the protocol of Continual ImageNet."""

    dataset: str = setting(
        FOLDER,
        "``folder``, one ``<class>.npy`` for each class in ``data_folder`` itself, or the name of a data set.",
        choices=lambda: (FOLDER, *names_of_datasets()),
    )
    epochs_per_task: int = 250
    batch_size: int = 100
    classes_per_task: int = setting(2, "Classes in a task.", low=2)
    train_per_class: int = setting(600, "Images of each class to train on, its first ones.", low=1)
    test_per_class: int = setting(100, "Images to test on, its last ones.", low=0)
    validation_per_class: int = setting(0, "Images to choose by, those after the first.", low=0)
    order: str = setting(
        "periodic",
        "``periodic``, one permutation of the classes again and again, or ``fresh``, new classes for each task.",
        choices=ORDERS,
    )

    def source(self, seed: int, device: torch.device) -> "ClassPairs":
        """Makes the tasks of a data set, or of a folder.

        Raises:
            ValueError: The data are a folder, and it is not named.
        """
        if self.dataset != FOLDER:
            return ClassPairs(DatasetClasses(*self.placed(device, self.load("all"))), self, seed, device)
        folder = self.folder()
        if folder is None:
            raise ValueError(
                "data_folder is null: env.dataset=folder needs a folder with one <class>.npy for each class; "
                "env.dataset=quick_draw and env.dataset=cifar10 need none"
            )
        return ClassPairs(ArrayFolder(folder), self, seed, device)


class ClassPairs:
    """A task is to distinguish a few classes, usually two; a source of tasks.

    See Dohare et al. (2024), "Loss of plasticity in deep continual learning": 600 images of each class to train on, 100 to test
    on, labels by place in the pair. In the order ``periodic``, that of the published code, one permutation of all C classes is
    repeated, so that with pairs of an even number of classes task t + C / 2 is task t; with an odd number, the last class is
    paired with the first, and the next pass has other pairs. In the order ``fresh`` each task draws new classes.

    The first images of a class are for training, those that follow for validation, the last ones for tests.

    Args:
        images: The images by class.
        settings: The settings.
        seed: The run's seed, on which the order of the classes depends.
        device: Where tasks are wanted.

    Raises:
        ValueError: A task has more classes than there are.
        DatasetError: (a ValueError) A class has too few images.
    """

    classification = True

    def __init__(self, images: ClassImages, settings: ClassPairsSettings, seed: int, device: torch.device | str = "cpu") -> None:
        if settings.classes_per_task > images.classes:
            raise ValueError(f"classes_per_task must lie in 2..{images.classes}, got {settings.classes_per_task!r}")
        train, test, validation = settings.train_per_class, settings.test_per_class, settings.validation_per_class
        needed = train + test + validation
        for label in range(images.classes):
            if images.count(label) < needed:
                raise DatasetError(
                    f"{images.name(label)} holds {images.count(label)} images, and train_per_class={train} + "
                    f"validation_per_class={validation} + test_per_class={test} ask for {needed}"
                )
        self.input_shape, self.input_dtype = images.input_shape, images.input_dtype
        self.outputs = settings.classes_per_task
        self.has_validation = validation > 0
        self._images, self._seed, self._device = images, seed, device
        self._train, self._validation, self._test = train, validation, test
        self._fresh = settings.order == "fresh"
        self._order = torch.randperm(images.classes, generator=torch_generator(seed, "class order")).tolist()

    def examples_in(self, number: int) -> int:
        """Returns the training examples of a task."""
        return self.outputs * self._train

    def classes_of(self, number: int) -> list[int]:
        """Returns the classes of a task, in the order of their labels."""
        if self._fresh:
            generator = torch_generator(self._seed, "task", number, "classes")
            chosen: list[int] = torch.randperm(self._images.classes, generator=generator)[: self.outputs].tolist()
            return chosen
        first = number * self.outputs
        return [self._order[(first + place) % len(self._order)] for place in range(self.outputs)]

    def task(self, number: int) -> TaskData:
        """Puts the images of a task's classes together."""
        images = [self._images.images(label) for label in self.classes_of(number)]
        end = self._train + self._validation
        train = self._labelled([part[: self._train] for part in images])
        validation = self._labelled([part[self._train : end] for part in images]) if self._validation else None
        test = self._labelled([part[len(part) - self._test :] for part in images]) if self._test else None
        return TaskData(train, validation, test)

    def _labelled(self, parts: list[Tensor]) -> Examples:
        targets = torch.cat([torch.full((len(part),), label) for label, part in enumerate(parts)])
        return Examples(torch.cat(parts).to(self._device), targets.to(self._device))
