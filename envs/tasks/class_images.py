"""Images by class, and those of a data set in memory; ``ArrayFolder`` has those of a folder."""

from typing import Protocol

import torch
from torch import Tensor

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.tasks.task_data import class_rows


class ClassImages(Protocol):
    """Images by class.

    Attributes:
        classes: Number of classes.
        input_shape: (C, H, W).
        input_dtype: uint8, or float32 in [0, 1].
    """

    classes: int
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype

    def name(self, label: int) -> str:
        """Returns the name of a class, for messages."""
        ...

    def count(self, label: int) -> int:
        """Returns how many images a class has."""
        ...

    def images(self, label: int) -> Tensor:
        """Returns all images of a class, (n, C, H, W), in a fixed order."""
        ...


class DatasetClasses:
    """The classes of a data set; the images of each in the order of the data set."""

    def __init__(self, dataset: Dataset) -> None:
        self.classes = dataset.classes
        self.input_shape, self.input_dtype = tuple(dataset.inputs.shape[1:]), dataset.inputs.dtype
        self._dataset = dataset
        self._rows = class_rows(dataset.targets, dataset.classes)

    def name(self, label: int) -> str:
        """Returns the data set's name and the label."""
        return f"class {label} of {self._dataset.name}"

    def count(self, label: int) -> int:
        """Returns how many images a class has."""
        return len(self._rows[label])

    def images(self, label: int) -> Tensor:
        """Returns all images of a class."""
        return self._dataset.inputs[self._rows[label]]
