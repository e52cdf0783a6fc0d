from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.updates.latest_examples import COUNT, LatestExamples


class Batch(NamedTuple):
    inputs: Tensor
    targets: Tensor


def batch(first: int, size: int) -> Batch:
    rows = torch.arange(first, first + size)
    return Batch(rows.float().unsqueeze(1), rows)


def kept(*sizes: int) -> LatestExamples:
    examples = LatestExamples()
    examples.declare(lambda outputs, batch: (outputs.sum(), {}), Batch)
    first = 0
    for size in sizes:
        examples.add(batch(first, size))
        first += size
    return examples


def test_nothing_before_the_first() -> None:
    assert kept().latest(5) is None
    assert kept().state_dict() is None


@pytest.mark.parametrize("sizes", [(1,) * 100, (16,) * 7, (30, 30, 1, 30), (200,), (64, 64), (10, 3)])
def test_the_latest_are_exactly_the_last_ones(sizes: tuple[int, ...]) -> None:
    total = sum(sizes)
    for count in (5, COUNT, 1000):
        latest = kept(*sizes).latest(count)
        assert isinstance(latest, Batch)
        assert latest.targets.tolist() == list(range(max(0, total - min(count, COUNT)), total))
        assert torch.equal(latest.inputs.squeeze(1), latest.targets.float())


def test_no_more_is_held_than_is_needed() -> None:
    assert len(kept(*[16] * 50)._batches) == COUNT // 16
    assert len(kept(*[100] * 50)._batches) == 1


@pytest.mark.parametrize("saved", range(1, 9))
def test_resuming_is_exact_for_minibatches_of_any_sizes(saved: int) -> None:
    sizes = [16, 16, 16, 6, 16, 40, 1, 16, 16]
    stopped = kept(*sizes[:saved])
    resumed = kept()
    resumed.load_state_dict(stopped.state_dict(), torch.device("cpu"))
    first = sum(sizes[:saved])
    whole = kept(*sizes[:saved])
    for size in sizes[saved:]:
        for examples in (whole, resumed):
            examples.add(batch(first, size))
        first += size
        one, two = whole.latest(COUNT), resumed.latest(COUNT)
        assert one is not None
        assert two is not None
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.targets, two.targets)
