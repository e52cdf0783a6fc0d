"""The latest examples that a part learned from and its objective, kept for measurements of the loss."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.networks.objective import AnyBatch, Batch, Objective

COUNT: Final = 64


class LatestExamples:
    """Keeps references to the latest minibatches, only as many as hold ``COUNT`` examples.

    Attributes:
        objective: Maps outputs and a batch to the loss and to measures. The loss must be a mean over examples, so that the one of
            a batch of a single row is that example's. None until ``declare`` was called.
    """

    def __init__(self) -> None:
        self.objective: Objective[Any] | None = None
        self._type: Callable[..., Batch]
        self._batches: deque[Batch] = deque()
        self._rows = 0

    def declare(self, objective: Objective[AnyBatch], batch_type: Callable[..., AnyBatch]) -> None:
        """Sets what the part learns from; called when the agent is built.

        Args:
            objective: The one that each update is made with.
            batch_type: The class of its batches, a named tuple of tensors with a field ``inputs``.
        """
        self.objective, self._type = objective, batch_type

    def add(self, batch: Batch) -> None:
        """Remembers one minibatch."""
        self._batches.append(batch)
        self._rows += batch[0].shape[0]
        while self._rows - (oldest := self._batches[0][0].shape[0]) >= COUNT:
            self._batches.popleft()
            self._rows -= oldest

    def latest(self, count: int) -> Batch | None:
        """Returns the latest examples, at most ``count`` and at most ``COUNT``, or None before the first."""
        if not self._batches:
            return None
        columns = zip(*self._batches, strict=True)
        return self._type(*(torch.cat(column)[-min(count, COUNT) :] for column in columns))

    def state_dict(self) -> list[Tensor] | None:
        """Returns copies of the columns, or None before the first."""
        latest = self.latest(COUNT)
        return None if latest is None else [column.clone() for column in latest]

    def load_state_dict(self, state: list[Tensor] | None, device: torch.device) -> None:
        """Restores what ``state_dict`` returned."""
        self._batches.clear()
        self._rows = 0
        if state is not None:
            self.add(self._type(*(column.to(device) for column in state)))
