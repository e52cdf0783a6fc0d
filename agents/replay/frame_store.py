"""Observations of a replay, each stored once.

The next observation of a transition is, but for episode ends, the observation of the same environment's next transition; and in a
stack of frames all but the newest are those of the previous transition. So one new frame is stored for each transition, in a
ring, and a table gives the slots of each observation's frames. Frames that fit into no such chain are stored aside, in
a second ring behind the first: the true final observation of an episode, and the older frames of the stack that an episode
starts with. The second ring grows as needed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plasticity.agents.replay.frame_memory import allocate, put, put_latest
from plasticity.settings.fields import require_range

_ROWS_PER_FRAME_ASIDE: Final = 32  # initially; an Atari episode adds four such frames and has at least 200 steps


class FrameStore:
    """Current and next observations of the latest transitions of N environments, which come in turn.

    Transitions are numbered from 0 in the order of arrival; number g is kept in row g % rows. Whether one observation follows
    another is decided by comparing all bits, so that what is returned is exactly what was added, for any environment.

    Args:
        rows: Transitions kept.
        frame_stack: Frames along an observation's first axis, the oldest first; 1 if observations share nothing.
        device: Where frames are stored and returned.
        folder: Where the frames are kept in a memory-mapped file, which is gone when the program ends; None for in memory.

    Attributes:
        total: Transitions ever added.
        environments: N of the latest transitions; 0 before the first.
        most_environments: N of the first transitions, for which memory is allocated; N may be smaller later.

    Raises:
        ValueError: If a setting is out of range, or frames are to be mapped for a device other than the CPU.
    """

    def __init__(self, rows: int, frame_stack: int, device: torch.device, folder: Path | None = None) -> None:
        require_range("agent.buffer_transitions", rows, 1)
        require_range("agent.frame_stack", frame_stack, 1)
        if folder is not None and device.type != "cpu":
            raise ValueError(f"frames in folder={folder} are stored on the CPU, not on {device}")
        self.rows, self.frame_stack, self.device, self.folder = rows, frame_stack, device, folder
        self.total = self.environments = self.most_environments = 0
        self._slots = 0  # of the first ring; the newest frame of observation g is in slot g % slots
        self._memory = torch.empty(0)  # (slots + aside_slots, *frame)
        self._aside_slots = self._aside_first = self._aside_end = 0  # frame n aside, first <= n < end, is in n % aside_slots
        self._table = torch.empty(0)  # (rows, frame_stack + 1) slots, oldest frame first, the next observation's newest last
        self._marks: npt.NDArray[np.int64] = np.empty(0, np.int64)  # (slots,) frames ever stored aside before g was added
        self._latest = torch.empty(0)  # (N, frame_stack) slots of the observations to come
        self._coming = torch.empty(0)  # (N, *shape) those observations

    @property
    def oldest(self) -> int:
        """Number of the oldest transition whose frame may still be needed."""
        return self._oldest(self.total)

    @property
    def bytes_held(self) -> int:
        """Size of all frames, and of the tables about them, when the ring is full."""
        return self._memory.nbytes + self._table.nbytes + self._marks.nbytes

    @property
    def frame_bytes(self) -> int:
        """Size of one frame."""
        return self._memory.nbytes // max(1, self._memory.shape[0])

    def add(self, observations: Tensor, next_observations: Tensor) -> npt.NDArray[np.bool_]:
        """Stores one transition of each environment.

        Args:
            observations: (N, *shape) on the CPU.
            next_observations: (N, *shape) on the CPU.

        Returns:
            (N,) where an observation is not the next observation of the previous transition: an episode starts. If N has
            changed, all do.

        Raises:
            ValueError: If N has grown, a shape has changed, or observations are not stacks of ``frame_stack`` frames.
        """
        if self.total == 0:
            self.open(observations)
        self._check(observations, next_observations)
        count = observations.shape[0]
        starts = self._starts(observations)
        self._marks[self._numbers(count) % self._slots] = self._aside_end
        if count != self.environments:
            self._change(count)
        elif self.total and starts.any():
            self._finish(np.flatnonzero(starts))
        if starts.any():
            self._start(observations, np.flatnonzero(starts))
        coming = torch.from_numpy((self._numbers(count) + count) % self._slots)
        slots = torch.cat([self._latest, coming.unsqueeze(1)], 1)
        put(self._table, self.total, slots)
        put(self._memory[: self._slots], self.total + count, self._split(next_observations)[:, -1])
        self._latest, self._coming = slots[:, 1:], next_observations.clone()
        self.total += count
        return starts

    def gather(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the (B, *shape) observations of rows ``first`` and the next observations of rows ``last``, both (B,)."""
        current = self._table.index_select(0, first)
        following = current if last is first else self._table.index_select(0, last)
        shape = (first.shape[0], *self._coming.shape[1:])
        inputs = self._memory.index_select(0, current[:, :-1].flatten()).view(shape)
        return inputs, self._memory.index_select(0, following[:, 1:].flatten()).view(shape)

    def contents(self, first: int, end: int) -> dict[str, Tensor]:
        """Returns copies of what transitions ``first`` to ``end - 1`` added; up to ``total`` also the observations to come."""
        numbers = torch.arange(first, end, device=self.device)
        frames = torch.arange(first, end + (self.environments if end == self.total else 0), device=self.device)
        marks = self._marks[numbers.cpu().numpy() % self._slots]
        until = self._aside_end if end == self.total else int(self._marks[end % self._slots])
        aside = torch.arange(int(marks[0]) if len(marks) else until, until, device=self.device)
        slots = self._table.index_select(0, numbers % self.rows)
        return {
            "frames": self._memory.index_select(0, frames % self._slots),
            "slots": torch.where(slots < self._slots, slots, ~self._aside_number(slots)),
            "marks": torch.from_numpy(marks),
            "aside": self._memory.index_select(0, self._slots + aside % self._aside_slots),
        }

    def restore(self, first: int, total: int, contents: Mapping[str, Tensor]) -> None:
        """Puts back one part of the contents; parts come in order, the first into a newly opened store.

        Args:
            first: Number of the part's first transition.
            total: Number of transitions at the end.
            contents: The part.
        """
        marks = contents["marks"].numpy()
        if self.total == 0:
            self._aside_first = self._aside_end = int(marks[0])
        self._store_aside(contents["aside"])
        put(self._memory[: self._slots], first, contents["frames"])
        put_latest(self._table, first, total, contents["slots"])
        self._marks[np.arange(first, first + len(marks)) % self._slots] = marks
        self.total = first + len(marks)
        if self.total == total:
            aside = self._slots + ~self._table % self._aside_slots
            self._table = torch.where(self._table < 0, aside, self._table)
            tail = self._newest(np.arange(self.environments))
            self._latest = self._table.index_select(0, tail)[:, 1:].cpu()
            self._coming = self.gather(tail, tail)[1].cpu()

    def open(self, observations: Tensor) -> None:
        """Allocates memory for observations like these, (N, *shape); everything stored before is forgotten."""
        count, shape = observations.shape[0], tuple(observations.shape[1:])
        require_range("agent.buffer_transitions", self.rows, count)
        if self.frame_stack > 1 and (not shape or shape[0] % self.frame_stack):
            raise ValueError(f"agent.frame_stack={self.frame_stack} must divide the first axis of observations {shape}")
        self.total, self.environments, self.most_environments = 0, count, count
        frame = self._split(observations).shape[2:]
        self._slots = self.rows + self.frame_stack * count
        self._aside_slots, self._aside_first, self._aside_end = 16 + self.rows // _ROWS_PER_FRAME_ASIDE, 0, 0
        self._memory = allocate((self._slots + self._aside_slots, *frame), observations.dtype, self.device, self.folder)
        self._table = torch.zeros((self.rows, self.frame_stack + 1), dtype=torch.int64, device=self.device)
        self._marks = np.zeros(self._slots, np.int64)
        self._latest = torch.zeros((count, self.frame_stack), dtype=torch.int64)
        self._coming = torch.empty_like(observations)

    def reopen(self, environments: int, most: int, frames: Tensor | None) -> None:
        """Forgets everything, ready for ``restore``; ``frames`` is one part's, or None if nothing is to be restored."""
        self.total = self.environments = self.most_environments = 0
        if frames is not None:
            axes = frames.shape[1:] if self.frame_stack == 1 else (frames.shape[1] * self.frame_stack, *frames.shape[2:])
            self.open(torch.empty((most, *axes), dtype=frames.dtype))
            self.environments = environments

    def _starts(self, observations: Tensor) -> npt.NDArray[np.bool_]:
        count = observations.shape[0]
        if self.total == 0 or count != self.environments:
            return np.ones(count, np.bool_)
        new, expected = _bytes(observations), _bytes(self._coming)
        if new.tobytes() == expected.tobytes():  # several times as fast as continuing
            return np.zeros(count, np.bool_)
        differs: npt.NDArray[np.bool_] = (new != expected).any(1)
        return differs

    def _change(self, environments: int) -> None:
        if self.total:
            self._finish(np.arange(self.environments))
        self.environments = environments
        self._latest = torch.zeros((environments, self.frame_stack), dtype=torch.int64)

    def _finish(self, which: npt.NDArray[np.int64]) -> None:
        """Ends the chains of some environments: the observations that were to come next are stored aside."""
        finals = self._store_aside(self._split(self._coming)[torch.from_numpy(which), -1])
        self._table[self._newest(which), -1] = finals.to(self.device)

    def _start(self, observations: Tensor, which: npt.NDArray[np.int64]) -> None:
        """Starts new chains with the observations of some environments."""
        chosen = torch.from_numpy(which)
        stacks, slots = self._split(observations)[chosen], torch.from_numpy((self.total + which) % self._slots)
        self._latest[chosen, :-1] = self._store_aside(stacks[:, :-1].flatten(0, 1)).view(len(which), -1)
        self._latest[chosen, -1] = slots
        self._memory[slots.to(self.device)] = stacks[:, -1].to(self.device)

    def _store_aside(self, frames: Tensor) -> Tensor:
        """Returns (M,) slots of (M, *frame) frames; those that only overwritten transitions need are forgotten."""
        live = int(self._marks[self._oldest(self.total + self.environments) % self._slots])
        self._aside_first = max(self._aside_first, min(live, self._aside_end))
        end = self._aside_end + frames.shape[0]
        if end - self._aside_first > self._aside_slots:
            self._grow(end - self._aside_first)
        slots = self._slots + torch.arange(self._aside_end, end) % self._aside_slots
        self._memory[slots.to(self.device)] = frames.to(self.device)
        self._aside_end = end
        return slots

    def _grow(self, needed: int) -> None:
        """Moves everything to where there is more room aside."""
        size = max(needed, 2 * self._aside_slots)
        memory = allocate((self._slots + size, *self._memory.shape[1:]), self._memory.dtype, self.device, self.folder)
        used = min(self.total + self.environments, self._slots)
        memory[:used] = self._memory[:used]
        numbers = torch.arange(self._aside_first, self._aside_end, device=self.device)
        kept = self._memory.index_select(0, self._slots + numbers % self._aside_slots)
        memory.index_copy_(0, self._slots + numbers % size, kept)
        self._table, self._latest = (
            torch.where(slots < self._slots, slots, self._slots + self._aside_number(slots) % size)
            for slots in (self._table, self._latest)
        )
        self._memory, self._aside_slots = memory, size

    def _aside_number(self, slots: Tensor) -> Tensor:
        """Returns the numbers of the frames that are in these slots aside."""
        return self._aside_first + (slots - self._slots - self._aside_first) % self._aside_slots

    def _check(self, observations: Tensor, next_observations: Tensor) -> None:
        require_range("the number of environments", observations.shape[0], 1, self.most_environments)
        kind = (tuple(self._coming.shape[1:]), self._coming.dtype)
        for given in (observations, next_observations):
            if (tuple(given.shape[1:]), given.dtype) != kind:
                raise ValueError(f"observations must stay {kind}, got {(tuple(given.shape[1:]), given.dtype)}")
        if self.frame_stack > 1:
            before, after = self._split(observations)[:, 1:], self._split(next_observations)[:, :-1]
            if not np.array_equal(_bytes(before), _bytes(after)):
                raise ValueError(
                    f"agent.frame_stack={self.frame_stack}: a next observation is not the observation moved on by one"
                )

    def _split(self, observations: Tensor) -> Tensor:
        """Returns (N, frame_stack, *frame)."""
        return observations.unflatten(1, (self.frame_stack, -1)) if self.frame_stack > 1 else observations.unsqueeze(1)

    def _oldest(self, total: int) -> int:
        return max(0, total - self.rows - (self.frame_stack - 1) * self.most_environments)

    def _numbers(self, count: int) -> npt.NDArray[np.int64]:
        return np.arange(self.total, self.total + count)

    def _newest(self, which: npt.NDArray[np.int64]) -> Tensor:
        """Returns the rows of the latest transitions of some environments."""
        return torch.from_numpy((self.total - self.environments + which) % self.rows).to(self.device)


def _bytes(observations: Tensor) -> npt.NDArray[np.uint8]:
    """Returns (N, bytes); comparing them tells 0 from -0, and finds NaN equal to itself."""
    return np.ascontiguousarray(observations.reshape(observations.shape[0], -1).numpy()).view(np.uint8)
