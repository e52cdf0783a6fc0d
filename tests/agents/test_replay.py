from collections import deque
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.replay import Replay
from envs.experience import Transitions

CPU = torch.device("cpu")


def numbered(first: int, count: int, dtype: torch.dtype = torch.float32) -> Transitions:
    """Transitions whose every field tells their number."""
    numbers = torch.arange(first, first + count)
    pixels = (numbers % 200).to(dtype).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    return Transitions(pixels, numbers, numbers.float(), numbers % 2 == 0, numbers % 3 == 0, pixels + 1)


def held(replay: Replay) -> list[int]:
    """The numbers in the ring, in ring order, read from a saved state."""
    columns = replay.state_dict()["columns"]
    return [] if columns is None else [int(number) for number in columns[1]]


def test_ring_by_hand() -> None:
    # Capacity 5, three at a time: 0 1 2 | 3 4 then 5 over 0 | 6 7 8 over 1 2 3.
    replay = Replay(5, CPU)
    replay.add(numbered(0, 3))
    assert (replay.size, held(replay)) == (3, [0, 1, 2])
    replay.add(numbered(3, 3))
    assert (replay.size, held(replay)) == (5, [5, 1, 2, 3, 4])
    replay.add(numbered(6, 3))
    assert (replay.size, held(replay)) == (5, [5, 6, 7, 8, 4])
    replay.add(numbered(9, 3))
    assert (replay.size, held(replay)) == (5, [10, 11, 7, 8, 9])


@pytest.mark.parametrize("capacity", [1, 4, 7, 12])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_ring_holds_the_latest(capacity: int, count: int) -> None:
    if count > capacity:
        with pytest.raises(ValueError, match=f"agent.buffer_transitions={capacity} must be at least {count}"):
            Replay(capacity, CPU).add(numbered(0, count))
        return
    replay, latest = Replay(capacity, CPU), deque(range(0), maxlen=capacity)
    for first in range(0, 40, count):
        replay.add(numbered(first, count))
        latest.extend(range(first, first + count))
        assert sorted(held(replay)) == list(latest)
        assert replay.size == len(latest)


def test_fields_of_a_sample_belong_together() -> None:
    replay = Replay(13, CPU)
    for first in range(0, 50, 5):
        replay.add(numbered(first, 5))
    batch = replay.sample(300, torch.Generator().manual_seed(0))
    numbers = batch.actions
    assert torch.equal(batch.inputs, (numbers % 200).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2))
    assert torch.equal(batch.next_inputs, batch.inputs + 1)
    assert torch.equal(batch.rewards, numbers.float())
    assert torch.equal(batch.terminated, numbers % 2 == 0)
    assert set(numbers.tolist()) == set(range(37, 50))


def test_truncated_transitions_are_not_stored_as_terminated() -> None:
    replay = Replay(6, CPU)
    replay.add(numbered(0, 6))
    columns = replay.state_dict()["columns"]
    assert columns[3].tolist() == [True, False, True, False, True, False]


def test_sampling_is_uniform() -> None:
    # Chi-square over 20 cells has 19 degrees of freedom: 43.8 is exceeded with probability 0.001.
    replay = Replay(20, CPU)
    for first in range(0, 33, 3):
        replay.add(numbered(first, 3))
    draws = replay.sample(40_000, torch.Generator().manual_seed(1)).actions
    counts = torch.bincount(draws)[13:33]
    assert int(counts.sum()) == 40_000
    assert float(((counts - 2000.0) ** 2 / 2000.0).sum()) < 43.8


def test_sampling_a_part_filled_ring_never_meets_an_empty_row() -> None:
    replay = Replay(1000, CPU)
    replay.add(numbered(5, 3))
    assert set(replay.sample(200, torch.Generator().manual_seed(0)).actions.tolist()) == {5, 6, 7}


def test_sampling_depends_on_the_generator_alone() -> None:
    replay = Replay(20, CPU)
    replay.add(numbered(0, 20))
    one, two = (replay.sample(50, torch.Generator().manual_seed(seed)).actions for seed in (3, 3))
    assert torch.equal(one, two)
    assert not torch.equal(one, replay.sample(50, torch.Generator().manual_seed(4)).actions)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    replay = Replay(5, CPU)
    replay.add(numbered(0, 2, dtype))
    batch = replay.sample(3, torch.Generator())
    assert [value.dtype for value in batch] == [dtype, torch.int64, torch.float32, torch.bool, dtype]


def test_continuous_actions_keep_their_shape() -> None:
    replay = Replay(4, CPU)
    actions = torch.tensor([[0.5, -0.5], [0.25, 1.0]])
    replay.add(numbered(0, 2)._replace(actions=actions))
    assert torch.equal(replay.state_dict()["columns"][1], actions)


def test_a_ring_does_not_share_memory_with_what_was_added() -> None:
    replay, rows = Replay(4, CPU), numbered(0, 2)
    replay.add(rows)
    rows.rewards.fill_(99.0)
    assert held(replay) == [0, 1]
    assert replay.state_dict()["columns"][2].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("before", [0, 2, 3, 5])
def test_state_round_trip(before: int, through_disk: Callable[[Any], Any]) -> None:
    original, restored = Replay(7, CPU), Replay(7, CPU)
    for index in range(before):
        original.add(numbered(3 * index, 3))
    restored.load_state_dict(through_disk(original.state_dict()))
    for replay in (original, restored):
        replay.add(numbered(100, 4))
    assert held(original) == held(restored)
    one, two = (replay.sample(100, torch.Generator().manual_seed(2)) for replay in (original, restored))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))


def test_a_nearly_empty_ring_makes_a_small_checkpoint() -> None:
    # 100,000 rows of 2 x 4 floats would be 3.2 MB for the inputs alone.
    replay, file = Replay(100_000, CPU), BytesIO()
    replay.add(numbered(0, 10))
    torch.save(replay.state_dict(), file)
    assert file.tell() < 20_000


def test_an_empty_ring_refuses_to_sample() -> None:
    with pytest.raises(ValueError, match="empty"):
        Replay(3, CPU).sample(1, torch.Generator())


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"agent\.buffer_transitions=0 must be at least 1"):
        Replay(0, CPU)


def test_no_row_of_a_sample_is_a_view_of_the_ring() -> None:
    replay = Replay(3, CPU)
    replay.add(numbered(0, 3))
    batch = replay.sample(3, torch.Generator())
    values: Tensor = batch.rewards
    values.fill_(-1.0)
    assert held(replay) == [0, 1, 2]
    assert replay.state_dict()["columns"][2].tolist() == [0.0, 1.0, 2.0]
