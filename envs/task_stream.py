"""Supervised learning as an endless sequence of tasks over one data set."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from envs.datasets import Dataset
from envs.experience import Examples, Experience
from envs.transformations import TRANSFORMATIONS
from seeding import torch_generator


class TaskStream:
    """Minibatches of one task after another; implements ``envs.stream.Stream``.

    Task t draws ``examples_per_task`` examples without replacement, transforms them, and shows them for
    ``epochs_per_task`` epochs, each in a fresh order; then task t + 1 begins. The last minibatch of an epoch holds what is
    left and may be smaller. All that is random follows from (seed, task, epoch) alone, so the data do not depend on the
    learner, and a resumed stream goes on exactly.

    ``stats`` holds ``stream/task``, the true task, on the first minibatch of each task, also when tasks are hidden.

    Args:
        dataset: the examples that tasks are made of.
        transformation: what differs between tasks: a key of ``TRANSFORMATIONS``.
        examples_per_task: examples in a task; None is the whole data set.
        epochs_per_task: passes over a task's examples, at least 1.
        batch_size: examples in a minibatch, at least 1.
        seed: the run's seed.
        announce_tasks: whether ``task`` tells the learner the true task; otherwise it stays 0.
        device: where data are kept, transformed and handed out. Data are not copied to it again at each step.

    Attributes:
        step: minibatches so far.
        task: the announced task of the latest minibatch.
        input_shape: (C, H, W).
        input_dtype: the data set's dtype.
        classes: number of classes.

    Raises:
        ValueError: a setting outside its range, or an unknown transformation.
    """

    def __init__(
        self,
        dataset: Dataset,
        transformation: str,
        examples_per_task: int | None,
        epochs_per_task: int,
        batch_size: int,
        seed: int,
        announce_tasks: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        available = len(dataset.inputs)
        if transformation not in TRANSFORMATIONS:
            raise ValueError(f"unknown transformation {transformation!r}; choose from {', '.join(TRANSFORMATIONS)}")
        if examples_per_task is not None and not 1 <= examples_per_task <= available:
            raise ValueError(f"examples_per_task must be null or 1..{available}, got {examples_per_task!r}")
        for name, value in (("epochs_per_task", epochs_per_task), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        self.input_shape = tuple(dataset.inputs.shape[1:])
        self.input_dtype = dataset.inputs.dtype
        self.classes = dataset.classes
        self.step = 0
        self._inputs = dataset.inputs.to(device)
        self._targets = dataset.targets.to(device)
        self._transform = TRANSFORMATIONS[transformation]
        self._examples_per_task = available if examples_per_task is None else examples_per_task
        self._epochs_per_task = epochs_per_task
        self._batch_size = batch_size
        self._seed = seed
        self._announce_tasks = announce_tasks
        self._task: int
        self._epoch: int
        self._position: int  # examples of the epoch already handed out
        self._go_to(task=0, epoch=0, position=0)

    @property
    def task(self) -> int:
        """The announced task of the latest minibatch."""
        return self._task if self._announce_tasks else 0

    def advance(self, act: Callable[[Tensor], Tensor] | None = None) -> Experience:
        """Returns the next minibatch; ``act`` is ignored."""
        if self._position == self._examples_per_task:
            self._next_epoch()
        start = self._position
        self._position = min(start + self._batch_size, self._examples_per_task)
        rows = slice(start, self._position)
        stats: Mapping[str, float] = {"stream/task": float(self._task)} if start == 0 and self._epoch == 0 else {}
        self.step += 1
        return Experience(Examples(self._epoch_inputs[rows], self._epoch_targets[rows]), self.task, stats)

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the sequence: minibatches so far, true task, epoch in it and examples seen in that."""
        return {"step": self.step, "task": self._task, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a saved place.

        Raises:
            ValueError: the place cannot belong to this stream: it was saved with other settings.
        """
        batches_per_epoch = -(-self._examples_per_task // self._batch_size)
        epochs_before = state["task"] * self._epochs_per_task + state["epoch"]
        expected = epochs_before * batches_per_epoch - (-state["position"] // self._batch_size)
        if state["step"] != expected:
            raise ValueError(
                f"saved step {state['step']} does not fit task {state['task']}, epoch {state['epoch']}, position "
                f"{state['position']} with {batches_per_epoch} minibatches in an epoch and {self._epochs_per_task} epochs "
                f"in a task (expected {expected}): the stream was saved with other settings"
            )
        self.step = state["step"]
        self._go_to(state["task"], state["epoch"], state["position"])

    def close(self) -> None:
        """Holds nothing that needs closing."""

    def _next_epoch(self) -> None:
        if self._epoch + 1 < self._epochs_per_task:
            self._start_epoch(self._epoch + 1)
        else:
            self._go_to(self._task + 1, epoch=0, position=0)

    def _go_to(self, task: int, epoch: int, position: int) -> None:
        self._task = task
        self._task_inputs, self._task_targets = self._examples_of(task)
        self._start_epoch(epoch)
        self._position = position

    def _examples_of(self, task: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self._inputs, self._targets
        if self._examples_per_task < len(inputs):
            order = torch.randperm(len(inputs), generator=torch_generator(self._seed, "task", task, "examples"))
            chosen = order[: self._examples_per_task].to(inputs.device)
            inputs, targets = inputs[chosen], targets[chosen]
        generator = torch_generator(self._seed, "task", task, "transformation")
        return self._transform(inputs, targets, self.classes, generator)

    def _start_epoch(self, epoch: int) -> None:
        # The epoch is put in order as a whole, so that a step is a slice, which costs least for small minibatches.
        generator = torch_generator(self._seed, "order", self._task, epoch)
        order = torch.randperm(self._examples_per_task, generator=generator).to(self._inputs.device)
        self._epoch_inputs, self._epoch_targets = self._task_inputs[order], self._task_targets[order]
        self._epoch = epoch
        self._position = 0
