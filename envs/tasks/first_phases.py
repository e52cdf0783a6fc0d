"""A first phase of training that is poorer than what follows: warm starts and passing non-stationarity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_settings import ImageTaskSettings
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator

PHASES: Final = ("subset", "noisy_labels", "wrong_labels")


@stream("first_phases")
@dataclass
class FirstPhasesSettings(ImageTaskSettings):
    """A poorer version of a data set first, then all of it."""

    dataset: str = "cifar10"
    epochs_per_task: int = 350
    batch_size: int = 128
    kind: str = setting("subset", "``subset``, ``noisy_labels`` or ``wrong_labels``.", choices=PHASES)
    fraction: float = setting(
        0.5, "Part of the examples that is shown at first, or whose label is incorrect at first.", low=0, high=1
    )
    phases: int = setting(1, "Poorer tasks before the full one.", low=1)
    first_epochs: int | None = setting(None, "Passes over the examples of each poorer task; None for ``epochs_per_task``.", low=1)
    gradual: bool = setting(True, "Whether the good part grows by equal steps from phase to phase, or stays the same.")
    right_by_chance: bool = setting(False, "Whether a noisy or wrong label may be the right one by chance.")
    validation_fraction: float = setting(0.0, "Part of the training images held out for validation.", low=0, below=1)

    def source(self, seed: int, device: torch.device) -> "FirstPhases":
        """Makes the tasks."""
        train, test = self.placed(device, self.load("train"), self.load("test"))
        return FirstPhases(train, test, self, seed)

    def epochs_of_first_tasks(self) -> Sequence[int]:
        """Returns the passes of the poorer tasks."""
        return () if self.first_epochs is None else [self.first_epochs] * self.phases


class FirstPhases:
    """The first tasks are a poorer version of the data set, all tasks after them the data set as it is; a source of tasks.

    ``subset`` shows part of the data: a warm start from half of it is one phase with fraction 0.5 (Ash and Adams 2020, "On
    warm-starting neural network training"). The other two show all of it, with incorrect labels for part of the examples, as in
    Igl et al. (2021), "Transient non-stationarity and generalisation in deep reinforcement learning": ``wrong_labels`` are drawn
    once and stay, ``noisy_labels`` are drawn again in each phase (there in each epoch, which is ``first_epochs=1`` here). An
    incorrect label is uniform over the other classes; the published code lets noisy ones be right by chance.

    With more than one phase the good part grows, by equal steps from phase to phase up to all examples in the full task, and
    contains that before it. With ``gradual=False`` it is the same part in every phase. Validation and test examples are never
    changed.

    Args:
        dataset: The training images, on the device where tasks are wanted.
        test: The test images, or None.
        settings: The settings.
        seed: The run's seed.

    Raises:
        ValueError: The first phase would have no examples.
    """

    classification = True

    def __init__(self, dataset: Dataset, test: Dataset | None, settings: FirstPhasesSettings, seed: int) -> None:
        count = len(dataset.inputs)
        self.input_shape, self.input_dtype = tuple(dataset.inputs.shape[1:]), dataset.inputs.dtype
        self.outputs = dataset.classes
        self._dataset, self._test, self._seed = dataset, test, seed
        self._kind, self._fraction = settings.kind, settings.fraction
        self._phases, self._gradual = settings.phases, settings.gradual
        self._right_by_chance = settings.right_by_chance
        held_out = round(settings.validation_fraction * count)
        self.has_validation = held_out > 0
        order = torch.randperm(count, generator=torch_generator(seed, "example order")).to(dataset.inputs.device)
        self._held_out, self._order = order[:held_out], order[held_out:]
        if self.examples_in(0) < 1:
            raise ValueError(f"fraction={settings.fraction!r} of {len(self._order)} examples leaves none for the first phase")

    def examples_in(self, number: int) -> int:
        """Returns the training examples of a task."""
        return self._unchanged_examples(number) if self._kind == "subset" else len(self._order)

    def task(self, number: int) -> TaskData:
        """Makes one phase, or the full task that follows them all."""
        train = self._of(self._order[: self.examples_in(number)])
        unchanged = self._unchanged_examples(number)
        if unchanged < len(train.targets):
            train.targets[unchanged:] = self._incorrect(train.targets, number)[unchanged:]
        validation = self._of(self._held_out) if self.has_validation else None
        test = None if self._test is None else Examples(self._test.inputs, self._test.targets)
        return TaskData(train, validation, test)

    def _unchanged_examples(self, number: int) -> int:
        """Returns how many examples, the first of the order, are shown as they are."""
        first = self._fraction if self._kind == "subset" else 1 - self._fraction
        passed = number / self._phases if self._gradual or number >= self._phases else 0.0
        return round((first + (1 - first) * min(passed, 1.0)) * len(self._order))

    def _of(self, rows: Tensor) -> Examples:
        return Examples(self._dataset.inputs[rows], self._dataset.targets[rows])

    def _incorrect(self, targets: Tensor, number: int) -> Tensor:
        """Returns an incorrect label for every example."""
        task = ("task", number) if self._kind == "noisy_labels" else ()
        generator = torch_generator(self._seed, *task, "labels")
        shift = torch.randint(0 if self._right_by_chance else 1, self.outputs, (len(targets),), generator=generator)
        return (targets + shift.to(targets.device)) % self.outputs
