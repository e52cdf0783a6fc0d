import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from plasticity.agents.replay.frame_memory import Ring, allocate
from plasticity.agents.replay.frame_store import FrameStore

CPU = torch.device("cpu")


def stack(*frames: int) -> Tensor:
    """One environment's stack of 1 x 1 frames."""
    return torch.tensor(frames, dtype=torch.uint8).view(1, -1, 1, 1)


def rows_of(store: FrameStore, count: int) -> list[tuple[list[int], list[int]]]:
    rows = torch.arange(count)
    inputs, following = store.gather(rows, rows)
    return [(a.flatten().tolist(), b.flatten().tolist()) for a, b in zip(inputs, following, strict=True)]


def test_stacks_by_hand() -> None:
    # An episode of two steps from a stack padded with zeros, then another from a stack of copies.
    store = FrameStore(4, 3, CPU)
    assert store.add(stack(0, 0, 1), stack(0, 1, 2)).tolist() == [0]
    assert store.add(stack(0, 1, 2), stack(1, 2, 3)).tolist() == []
    assert store.add(stack(7, 7, 7), stack(7, 7, 8)).tolist() == [0]
    expected = [([0, 0, 1], [0, 1, 2]), ([0, 1, 2], [1, 2, 3]), ([7, 7, 7], [7, 7, 8])]
    assert rows_of(store, 3) == expected
    for frame in range(8, 11):
        store.add(stack(max(7, frame - 2), frame - 1, frame), stack(frame - 1, frame, frame + 1))
    # Rows 0 and 1 are those of steps 4 and 5 now; the third step's padding is still there.
    assert rows_of(store, 4) == [([7, 8, 9], [8, 9, 10]), ([8, 9, 10], [9, 10, 11]), expected[2], ([7, 7, 8], [7, 8, 9])]


def test_each_frame_of_an_episode_is_stored_once() -> None:
    # 1 + 10 new frames; the episode's first stack adds two older ones, its end one final one.
    store = FrameStore(20, 3, CPU)
    for step in range(10):
        store.add(stack(step, step + 1, step + 2), stack(step + 1, step + 2, step + 3))
    contents = store.contents(0, 10)
    assert contents["frames"].flatten().tolist() == list(range(2, 13))
    assert contents["aside"].flatten().tolist() == [0, 1]
    store.add(stack(50, 51, 52), stack(51, 52, 53))
    assert store.contents(0, 11)["aside"].flatten().tolist() == [0, 1, 12, 50, 51]


def test_size_of_a_million_atari_transitions() -> None:
    # One frame a row, 1/32 more for episode ends, and 48 bytes of tables: 7.3 GB for a million rows, measured on fewer.
    store = FrameStore(10_000, 4, CPU)
    store.open(torch.zeros(1, 4, 84, 84, dtype=torch.uint8))
    per_row = store.bytes_held / 10_000
    assert 84 * 84 < per_row < 1.05 * 84 * 84


def test_more_ends_than_expected_make_room() -> None:
    store, count = FrameStore(64, 2, CPU), 200
    store.open(stack(0, 0))
    before = store.bytes_held
    for step in range(count):  # every episode has one step
        store.add(stack(step, step + 1), stack(step + 1, 255))
        held = min(step + 1, 64)
        first = torch.arange(step + 1 - held, step + 1)
        inputs, following = store.gather(first % 64, first % 64)
        assert torch.equal(inputs.view(held, 2), torch.stack([first, first + 1], 1).to(torch.uint8))
        assert torch.equal(following.view(held, 2), torch.stack([first + 1, torch.full_like(first, 255)], 1).to(torch.uint8))
    assert before < store.bytes_held < 10 * before


@pytest.mark.parametrize(
    ("observations", "following"),
    [(stack(0, 0, 1), stack(0, 0, 2)), (stack(0, 0, 1), stack(0, 1, 2).flip(1)), (stack(1, 2, 3), stack(5, 3, 4))],
)
def test_what_is_no_stack_is_refused(observations: Tensor, following: Tensor) -> None:
    store = FrameStore(4, 3, CPU)
    with pytest.raises(ValueError, match=r"agent\.frame_stack=3: a next observation is not"):
        store.add(observations, following)
    store.add(stack(0, 0, 1), stack(0, 1, 2))
    with pytest.raises(ValueError, match=r"agent\.frame_stack=3: a next observation is not"):
        store.add(observations, following)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"agent\.frame_stack=4 must divide the first axis of observations \(3, 1, 1\)"):
        FrameStore(4, 4, CPU).add(stack(0, 0, 1), stack(0, 1, 2))
    store = FrameStore(4, 1, CPU)
    store.add(torch.zeros(1, 2), torch.ones(1, 2))
    for other in (torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.float64)):
        with pytest.raises(ValueError, match="observations must stay"):
            store.add(other, other)
        with pytest.raises(ValueError, match="observations must stay"):
            store.add(torch.ones(1, 2), other)


def test_a_file_is_for_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are stored on the CPU, not on cuda"):
        FrameStore(4, 1, torch.device("cuda"), tmp_path)


def test_mapped_memory_keeps_what_is_written(tmp_path: Path) -> None:
    memory = allocate((5, 3), torch.float32, CPU, tmp_path / "new")
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    memory.copy_(values)
    assert torch.equal(memory, values)
    assert os.listdir(tmp_path / "new") == []


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"cannot keep 7\.1 GB of observations in .*: No space left"):
        allocate((1_000_000, 84, 84), torch.uint8, CPU, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writing_around_a_ring_by_hand() -> None:
    numbers, pairs = torch.zeros(5), torch.zeros(5, 2, dtype=torch.int64)
    ring = Ring(numbers, pairs)
    ring.put(8, np.array([1.0, 2.0, 3.0]), np.array([[1, 1], [2, 2], [3, 4]]))
    assert numbers.tolist() == [3.0, 0.0, 0.0, 1.0, 2.0]
    assert pairs.tolist() == [[3, 4], [0, 0], [0, 0], [1, 1], [2, 2]]
    ring.put_latest(0, 9, np.arange(10.0, 18.0), np.full((8, 2), 5))  # rows 0 to 7 when 9 have come: 0 to 3 are gone
    assert numbers.tolist() == [15.0, 16.0, 17.0, 1.0, 14.0]
    assert pairs.tolist() == [[5, 5], [5, 5], [5, 5], [1, 1], [5, 5]]
    ring.put_latest(0, 20, np.full(8, 99.0), np.zeros((8, 2), np.int64))
    assert numbers.tolist() == [15.0, 16.0, 17.0, 1.0, 14.0]


def test_starts_are_reported_for_each_environment() -> None:
    store = FrameStore(10, 1, CPU)
    first = torch.arange(3.0).unsqueeze(1)
    assert store.add(first, first + 1).tolist() == [0, 1, 2]
    assert store.add(first + 1, first + 2).tolist() == []
    moved = first + 2
    moved[1] = 9.0
    assert store.add(moved, moved).tolist() == [1]
