"""Tasks that are one data set under changing transformations."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from plasticity.envs.datasets.datasets import DATASETS, Dataset
from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData, class_rows
from plasticity.envs.tasks.task_settings import ImageTaskSettings, drawn
from plasticity.envs.tasks.transformations import SHARED, TRANSFORMATIONS
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator

MODES: Final = ("continual", "composite", "growing")


@stream("task_stream")
@dataclass
class TaskStreamSettings(ImageTaskSettings):
    """A sequence of supervised tasks over one data set, which differ by transformations."""

    transformation: str = setting(
        "permuted_pixels",
        "``permuted_pixels``, ``random_labels``, ``permuted_labels`` or ``none``.",
        choices=tuple(TRANSFORMATIONS),
    )
    examples: int | None = setting(None, "Examples of the data set that the run has, drawn once; None for all.")
    examples_per_task: int | None = setting(None, "Examples of these drawn for each task; None for all of them.")
    mode: str = setting(
        "continual",
        "``continual``, ``composite`` (the same examples are transformed each time) or ``growing`` (a class more each time).",
        choices=MODES,
    )
    fraction: float = setting(1.0, "Part of a task's examples that is transformed.", low=0, high=1)
    test: bool | None = setting(
        None, "Whether images are kept for tests; None where there is an official test set, which digits and quick_draw lack."
    )

    def source(self, seed: int, device: torch.device) -> "TransformedTasks":
        """Makes the tasks."""
        apart = self.test if self.test is not None else DATASETS.named(self.dataset).official_test
        parts = [drawn(self.load("train" if apart else None), self.examples, seed)]
        train, *test = self.placed(device, *parts, *([self.load("test")] if apart else []))
        return TransformedTasks(train, self, seed, test[0] if test else None)


class TransformedTasks:
    """A task is a draw from one data set under a transformation of its own; a source of tasks.

    The modes are those of "Towards perpetually trainable neural networks", section 4.2. In ``continual`` a fraction of the task's
    examples, drawn for each task, is transformed and the rest is as it was. In ``composite`` the same examples are transformed
    every time, differently each time; with a fraction of 1 that is ``continual``. In ``growing`` task t holds the first t + 1
    classes, in an order that the seed decides (in the end, all of them), and the transformation is that of ``continual``. Random
    and permuted labels range over all classes in every mode.

    A test set is transformed like a fully transformed training set, where that is possible: it has the same permutation. If
    only a fraction is transformed it stays as it is. Wholly random labels cannot be tested.

    Args:
        dataset: The examples that tasks are drawn from, on the device where tasks are needed.
        settings: The settings.
        seed: The run's seed.
        test: Examples separate from ``dataset``, or None.

    Raises:
        ValueError: A task with this number of examples cannot be drawn.
    """

    classification = True
    has_validation = False

    def __init__(self, dataset: Dataset, settings: TaskStreamSettings, seed: int, test: Dataset | None = None) -> None:
        available, examples_per_task = len(dataset.inputs), settings.examples_per_task
        if examples_per_task is not None and not 1 <= examples_per_task <= available:
            raise ValueError(f"examples_per_task must be null or 1..{available}, got {examples_per_task!r}")
        if examples_per_task is not None and settings.mode == "growing":
            raise ValueError(f"examples_per_task must be null in mode 'growing', where tasks grow, got {examples_per_task!r}")
        self.input_shape, self.input_dtype = tuple(dataset.inputs.shape[1:]), dataset.inputs.dtype
        self.outputs = dataset.classes
        self._dataset, self._test, self._seed = dataset, test, seed
        self._name, self._transform = settings.transformation, TRANSFORMATIONS[settings.transformation]
        self._mode, self._fraction, self._wanted = settings.mode, settings.fraction, examples_per_task
        self._device = dataset.inputs.device
        if settings.mode == "growing":
            self._classes = torch.randperm(dataset.classes, generator=torch_generator(seed, "class order")).to(self._device)
            by_class = class_rows(dataset.targets, dataset.classes)
            self._rows = [by_class[label] for label in self._classes.tolist()]

    def examples_in(self, number: int) -> int:
        """Returns the examples of a task."""
        if self._mode == "growing":
            return sum(len(rows) for rows in self._rows[: number + 1])
        return len(self._dataset.inputs) if self._wanted is None else self._wanted

    def task(self, number: int) -> TaskData:
        """Draws and transforms a task."""
        inputs, targets = self._dataset.inputs, self._dataset.targets
        rows = self._chosen(number)
        if rows is not None:
            inputs, targets = inputs[rows], targets[rows]
        generator = torch_generator(self._seed, "task", number, "transformation")
        changed = Examples(*self._transform(inputs, targets, self.outputs, generator))
        if self._fraction < 1:
            changed = self._mixed(Examples(inputs, targets), changed, self._transformed(number, rows, len(inputs)))
        return TaskData(changed, test=self._test_of(number))

    def _chosen(self, number: int) -> Tensor | None:
        """Returns the rows of the data set that a task has, or None for all of them in order."""
        if self._mode == "growing":
            return torch.cat(self._rows[: number + 1])
        if self._wanted is None or self._wanted == len(self._dataset.inputs):
            return None
        order = torch.randperm(len(self._dataset.inputs), generator=torch_generator(self._seed, "task", number, "examples"))
        return order[: self._wanted].to(self._device)

    def _transformed(self, number: int, rows: Tensor | None, count: int) -> Tensor:
        """Returns (count,) bool, true for the examples of a task that are transformed."""
        if self._mode == "composite":
            fixed = self._drawn(len(self._dataset.inputs), torch_generator(self._seed, "transformed"))
            return fixed if rows is None else fixed[rows]
        return self._drawn(count, torch_generator(self._seed, "task", number, "transformed"))

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        mask = torch.zeros(count, dtype=torch.bool)
        mask[torch.randperm(count, generator=generator)[: round(self._fraction * count)]] = True
        return mask.to(self._device)

    @staticmethod
    def _mixed(plain: Examples, changed: Examples, mask: Tensor) -> Examples:
        of_inputs = mask.view(-1, *[1] * (plain.inputs.ndim - 1))
        return Examples(torch.where(of_inputs, changed.inputs, plain.inputs), torch.where(mask, changed.targets, plain.targets))

    def _test_of(self, number: int) -> Examples | None:
        if self._test is None:
            return None
        plain = Examples(self._test.inputs, self._test.targets)
        if self._mode == "growing":
            kept = torch.isin(plain.targets, self._classes[: number + 1])
            plain = Examples(plain.inputs[kept], plain.targets[kept])
        if self._fraction < 1:
            return plain
        if self._name not in SHARED:
            return None
        return Examples(*self._transform(*plain, self.outputs, torch_generator(self._seed, "task", number, "transformation")))
