"""What a task of a data stream consists of, and what makes tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from plasticity.envs.experience import Examples


@dataclass(frozen=True, eq=False)
class TaskData:
    """One task.

    Attributes:
        train: The examples that are learned from.
        validation: Separate examples for choices such as early stopping, or None.
        test: Examples separate from both to report on, or None.
        active: (K,) bool, the classes that count; the others are left out of loss and accuracy. None if all count.
    """

    train: Examples
    validation: Examples | None = None
    test: Examples | None = None
    active: Tensor | None = None


class TaskSource(Protocol):
    """Makes tasks, each a function of the seed and the task's number alone, and none before it is requested.

    Attributes:
        input_shape: Shape of one input.
        input_dtype: Type of the inputs; uint8 means values from 0 to 255.
        outputs: Classes, or regression targets.
        classification: Whether targets are labels (n,) int64; otherwise they are (n, K) float32.
        has_validation: Whether tasks have a validation set.
    """

    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
    outputs: int
    classification: bool
    has_validation: bool

    def task(self, number: int) -> TaskData:
        """Returns task ``number`` = 0, 1, ...; nothing that it returns may be changed in place."""
        ...

    def examples_in(self, number: int) -> int:
        """Returns how many examples the training set of a task has, without making it."""
        ...


def class_rows(targets: Tensor, classes: int) -> list[Tensor]:
    """Returns the rows of each class, in ascending order."""
    return [(targets == label).nonzero().squeeze(1) for label in range(classes)]


def class_mask(labels: Sequence[int], classes: int, device: torch.device | str) -> Tensor:
    """Returns (classes,) bool that is true for ``labels``."""
    mask = torch.zeros(classes, dtype=torch.bool)
    mask[list(labels)] = True
    return mask.to(device)
