"""Small classification tasks between a few of many classes: the protocol of Continual ImageNet."""

from typing import Final

import torch
from torch import Tensor

from plasticity.envs.datasets.class_images import ClassImages
from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_data import TaskData
from plasticity.settings.seeding import torch_generator

ORDERS: Final = ("periodic", "fresh")


class ClassPairs:
    """A task is to tell a few classes apart, two as a rule; a source of tasks.

    See Dohare et al. (2024), "Loss of plasticity in deep continual learning": 600 images of each class to train on, 100 to test
    on, labels by place in the pair. In the order ``periodic``, that of the published code, one permutation of all C classes is
    gone through again and again, so that with pairs of an even number of classes task t + C / 2 is task t; of an odd number
    the last class is paired with the first, and the next pass has other pairs. In the order ``fresh`` each task draws its classes
    anew.

    The first images of a class are for training, those that follow for validation, the last ones for tests.

    Args:
        images: the images by class.
        seed: the run's seed, on which the order of the classes depends.
        device: where tasks are wanted.
        classes_per_task: classes in a task, at least 2.
        train_per_class: images of each class to train on.
        test_per_class: images to test on, or 0.
        validation_per_class: images to choose by, or 0.
        order: one of ``ORDERS``.

    Raises:
        ValueError: a setting outside its range.
        DatasetError: (a ValueError) a class has too few images.
    """

    classification = True

    def __init__(
        self,
        images: ClassImages,
        seed: int,
        device: torch.device | str = "cpu",
        classes_per_task: int = 2,
        train_per_class: int = 600,
        test_per_class: int = 100,
        validation_per_class: int = 0,
        order: str = "periodic",
    ) -> None:
        if not 2 <= classes_per_task <= images.classes:
            raise ValueError(f"classes_per_task must lie in 2..{images.classes}, got {classes_per_task!r}")
        if train_per_class < 1 or test_per_class < 0 or validation_per_class < 0:
            raise ValueError(
                "train_per_class must be at least 1, test_per_class and validation_per_class at least 0, got "
                f"{train_per_class!r}, {test_per_class!r}, {validation_per_class!r}"
            )
        if order not in ORDERS:
            raise ValueError(f"unknown order {order!r}; choose from {', '.join(ORDERS)}")
        needed = train_per_class + test_per_class + validation_per_class
        for label in range(images.classes):
            if images.count(label) < needed:
                raise DatasetError(
                    f"{images.name(label)} holds {images.count(label)} images, and train_per_class={train_per_class} + "
                    f"validation_per_class={validation_per_class} + test_per_class={test_per_class} ask for {needed}"
                )
        self.input_shape, self.input_dtype = images.input_shape, images.input_dtype
        self.outputs = classes_per_task
        self.has_validation = validation_per_class > 0
        self._images, self._seed, self._device = images, seed, device
        self._train, self._validation, self._test = train_per_class, validation_per_class, test_per_class
        self._fresh = order == "fresh"
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
