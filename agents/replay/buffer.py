"""Replay: the latest transitions, each observation stored once, sampled with returns over one or several steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plasticity.agents.replay.age_weights import AgeWeights
from plasticity.agents.replay.frame_memory import Ring
from plasticity.agents.replay.frame_store import FrameStore
from plasticity.agents.replay.n_step import n_step_returns
from plasticity.agents.replay.segments import SEGMENTS, Segment, pieces, read_segment, rows_per_segment, write_segment
from plasticity.envs.experience import Transitions
from plasticity.settings.fields import require_range

_NOT_GIVEN = torch.tensor(float("nan"))


class ReplayBatch(NamedTuple):
    """Sampled transitions of up to n steps, leading axis B, on the learner's device.

    The target of a value is rewards + discounts * (1 - terminated) * value of next_inputs.

    Attributes:
        inputs: (B, *shape) observations.
        actions: (B,) int64 or (B, A) float32.
        rewards: (B,) float32; over several steps the sum of gamma^i times reward i.
        terminated: (B,) bool; the last of the steps ended in a terminal state.
        next_inputs: (B, *shape); observations after the last of the steps.
        discounts: (B,) float32; gamma^k of the k steps made. NaN in a batch made by hand without it, like the next two.
        rows: (B,) int64; the rows of the replay that they come from.
        weights: (B,) float32 importance weights; 1 where all rows were equally likely.
    """

    inputs: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    next_inputs: Tensor
    discounts: Tensor = _NOT_GIVEN
    rows: Tensor = _NOT_GIVEN
    weights: Tensor = _NOT_GIVEN


class _Columns(NamedTuple):
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    ends: Tensor  # terminated, truncated, or not followed by the observation that it led to


class Replay:
    """A ring of the latest transitions of N environments, sampled with replacement, uniformly or by age.

    Rows are numbered 0 to size - 1 in the order of memory: the newest transitions overwrite the oldest.

    Args:
        capacity: Transitions kept.
        device: Where batches are returned, and where the ring lives unless it has a folder.
        n_step: Largest number of steps of a return. Returns end with their episode and at the newest transition, see ``n_step``.
        discount: gamma, for returns over several steps and for ``discounts``.
        frame_stack: Frames along an observation's first axis, the oldest first, each stored once; 1 for no stack.
        folder: Where observations are mapped to a file instead of being kept in memory; see ``frame_memory.allocate``.
        age_weights: What ``sample`` draws in proportion to; None for uniform draws.

    Attributes:
        size: Transitions held.
        total: Transitions ever added.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device,
        n_step: int = 1,
        discount: float = 0.99,
        frame_stack: int = 1,
        folder: Path | None = None,
        age_weights: AgeWeights | None = None,
    ) -> None:
        require_range("agent.n_step", n_step, 1)
        require_range("agent.discount", discount, 0, 1)
        self.capacity, self.device, self.n_step, self.discount = capacity, device, n_step, discount
        self.age_weights = age_weights
        self._storage = device if folder is None else torch.device("cpu")
        self._frames = FrameStore(capacity, frame_stack, self._storage, folder)
        self._columns: _Columns | None = None
        self._ring: Ring  # of the columns
        self._saved: list[Segment] = []
        self._ones = torch.ones(0, device=self._storage)

    @property
    def total(self) -> int:
        """Transitions ever added."""
        return self._frames.total

    @property
    def size(self) -> int:
        """Transitions held."""
        return min(self.total, self.capacity)

    @property
    def bytes_held(self) -> int:
        """Memory, or file, that a full ring takes up."""
        columns = 0 if self._columns is None else sum(column.nbytes for column in self._columns)
        return self._frames.bytes_held + columns

    def add(self, transitions: Transitions) -> None:
        """Appends one transition of each of N environments, overwriting the oldest when full.

        Environments come in the same order each time. Where an observation is not the one that the previous transition led to,
        an episode starts, and returns over several steps end before it.

        Raises:
            ValueError: If N exceeds the capacity or has grown, a shape changes, or observations are not stacks of frames.
        """
        first, count, before = self.total, transitions.rewards.shape[0], self._frames.environments
        starts = self._frames.add(transitions.observations, transitions.next_observations)
        columns = self._columns or self._allocate(transitions.actions, transitions.rewards)
        if first and count != before:
            columns.ends.fill_(True)  # rows are N apart: returns of several steps do not span a change of N
            self._saved = []
        elif first and starts.size:
            ended = (first - count + starts) % self.capacity
            columns.ends[torch.from_numpy(ended).to(self._storage)] = True
        actions, rewards, terminated, truncated = (column.numpy() for column in transitions[1:5])
        self._ring.put(first, actions, rewards, terminated, terminated | truncated)

    def sample(self, count: int, generator: torch.Generator, beta: float = 0.0) -> ReplayBatch:
        """Draws ``count`` transitions, uniformly or by age, for any ``beta``; see ``TransitionMemory``.

        Raises:
            ValueError: If the replay is empty.
        """
        rows = self._uniform_rows(count, generator)
        if self.age_weights is not None:
            rows = self.age_weights.draw(rows, self.total, self.capacity, self._frames.environments)
        return self.batch(rows)

    def sample_uniformly(self, count: int, generator: torch.Generator) -> ReplayBatch:
        """Draws ``count`` transitions with replacement, with a generator on the replay's device.

        Raises:
            ValueError: If the replay is empty.
        """
        return self.batch(self._uniform_rows(count, generator))

    def set_priorities(self, rows: Tensor, priorities: Tensor) -> None:
        """Changes nothing: there are no priorities."""

    def batch(self, rows: Tensor) -> ReplayBatch:
        """Returns what is in (B,) rows, each with the steps that follow it, and weights of 1."""
        columns = self._columns
        if columns is None:
            raise ValueError("the replay is empty")
        rows = rows.to(self._storage)
        if self.n_step > 1:
            rewards, discounts, last = self._several_steps(rows, columns)
        else:
            rewards, last = columns.rewards.index_select(0, rows), rows
            discounts = torch.full(rows.shape, self.discount, device=self._storage)
        inputs, next_inputs = self._frames.gather(rows, last)
        actions, terminated = columns.actions.index_select(0, rows), columns.terminated.index_select(0, last)
        if self._ones.shape != rows.shape:
            self._ones = torch.ones(rows.shape, device=self._storage)
        batch = ReplayBatch(inputs, actions, rewards, terminated, next_inputs, discounts, rows, self._ones)
        return batch if self._storage == self.device else ReplayBatch(*(value.to(self.device) for value in batch))

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns all transitions held: copies of them, or with a folder the names of the files that hold them.

        What was added since the last time is written to the folder. The newest N transitions, which may still turn out to end an
        episode, are in the state itself. Files that no state needs any more can be deleted by ``segments.delete_unused``.

        Args:
            folder: Where the files are; the same at each call.

        Raises:
            OSError: If a file could not be written; the files that earlier states name are unchanged.
        """
        if folder is None:
            first = self._frames.oldest
            return self._state([], first, self._contents(first, self.total))
        end = max(0, self.total - self._frames.environments)
        self._saved = self._write(folder, end)
        return self._state(self._saved, end, self._contents(end, self.total))

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned, with the folder that it was given.

        Raises:
            ValueError: If the state is of another capacity or stack, or a file is missing, cut off or damaged; in the latter
                case the replay must not be used before another state is loaded.
        """
        for name, own in (("capacity", self.capacity), ("frame_stack", self._frames.frame_stack)):
            if state[name] != own:
                raise ValueError(f"the saved replay has {name} {state[name]}, this one {own}")
        segments = [Segment(*entry) for entry in state[SEGMENTS]]
        if segments and folder is None:
            raise ValueError("the saved replay names files: give their folder")
        self._columns, self._saved = None, segments
        self._frames.reopen(state["environments"], state["most_environments"], state["rows"].get("frames"))
        for segment in segments:
            self._restore(segment.first, state["total"], read_segment(folder or Path(), segment))
        if state["total"]:
            self._restore(state["first"], state["total"], state["rows"])

    def _uniform_rows(self, count: int, generator: torch.Generator) -> Tensor:
        if self.size == 0:
            raise ValueError("the replay is empty")
        return torch.randint(self.size, (count,), generator=generator, device=self.device)

    def _write(self, folder: Path, end: int) -> list[Segment]:
        """Writes what no file holds yet of the transitions before ``end``; returns all files needed, oldest rows first."""
        oldest, size = self._frames.oldest, rows_per_segment(self._frames.frame_bytes)
        kept = [segment for segment in self._saved if segment.end > oldest]
        if not all((folder / segment.name).is_file() for segment in kept):
            kept = []
        if kept and kept[-1].end % size and kept[-1].end != end:
            kept, first = kept[:-1], max(oldest, kept[-1].first)
        else:
            first = kept[-1].end if kept else min(oldest, end)
        return kept + [write_segment(folder, a, b, self._contents(a, b)) for a, b in pieces(first, end, size)]

    def _several_steps(self, rows: Tensor, columns: _Columns) -> tuple[Tensor, Tensor, Tensor]:
        """Returns rewards, discounts and last rows of the steps that follow ``rows``."""
        ahead = torch.arange(self.n_step, device=rows.device) * self._frames.environments
        newer = (self.total - 1 - rows) % self.capacity  # transitions that came after those in the rows
        window = (rows.unsqueeze(1) + ahead) % self.capacity
        flat = window.flatten()
        rewards, ends = (column.index_select(0, flat).view(window.shape) for column in (columns.rewards, columns.ends))
        returns = n_step_returns(rewards, ends, ahead <= newer.unsqueeze(1), self.discount)
        return returns.returns, returns.discounts, window.gather(1, returns.last.unsqueeze(1)).squeeze(1)

    def _contents(self, first: int, end: int) -> dict[str, Tensor]:
        if self._columns is None:
            return {}
        index = torch.arange(first, end, device=self._storage) % self.capacity
        columns = {name: column.index_select(0, index) for name, column in self._columns._asdict().items()}
        return {**columns, **self._frames.contents(first, end)}

    def _state(self, segments: Sequence[Segment], first: int, rows: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "capacity": self.capacity,
            "frame_stack": self._frames.frame_stack,
            "environments": self._frames.environments,
            "most_environments": self._frames.most_environments,
            "total": self.total,
            SEGMENTS: [tuple(segment) for segment in segments],
            "first": first,
            "rows": dict(rows),
        }

    def _restore(self, first: int, total: int, contents: Mapping[str, Tensor]) -> None:
        self._frames.restore(first, total, contents)
        columns = self._columns or self._allocate(contents["actions"], contents["rewards"])
        self._ring.put_latest(first, total, *(contents[name].cpu().numpy() for name in columns._fields))

    def _allocate(self, actions: Tensor, rewards: Tensor) -> _Columns:
        flags = torch.zeros((2, self.capacity), dtype=torch.bool, device=self._storage)
        values = (
            torch.zeros((self.capacity, *row.shape[1:]), dtype=row.dtype, device=self._storage) for row in (actions, rewards)
        )
        self._columns = _Columns(*values, *flags)
        self._ring = Ring(*self._columns)
        return self._columns
