"""A first phase of training that is poorer than what follows: warm starts and passing non-stationarity."""

from typing import Final

import torch
from torch import Tensor

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_data import TaskData
from plasticity.settings.seeding import torch_generator

PHASES: Final = ("subset", "noisy_labels", "wrong_labels")


class FirstPhases:
    """The first tasks are a poorer version of the data set, all tasks after them the data set as it is; a source of tasks.

    ``subset`` shows part of the data: a warm start from half of it is one phase with fraction 0.5 (Ash and Adams 2020, "On
    warm-starting neural network training"). The other two show all of it, with incorrect labels for part of the examples, as in
    Igl et al. (2021), "Transient non-stationarity and generalisation in deep reinforcement learning": ``wrong_labels`` are drawn
    once and stay, ``noisy_labels`` are drawn anew in each phase (there in each epoch, which is ``first_epochs=1`` here). An
    incorrect label is uniform over the other classes; the published code lets noisy ones be right by chance.

    With more phases than one the good part grows, by equal steps from phase to phase up to all examples in the full task, and
    contains that before it. With ``gradual=False`` it is the same part in every phase. Validation and test examples are always
    as they are.

    Args:
        dataset: the training images, on the device where tasks are wanted.
        test: the test images, or None.
        seed: the run's seed.
        kind: one of ``PHASES``.
        fraction: part of the examples that the first phase shows, or whose label is incorrect in it.
        phases: poorer tasks before the full one, at least 1.
        validation_fraction: part of the training images held out for validation; less than 1.
        gradual: whether the good part grows from phase to phase.
        right_by_chance: whether labels of the other two kinds are uniform over all classes, the right one among them.

    Raises:
        ValueError: a setting outside its range, or an unknown name.
    """

    classification = True

    def __init__(
        self,
        dataset: Dataset,
        test: Dataset | None,
        seed: int,
        kind: str = "subset",
        fraction: float = 0.5,
        phases: int = 1,
        validation_fraction: float = 0.0,
        gradual: bool = True,
        right_by_chance: bool = False,
    ) -> None:
        if kind not in PHASES:
            raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(PHASES)}")
        if not 0 <= fraction <= 1 or phases < 1:
            raise ValueError(f"fraction must lie between 0 and 1 and phases be at least 1, got {fraction!r} and {phases!r}")
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie in 0..1, 1 excluded, got {validation_fraction!r}")
        count = len(dataset.inputs)
        self.input_shape, self.input_dtype = tuple(dataset.inputs.shape[1:]), dataset.inputs.dtype
        self.outputs = dataset.classes
        self._dataset, self._test, self._seed = dataset, test, seed
        self._kind, self._fraction, self._phases, self._gradual = kind, fraction, phases, gradual
        self._right_by_chance = right_by_chance
        held_out = round(validation_fraction * count)
        self.has_validation = held_out > 0
        order = torch.randperm(count, generator=torch_generator(seed, "example order")).to(dataset.inputs.device)
        self._held_out, self._order = order[:held_out], order[held_out:]
        if self.examples_in(0) < 1:
            raise ValueError(f"fraction={fraction!r} of {len(self._order)} examples leaves none for the first phase")

    def examples_in(self, number: int) -> int:
        """Returns the training examples of a task."""
        return self._good(number) if self._kind == "subset" else len(self._order)

    def task(self, number: int) -> TaskData:
        """Makes one phase, or the full task that follows them all."""
        train = self._of(self._order[: self.examples_in(number)])
        good = self._good(number)
        if good < len(train.targets):
            train.targets[good:] = self._incorrect(train.targets, number)[good:]
        validation = self._of(self._held_out) if self.has_validation else None
        test = None if self._test is None else Examples(self._test.inputs, self._test.targets)
        return TaskData(train, validation, test)

    def _good(self, number: int) -> int:
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
