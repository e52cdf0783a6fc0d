from typing import Any

import torch

from plasticity.updates.recent_inputs import RecentInputs


def test_keeps_the_latest_and_no_more() -> None:
    recent = RecentInputs(5)
    assert recent.latest(3) is None
    for start in range(0, 12, 2):
        recent.add(torch.arange(start, start + 2).unsqueeze(1))
    held = recent.latest(100)
    assert held is not None
    assert held.flatten().tolist() == [6, 7, 8, 9, 10, 11]  # whole minibatches of 2 that hold 5
    last = recent.latest(3)
    assert last is not None
    assert last.flatten().tolist() == [9, 10, 11]


def test_continues_from_a_checkpoint(through_disk: Any, same: Any) -> None:
    whole, other = RecentInputs(5), RecentInputs(5)
    for size in (2, 3, 1):
        whole.add(torch.rand(size, 2))
    other.load_state_dict(through_disk(whole.state_dict()), torch.device("cpu"))
    for size in (4, 1):
        minibatch = torch.rand(size, 2)
        whole.add(minibatch)
        other.add(minibatch)
    assert same(whole.state_dict(), other.state_dict())
