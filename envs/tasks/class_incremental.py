"""Classification of a growing set of classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData, class_mask, class_rows
from plasticity.envs.tasks.task_settings import ImageTaskSettings
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator


@stream("class_incremental")
@dataclass
class ClassIncrementalSettings(ImageTaskSettings):
    """Tasks over a growing set of classes."""

    dataset: str = "cifar100"
    epochs_per_task: int = 200
    batch_size: int = 90
    classes_per_task: int = setting(5, "Classes that each task adds.", low=1)
    first_classes: int | None = setting(None, "Classes of the first task; None for ``classes_per_task``.", low=1)
    validation_per_class: int = setting(50, "Images of each class, its first ones, held out for validation.", low=0)
    masked: bool = setting(True, "Whether classes that have not appeared yet are left out of loss and accuracy.")

    def source(self, seed: int, device: torch.device) -> "ClassIncremental":
        """Makes the tasks."""
        train, test = self.placed(device, self.load("train"), self.load("test"))
        return ClassIncremental(train, test, self, seed)


class ClassIncremental:
    """Each task adds classes to those of the task before, in a random order; a source of tasks.

    See class-incremental CIFAR-100 in Dohare et al. (2024), "Loss of plasticity in deep continual learning": five classes more
    in each task, training on all classes so far, the first 50 training images of each class held out for validation. When all
    classes are there, further tasks are like the last. Labels are those of the data set and do not depend on the order.

    Args:
        dataset: The training images, on the device where tasks are wanted.
        test: The test images, or None.
        settings: The settings.
        seed: The run's seed, on which the order of the classes depends.

    Raises:
        ValueError: The data set has fewer classes, or fewer images of a class.
    """

    classification = True

    def __init__(self, dataset: Dataset, test: Dataset | None, settings: ClassIncrementalSettings, seed: int) -> None:
        more, validation_per_class = settings.classes_per_task, settings.validation_per_class
        first = more if settings.first_classes is None else settings.first_classes
        for name, value in (("classes_per_task", more), ("first_classes", first)):
            if value > dataset.classes:
                raise ValueError(f"{name} must lie in 1..{dataset.classes}, got {value!r}")
        rows = class_rows(dataset.targets, dataset.classes)
        fewest = min(map(len, rows))
        if validation_per_class >= fewest:
            raise ValueError(
                f"validation_per_class must be less than the {fewest} images of a class, got {validation_per_class!r}"
            )
        self.input_shape, self.input_dtype = tuple(dataset.inputs.shape[1:]), dataset.inputs.dtype
        self.outputs = dataset.classes
        self.has_validation = validation_per_class > 0
        self._dataset, self._test = dataset, test
        self._first, self._more, self._masked = first, more, settings.masked
        self._train_rows = [part[validation_per_class:] for part in rows]
        self._validation_rows = [part[:validation_per_class] for part in rows]
        self._test_rows = class_rows(test.targets, dataset.classes) if test is not None else []
        self._order = torch.randperm(dataset.classes, generator=torch_generator(seed, "class order")).tolist()

    def classes_of(self, number: int) -> list[int]:
        """Returns the classes of a task in the order in which they came."""
        return self._order[: self._first + number * self._more]

    def examples_in(self, number: int) -> int:
        """Returns the training examples of a task."""
        return sum(len(self._train_rows[label]) for label in self.classes_of(number))

    def task(self, number: int) -> TaskData:
        """Puts the images of all classes so far together."""
        classes = self.classes_of(number)
        train = _taken(self._dataset, self._train_rows, classes)
        validation = _taken(self._dataset, self._validation_rows, classes) if self.has_validation else None
        test = None if self._test is None else _taken(self._test, self._test_rows, classes)
        active = class_mask(classes, self.outputs, train.inputs.device) if self._masked else None
        return TaskData(train, validation, test, active)


def _taken(dataset: Dataset, rows: list[Tensor], classes: list[int]) -> Examples:
    chosen = torch.cat([rows[label] for label in classes])
    return Examples(dataset.inputs[chosen], dataset.targets[chosen])
