"""How the examples of a task are shown, and how one task follows another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.envs.experience import Examples


@dataclass(frozen=True)
class Schedule:
    """How a task's examples are shown.

    Attributes:
        epochs_per_task: Passes over a task's examples.
        batch_size: Examples in a minibatch.
        announce_tasks: Whether ``TaskStream.task`` tells the learner the true task; otherwise it stays 0.
        first_epochs: Passes of the first tasks, where they differ from those of the rest.
        batches_per_task: Minibatches of a task, whose last epoch may then be cut short, for any number of passes; None to count
            passes.
        drift_steps: Minibatches at the start of a task in which some examples are still of the task before it; 0 for none.

    Raises:
        ValueError: If a number is less than 1, or ``drift_steps`` less than 0.
    """

    epochs_per_task: int = 1
    batch_size: int = 16
    announce_tasks: bool = True
    first_epochs: Sequence[int] = ()
    batches_per_task: int | None = None
    drift_steps: int = 0

    def __post_init__(self) -> None:
        for name, value in (("epochs_per_task", self.epochs_per_task), ("batch_size", self.batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        if self.batches_per_task is not None and self.batches_per_task < 1:
            raise ValueError(f"batches_per_task must be null or at least 1, got {self.batches_per_task!r}")
        if self.drift_steps < 0:
            raise ValueError(f"drift_steps must be at least 0, got {self.drift_steps!r}")
        if any(epochs < 1 for epochs in self.first_epochs):
            raise ValueError(f"first_epochs must be numbers of at least 1, got {list(self.first_epochs)!r}")

    def epochs(self, task: int, examples: int) -> int:
        """Returns the passes over the examples of a task, one that is cut short among them."""
        if self.batches_per_task is not None:
            return -(-self.batches_per_task // self.batches(examples))
        return self.first_epochs[task] if task < len(self.first_epochs) else self.epochs_per_task

    def batches(self, examples: int) -> int:
        """Returns the minibatches of a whole epoch."""
        return -(-examples // self.batch_size)

    def examples_shown(self, examples: int, epoch: int) -> int:
        """Returns how many examples an epoch of a task shows: all, unless the task ends within it."""
        if self.batches_per_task is None:
            return examples
        left = self.batches_per_task - epoch * self.batches(examples)
        return min(examples, left * self.batch_size)

    def shares_of_new(self, before: int, examples: int) -> Tensor:
        """Returns (examples,) float64, the chance that each of an epoch's examples is of the new task and not of the one before.

        Args:
            before: Minibatches of the task before the epoch.
            examples: Those of the epoch.
        """
        minibatch = before + torch.arange(examples, dtype=torch.float64).div(self.batch_size, rounding_mode="floor")
        return (minibatch / self.drift_steps).clamp(max=1.0) if self.drift_steps else torch.ones_like(minibatch)


def with_task_before(shown: Examples, order: Tensor, before: Examples, share: Tensor, generator: torch.Generator) -> Examples:
    """Returns an epoch in which each example is of the new task with its own probability, otherwise of the task before.

    Args:
        shown: The new task's examples in the order of the epoch, (n, ...) and (n, ...).
        order: (n,), the row of the new task that each of them is.
        before: The task before; an example of it is the same row of that task, which for one data set under changing labels or
            permutations is the same image, or one drawn uniformly if that task does not have n examples.
        share: (n,), the chance of the new task; at 0 none is of it, at 1 all are.
        generator: A private one, on the CPU.
    """
    is_new = (torch.rand(len(order), generator=generator, dtype=torch.float64) < share).to(order.device)
    rows = order
    if len(before.targets) != len(order):
        rows = torch.randint(len(before.targets), (len(order),), generator=generator).to(order.device)
    return Examples(
        _chosen(is_new, shown.inputs, before.inputs[rows]),
        _chosen(is_new, shown.targets, before.targets[rows]),
    )


def _chosen(first: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """Returns the rows of ``these`` where ``first`` (n,) is true, and otherwise those of ``others``, both (n, ...)."""
    return torch.where(first.view(-1, *[1] * (these.ndim - 1)), these, others)
