"""Observations of a replay, each stored once.

The next observation of a transition is, but for episode ends, the observation of the same environment's next transition; and in a
stack of frames all but the newest are those of the previous transition. So one new frame is stored for each transition, in a
ring, and a table gives the slots of each observation's frames. Frames that fit into no such chain are stored aside, in
a second ring behind the first: the true final observation of an episode, and the older frames of the stack that an episode
starts with. The second ring grows as needed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plasticity.agents.replay.frame_memory import Ring, allocate
from plasticity.settings.fields import require_range

Slots = TypeVar("Slots", Tensor, npt.NDArray[np.int64])

_NONE: Final[npt.NDArray[np.int64]] = np.empty(0, np.int64)
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
        self._memory: Tensor  # (slots + aside_slots, *frame)
        self._aside_slots = self._aside_first = self._aside_end = 0  # frame n aside, first <= n < end, is in n % aside_slots
        self._table: Tensor  # (rows, frame_stack + 1) slots, oldest frame first, the next observation's newest last
        self._set_memory(torch.empty(0))
        self._set_table(torch.empty(0, frame_stack + 1))
        self._marks: npt.NDArray[np.int64] = np.empty(0, np.int64)  # (slots,) frames ever stored aside before g was added
        self._latest: npt.NDArray[np.int64] = np.empty(0, np.int64)  # (N, frame_stack) slots of the observations to come
        self._coming: npt.NDArray[Any] = np.empty(0)  # (N, *shape) those observations

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

    def add(self, observations: Tensor, next_observations: Tensor) -> npt.NDArray[np.int64]:
        """Stores one transition of each environment.

        Args:
            observations: (N, *shape) on the CPU.
            next_observations: (N, *shape) on the CPU.

        Returns:
            The numbers of the environments whose observation is not the next observation of their previous transition: an
            episode starts. If N has changed, that is all of them.

        Raises:
            ValueError: If N has grown, a shape has changed, or observations are not stacks of ``frame_stack`` frames.
        """
        if self.total == 0:
            self.open(observations)
        given, following = observations.numpy(), next_observations.numpy()
        self._check(given, following)
        count = len(given)
        starts = self._starts(given)
        numbers = np.arange(self.total, self.total + count)
        self._marks[numbers % self._slots] = self._aside_end
        if count != self.environments:
            self._change(count)
        elif self.total and starts.size:
            self._finish(starts)
        if starts.size:
            self._start(given, starts)
        slots = np.empty((count, self.frame_stack + 1), np.int64)
        slots[:, :-1], slots[:, -1] = self._latest, (numbers + count) % self._slots
        self._table_ring.put(self.total, slots)
        self._frame_ring.put(self.total + count, self._split(following)[:, -1])
        self._latest, self._coming = slots[:, 1:], following.copy()
        self.total += count
        return starts

    def gather(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the (B, *shape) observations of rows ``first`` and the next observations of rows ``last``, both (B,)."""
        if self.frame_stack == 1:  # of small observations in a third of the time that what follows takes
            own, coming = self._slots_by_frame
            inputs = self._memory.index_select(0, own.index_select(0, first))
            return inputs, self._memory.index_select(0, coming.index_select(0, last))
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
        self._store_aside(contents["aside"].cpu().numpy())
        self._frame_ring.put(first, contents["frames"].cpu().numpy())
        self._table_ring.put_latest(first, total, contents["slots"].cpu().numpy())
        self._marks[np.arange(first, first + len(marks)) % self._slots] = marks
        self.total = first + len(marks)
        if self.total == total:
            aside = self._slots + ~self._table % self._aside_slots
            self._set_table(torch.where(self._table < 0, aside, self._table))
            tail = self._newest(np.arange(self.environments))
            self._latest = self._table.index_select(0, tail)[:, 1:].cpu().numpy()
            self._coming = self.gather(tail, tail)[1].cpu().numpy()

    def open(self, observations: Tensor) -> None:
        """Allocates memory for observations like these, (N, *shape); everything stored before is forgotten."""
        count, shape = observations.shape[0], tuple(observations.shape[1:])
        require_range("agent.buffer_transitions", self.rows, count)
        if self.frame_stack > 1 and (not shape or shape[0] % self.frame_stack):
            raise ValueError(f"agent.frame_stack={self.frame_stack} must divide the first axis of observations {shape}")
        self.total, self.environments, self.most_environments = 0, count, count
        frame = self._split(observations.numpy()).shape[2:]
        self._slots = self.rows + self.frame_stack * count
        self._aside_slots, self._aside_first, self._aside_end = 16 + self.rows // _ROWS_PER_FRAME_ASIDE, 0, 0
        self._set_memory(allocate((self._slots + self._aside_slots, *frame), observations.dtype, self.device, self.folder))
        self._set_table(torch.zeros((self.rows, self.frame_stack + 1), dtype=torch.int64, device=self.device))
        self._marks = np.zeros(self._slots, np.int64)
        self._latest = np.zeros((count, self.frame_stack), np.int64)
        self._coming = np.empty_like(observations.numpy())

    def reopen(self, environments: int, most: int, frames: Tensor | None) -> None:
        """Forgets everything, ready for ``restore``; ``frames`` is one part's, or None if nothing is to be restored."""
        self.total = self.environments = self.most_environments = 0
        if frames is not None:
            axes = frames.shape[1:] if self.frame_stack == 1 else (frames.shape[1] * self.frame_stack, *frames.shape[2:])
            self.open(torch.empty((most, *axes), dtype=frames.dtype))
            self.environments = environments

    def _set_memory(self, memory: Tensor) -> None:
        self._memory, self._frame_ring = memory, Ring(memory[: self._slots])

    def _set_table(self, table: Tensor) -> None:
        self._table, self._table_ring, self._slots_by_frame = table, Ring(table), table.unbind(1)

    def _starts(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if self.total == 0 or len(observations) != self.environments:
            return np.arange(len(observations))
        if observations.tobytes() == self._coming.tobytes():  # several times as fast as continuing
            return _NONE
        return np.flatnonzero((_bytes(observations) != _bytes(self._coming)).any(1))

    def _change(self, environments: int) -> None:
        if self.total:
            self._finish(np.arange(self.environments))
        self.environments = environments
        self._latest = np.zeros((environments, self.frame_stack), np.int64)

    def _finish(self, which: npt.NDArray[np.int64]) -> None:
        """Ends the chains of some environments: the observations that were to come next are stored aside."""
        finals = self._store_aside(self._split(self._coming)[which, -1])
        self._table[self._newest(which), -1] = torch.from_numpy(finals).to(self.device)

    def _start(self, observations: npt.NDArray[Any], which: npt.NDArray[np.int64]) -> None:
        """Starts new chains with the observations of some environments."""
        stacks, slots = self._split(observations)[which], (self.total + which) % self._slots
        older = stacks[:, :-1].reshape(-1, *stacks.shape[2:])
        self._latest[which, :-1] = self._store_aside(older).reshape(len(which), -1)
        self._latest[which, -1] = slots
        self._store(slots, stacks[:, -1])

    def _store_aside(self, frames: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Returns (M,) slots of (M, *frame) frames; those that only overwritten transitions need are forgotten."""
        live = int(self._marks[self._oldest(self.total + self.environments) % self._slots])
        self._aside_first = max(self._aside_first, min(live, self._aside_end))
        end = self._aside_end + len(frames)
        if end - self._aside_first > self._aside_slots:
            self._grow(end - self._aside_first)
        slots = self._slots + np.arange(self._aside_end, end) % self._aside_slots
        self._store(slots, frames)
        self._aside_end = end
        return slots

    def _store(self, slots: npt.NDArray[np.int64], frames: npt.NDArray[Any]) -> None:
        self._memory[torch.from_numpy(slots).to(self.device)] = torch.from_numpy(frames).to(self.device)

    def _grow(self, needed: int) -> None:
        """Moves everything to where there is more room aside."""
        size = max(needed, 2 * self._aside_slots)
        memory = allocate((self._slots + size, *self._memory.shape[1:]), self._memory.dtype, self.device, self.folder)
        used = min(self.total + self.environments, self._slots)
        memory[:used] = self._memory[:used]
        numbers = torch.arange(self._aside_first, self._aside_end, device=self.device)
        kept = self._memory.index_select(0, self._slots + numbers % self._aside_slots)
        memory.index_copy_(0, self._slots + numbers % size, kept)
        table, latest = self._table, self._latest
        self._set_table(torch.where(table < self._slots, table, self._slots + self._aside_number(table) % size))
        self._latest = np.where(latest < self._slots, latest, self._slots + self._aside_number(latest) % size)
        self._aside_slots = size
        self._set_memory(memory)

    def _aside_number(self, slots: Slots) -> Slots:
        """Returns the numbers of the frames that are in these slots aside."""
        return self._aside_first + (slots - self._slots - self._aside_first) % self._aside_slots

    def _check(self, observations: npt.NDArray[Any], next_observations: npt.NDArray[Any]) -> None:
        if len(observations) != self.environments:
            require_range("the number of environments", len(observations), 1, self.most_environments)
        shape, dtype = self._coming.shape[1:], self._coming.dtype
        for given in (observations, next_observations):
            if given.shape[1:] != shape or given.dtype != dtype:
                raise ValueError(f"observations must stay {dtype} of shape {shape}, got {given.dtype} of shape {given.shape[1:]}")
        if self.frame_stack > 1:
            before, after = self._split(observations)[:, 1:], self._split(next_observations)[:, :-1]
            if before.tobytes() != after.tobytes():
                raise ValueError(
                    f"agent.frame_stack={self.frame_stack}: a next observation is not the observation moved on by one"
                )

    def _split(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns (N, frame_stack, *frame)."""
        if self.frame_stack == 1:
            return observations[:, np.newaxis]
        return observations.reshape(len(observations), self.frame_stack, -1, *observations.shape[2:])

    def _oldest(self, total: int) -> int:
        return max(0, total - self.rows - (self.frame_stack - 1) * self.most_environments)

    def _newest(self, which: npt.NDArray[np.int64]) -> Tensor:
        """Returns the rows of the latest transitions of some environments."""
        return torch.from_numpy((self.total - self.environments + which) % self.rows).to(self.device)


def _bytes(observations: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns (N, bytes); comparing them tells 0 from -0, and finds NaN equal to itself."""
    return np.ascontiguousarray(observations).reshape(len(observations), -1).view(np.uint8)
