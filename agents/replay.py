"""Uniform replay."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.experience import Transitions
from networks.spec import require_range


class ReplayBatch(NamedTuple):
    """Sampled transitions, leading axis B, on the learner's device."""

    inputs: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    next_inputs: Tensor


class Replay:
    """A ring of the latest transitions, sampled uniformly with replacement.

    Args:
        capacity: Transitions kept.
        device: Where the ring lives.

    Attributes:
        size: Transitions held.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        require_range("agent.buffer_transitions", capacity, 1)
        self.capacity, self.device = capacity, device
        self.size = 0
        self._next = 0
        self._columns: ReplayBatch | None = None

    def add(self, transitions: Transitions) -> None:
        """Appends N transitions, overwriting the oldest when full.

        Raises:
            ValueError: If N exceeds the capacity.
        """
        rows = ReplayBatch(
            transitions.observations,
            transitions.actions,
            transitions.rewards,
            transitions.terminated,
            transitions.next_observations,
        )
        count = rows.rewards.shape[0]
        if self._columns is None:
            require_range("agent.buffer_transitions", self.capacity, count)
            self._columns = self._allocate(rows)
        first = min(count, self.capacity - self._next)
        for column, new in zip(self._columns, rows, strict=True):
            column[self._next : self._next + first] = new[:first]
            if first < count:
                column[: count - first] = new[first:]
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> ReplayBatch:
        """Draws ``count`` transitions with a generator on the replay's device.

        Raises:
            ValueError: If the replay is empty.
        """
        if self._columns is None:
            raise ValueError("the replay is empty")
        rows = torch.randint(self.size, (count,), generator=generator, device=self.device)
        return ReplayBatch(*(column.index_select(0, rows) for column in self._columns))

    def state_dict(self) -> dict[str, Any]:
        """Returns the transitions held and the write position; a full ring is returned itself, to be saved before the next."""
        columns = None if self._columns is None else tuple(self._held(column) for column in self._columns)
        return {"columns": columns, "size": self.size, "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.size, self._next = state["size"], state["next"]
        if state["columns"] is not None:
            rows = ReplayBatch(*state["columns"])
            self._columns = self._allocate(rows)
            for column, saved in zip(self._columns, rows, strict=True):
                column[: self.size] = saved

    def _held(self, column: Tensor) -> Tensor:
        # Saving a view writes all the memory behind it, so a part of the ring is copied.
        return column if self.size == self.capacity else column[: self.size].clone()

    def _allocate(self, rows: ReplayBatch) -> ReplayBatch:
        columns = [torch.zeros((self.capacity, *row.shape[1:]), dtype=row.dtype, device=self.device) for row in rows]
        return ReplayBatch(*columns)
