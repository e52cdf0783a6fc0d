"""Supervised learning as an endless sequence of tasks."""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.envs.datasets.augmentation import Augmentation
from plasticity.envs.drift import check_drift
from plasticity.envs.experience import Examples, Experience, Place
from plasticity.envs.tasks.preparation import Preparation
from plasticity.envs.tasks.schedule import Schedule, with_task_before
from plasticity.envs.tasks.task_data import TaskData, TaskSource
from plasticity.settings.seeding import torch_generator

SETS: Final = ("train", "validation", "test")
_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class TaskStream:
    """Minibatches of one task after another; implements ``plasticity.envs.stream.Stream``.

    A task's training examples are shown for some epochs, each in a fresh order; then the next task starts. The last minibatch
    of an epoch holds what is left and may be smaller. All that is random follows from (seed, task, epoch) alone, so the data do
    not depend on the learner, and a resumed stream continues exactly.

    With ``Schedule.drift_steps`` = D a change is gradual: in minibatch m < D of a task, from 0, each example is of the new task
    with probability m / D and otherwise of the task before it: the same row of that task, or one drawn at random where the two
    are not of equal size. The validation and test sets are the new task's. See ``plasticity.envs.drift``.

    ``stats`` holds ``stream/task``, the true task, on the first minibatch of each task, also when tasks are hidden.

    Args:
        source: makes the tasks, on the device where data are kept.
        schedule: how their examples are shown.
        seed: the run's seed.
        preparation: the preparation of every minibatch.

    Raises:
        ValueError: the preparation does not fit the inputs, or a drift is longer than the second task.

    Attributes:
        step: minibatches so far.
        task: the announced task of the latest minibatch.
        source: the source.
        input_shape: shape of one input.
        input_dtype: type of the inputs as learners receive them.
    """

    def __init__(self, source: TaskSource, schedule: Schedule, seed: int, preparation: Preparation | None = None) -> None:
        self.source = source
        self.step = 0
        self._schedule, self._seed = schedule, seed
        self._preparation = preparation or Preparation(Augmentation())
        self._preparation.require_fit(source.input_shape, source.input_dtype)
        if schedule.drift_steps:
            check_drift(schedule.drift_steps, self.minibatches(1), "minibatches of a task")
        self.input_shape = source.input_shape
        self.input_dtype = self._preparation.output_dtype(source.input_dtype)
        self._task = 0
        self._epoch: int
        self._position: int  # examples of the epoch that were already given
        self._data: TaskData
        self._made: dict[int, TaskData] = {}  # the current task, and the latest other one that was requested
        self._go_to(task=0, epoch=0, position=0)

    @property
    def task(self) -> int:
        """The announced task of the latest minibatch."""
        return self._task if self._schedule.announce_tasks else 0

    @property
    def true_task(self) -> int:
        """The task of the latest minibatch, announced or not."""
        return self._task

    @property
    def batch_size(self) -> int:
        """Examples in a minibatch, except the last of an epoch."""
        return self._schedule.batch_size

    @property
    def epoch(self) -> int:
        """The epoch of the latest minibatch in its task, from 0."""
        return self._epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether the latest minibatch was the last of its epoch."""
        return self._position == self._shown

    @property
    def ends_task(self) -> bool:
        """Whether the latest minibatch was the last of its task."""
        return self.ends_epoch and self._epoch + 1 == self._epochs

    def minibatches(self, task: int) -> int:
        """Returns the minibatches of a task."""
        if self._schedule.batches_per_task is not None:
            return self._schedule.batches_per_task
        examples = self.source.examples_in(task)
        return self._schedule.epochs(task, examples) * self._schedule.batches(examples)

    def smallest_minibatch(self, task: int) -> int:
        """Returns the examples of the smallest minibatch of a task."""
        examples, size = self.source.examples_in(task), self._schedule.batch_size
        epochs = self._schedule.epochs(task, examples)
        shown = {self._schedule.examples_shown(examples, epoch) for epoch in (0, epochs - 1)}
        return min(count % size or size for count in shown)

    def advance(self, act: Callable[[Tensor], Tensor] | None = None) -> Experience:
        """Returns the next minibatch; ``act`` is ignored."""
        if self._position == self._shown:
            self._next_epoch()
        start = self._position
        self._position = min(start + self._schedule.batch_size, self._shown)
        rows = slice(start, self._position)
        inputs, targets = self._epoch_inputs[rows], self._epoch_targets[rows]
        if self._prepares:
            inputs = self._preparation.training(inputs, self._draws.rows(rows))
        stats: Mapping[str, float] = {"stream/task": float(self._task)} if start == 0 and self._epoch == 0 else _NOTHING
        self.step += 1
        number = self._earlier + start // self._schedule.batch_size
        place = Place(self._epoch, self._epochs, self.ends_epoch, self.ends_task, *self._belonging, number, self._minibatches)
        return Experience(Examples(inputs, targets), self.task, stats, place)

    def peek(self, count: int) -> Examples:
        """Returns up to ``count`` examples of the task of the next minibatch, as they will come, and in that order.

        A second stream that starts at the same place is used, so that this one does not move.

        Args:
            count: at least 1; fewer are returned where the epoch has fewer left.
        """
        other = copy(self)
        shown: list[Examples] = []
        while not shown or (sum(len(batch.targets) for batch in shown) < count and not other.ends_epoch):
            batch = other.advance().batch
            assert isinstance(batch, Examples)
            shown.append(batch)
        inputs, targets = (torch.cat(column)[:count] for column in zip(*shown, strict=True))
        return Examples(inputs, targets)

    def sets(self, task: int | None = None) -> Mapping[str, Examples]:
        """Returns the sets of examples that a task has, by ``train``, ``validation`` and ``test``, as the source made them.

        Args:
            task: its number; None for that of the latest minibatch.
        """
        data = self._data_of(task)
        return {name: part for name in SETS if (part := getattr(data, name)) is not None}

    def active(self, task: int | None = None) -> Tensor | None:
        """Returns the mask (K,) of the classes that count in a task, or None if all do."""
        return self._data_of(task).active

    def in_batches(self, examples: Examples, count: int, generator: torch.Generator | None = None) -> Iterator[Examples]:
        """Yields a set in minibatches of ``count`` as a learner would see them.

        Args:
            examples: one of ``sets``.
            count: examples at a time.
            generator: draws the augmentation; None for none, the usual way to evaluate.
        """
        for inputs, targets in zip(examples.inputs.split(count), examples.targets.split(count), strict=True):
            yield Examples(self._preparation.evaluation(inputs, generator), targets)

    def beginning(self, task: int) -> "TaskStream":
        """Returns another stream of the same data, at the start of a task and at step 0."""
        other = copy(self)
        other.step = 0
        other._go_to(task, epoch=0, position=0)
        return other

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the sequence: minibatches so far, true task, epoch in it and examples seen in that."""
        return {"step": self.step, "task": self._task, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a saved place.

        Raises:
            ValueError: the place cannot belong to this stream: it was saved with other settings.
        """
        task, epoch, position = state["task"], state["epoch"], state["position"]
        examples = self.source.examples_in(task)
        per_epoch, epochs = self._schedule.batches(examples), self._schedule.epochs(task, examples)
        before = sum(self.minibatches(number) for number in range(task))
        expected = before + epoch * per_epoch - (-position // self._schedule.batch_size)
        if state["step"] != expected:
            raise ValueError(
                f"saved step {state['step']} does not fit task {task}, epoch {epoch}, position {position} with {per_epoch} "
                f"minibatches in an epoch and {epochs} epochs in a task (expected {expected}): the stream "
                "was saved with other settings"
            )
        self.step = state["step"]
        self._go_to(task, epoch, position)

    def close(self) -> None:
        """Holds nothing that needs closing."""

    def _data_of(self, task: int | None) -> TaskData:
        number = self._task if task is None else task
        if number not in self._made:  # a new dictionary, because a stream that starts elsewhere shares this one
            present = {self._task: self._made[self._task]} if self._task in self._made else {}
            self._made = {**present, number: self.source.task(number)}
        return self._made[number]

    def _next_epoch(self) -> None:
        if self._epoch + 1 < self._epochs:
            self._start_epoch(self._epoch + 1)
        else:
            self._go_to(self._task + 1, epoch=0, position=0)

    def _go_to(self, task: int, epoch: int, position: int) -> None:
        self._task = task
        self._data, made = self._data_of(task), self._made
        drifts = self._schedule.drift_steps > 0 and task - 1 in made
        self._made = {task: self._data, **({task - 1: made[task - 1]} if drifts else {})}
        self._examples = len(self._data.train.inputs)
        if self._examples == 0 or self._examples != self.source.examples_in(task):
            raise ValueError(f"task {task} has {self._examples} examples, expected {self.source.examples_in(task)}")
        self._epochs = self._schedule.epochs(task, self._examples)
        validation = self._data.validation
        if validation is not None:
            validation = validation._replace(inputs=self._preparation.evaluation(validation.inputs))
        self._belonging = self._data.active, validation
        self._minibatches = self.minibatches(task)
        self._start_epoch(epoch)
        self._position = position

    def _start_epoch(self, epoch: int) -> None:
        # The epoch is put in order as a whole, so that a step is a slice, which is fastest for small minibatches.
        train = self._data.train
        order = torch.randperm(self._examples, generator=torch_generator(self._seed, "order", self._task, epoch))
        order = order.to(train.inputs.device)
        self._epoch_inputs, self._epoch_targets = train.inputs[order], train.targets[order]
        self._epoch = epoch
        self._shown = self._schedule.examples_shown(self._examples, epoch)
        self._position = 0
        self._earlier = epoch * self._schedule.batches(self._examples)  # minibatches of the task before this epoch
        if self._task and self._earlier < self._schedule.drift_steps:
            draws = torch_generator(self._seed, "drift", self._task, epoch)
            shown = Examples(self._epoch_inputs, self._epoch_targets)
            share = self._schedule.shares_of_new(self._earlier, self._examples)
            mixed = with_task_before(shown, order, self._data_of(self._task - 1).train, share, draws)
            self._epoch_inputs, self._epoch_targets = mixed
        self._prepares = self._preparation.active
        if self._prepares:
            generator = torch_generator(self._seed, "augmentation", self._task, epoch)
            self._draws = self._preparation.draw(self._examples, generator, train.inputs.device)
