from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.replay.buffer import Replay
from plasticity.agents.replay.priorities import Priorities, PrioritisedReplay, SumTree
from plasticity.envs.experience import Transitions

CPU = torch.device("cpu")
SIZES = [1, 2, 3, 63, 64, 65, 1000, 4096, 4097, 20_001]


def tree_of(values: Tensor) -> SumTree:
    tree = SumTree(values.shape[0], CPU)
    tree.write(torch.arange(values.shape[0]), values)
    return tree


def leaf_by_walking(values: list[float], target: float) -> int:
    """The first leaf up to which the values add up to more than the target."""
    total = 0.0
    for leaf, value in enumerate(values):
        total += value
        if total > target:
            return leaf
    raise AssertionError("the target exceeds the total")


def test_a_tree_by_hand() -> None:
    # 1, 4, 3 of 8: up to 1/8 the first, up to 5/8 the second.
    tree = tree_of(torch.tensor([1.0, 4.0, 3.0]))
    assert float(tree.total) == 8.0
    fractions = torch.tensor([0.0, 0.124, 0.125, 0.624, 0.625, 0.999], dtype=torch.float64)
    assert tree.find(fractions).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("size", SIZES)
def test_random_writes_equal_a_plain_list(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    tree, plain = SumTree(size, CPU), torch.zeros(size, dtype=torch.float64)
    for _ in range(12):
        leaves = torch.randint(size, (17,), generator=generator)
        # Whole numbers, so that sums are exact; many zeros.
        values = torch.randint(0, 50, (17,), generator=generator).clamp(min=20).double() - 20
        tree.write(leaves, values)
        plain[leaves] = 0.0
        for leaf, value in zip(leaves.tolist(), values.tolist(), strict=True):
            plain[leaf] = max(float(plain[leaf]), value)  # the largest where a leaf comes twice
        assert torch.equal(tree.read(torch.arange(size)), plain)
        assert float(tree.total) == float(plain.sum())
        if float(plain.sum()) == 0:
            continue
        fractions = torch.rand(40, generator=generator, dtype=torch.float64)
        expected = [leaf_by_walking(plain.tolist(), float(part * plain.sum())) for part in fractions]
        assert tree.find(fractions).tolist() == expected


@pytest.mark.parametrize("size", [3, 129, 20_001])
def test_a_leaf_of_value_zero_is_never_found(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for exponent in (-300, -30, 0, 30):  # very different sizes make rounding as bad as it gets
        values = torch.rand(size, generator=generator, dtype=torch.float64) * 10.0 ** (
            torch.arange(size).double() % 7 * 3 + exponent
        )
        values[torch.rand(size, generator=generator) < 0.7] = 0
        values[size // 2] = 1.0
        tree = tree_of(values)
        edges = torch.tensor([0.0, 1.0, 1.0 - 2.0**-53, 2.0**-1070], dtype=torch.float64)
        found = tree.find(torch.cat([torch.rand(2000, generator=generator, dtype=torch.float64), edges]))
        assert bool((values[found] > 0).all())


def test_sums_do_not_drift() -> None:
    generator = torch.Generator().manual_seed(0)
    tree = SumTree(1000, CPU)
    for _ in range(500):
        tree.write(torch.randint(1000, (32,), generator=generator), torch.rand(32, generator=generator) * 1e6)
    leaves = tree.read(torch.arange(1000))
    assert float(tree.total) == pytest.approx(float(leaves.sum()), rel=1e-14)
    assert torch.equal(tree.find((leaves.cumsum(0) - leaves / 2) / leaves.sum()), torch.arange(1000))
    tree.write(torch.arange(1000), torch.zeros(1000))
    assert float(tree.total) == 0.0
    assert bool((tree.find(torch.rand(20, generator=generator, dtype=torch.float64)) < 1000).all())  # none to choose, but a row


@pytest.mark.parametrize("stratified", [True, False])
def test_frequencies_of_1_4_3(stratified: bool) -> None:
    # Exponent 0.8 and a tenth drawn uniformly: P = 0.9 p^0.8 / sum + 0.1 / 3.
    priorities = Priorities(3, CPU, alpha=0.8, uniform_fraction=0.1, stratified=stratified)
    priorities.update(torch.arange(3), torch.tensor([1.0, 4.0, 3.0]))
    generator = torch.Generator().manual_seed(1)
    draws = torch.cat([priorities.draw(50, 3, generator) for _ in range(4000)])
    powers = torch.tensor([1.0, 4.0**0.8, 3.0**0.8])
    expected = 0.9 * powers / powers.sum() + 0.1 / 3
    assert torch.allclose(torch.bincount(draws) / draws.shape[0], expected, rtol=1e-2)


def test_stratified_draws_take_one_from_each_part() -> None:
    # Eight equal rows and eight draws: each row once.
    priorities = Priorities(8, CPU)
    priorities.fill(torch.arange(8))
    for seed in range(20):
        assert priorities.draw(8, 8, torch.Generator().manual_seed(seed)).tolist() == list(range(8))
    independent = Priorities(8, CPU, stratified=False)
    independent.fill(torch.arange(8))
    assert len(set(independent.draw(8, 8, torch.Generator().manual_seed(0)).tolist())) < 8


def test_weights_by_hand() -> None:
    # Exponent 0.5: powers 1, 2, 3 of 6. (3 P)^-1 = 2, 1, 2/3; over the largest 1, 1/2, 1/3. Without the rarest, 1 and 2/3.
    priorities = Priorities(5, CPU, alpha=0.5)
    priorities.update(torch.arange(3), torch.tensor([1.0, 4.0, 9.0]))
    assert torch.allclose(priorities.weights(torch.arange(3), 3, 1.0), torch.tensor([1.0, 1 / 2, 1 / 3]))
    assert torch.allclose(priorities.weights(torch.tensor([2, 1, 1]), 3, 1.0), torch.tensor([2 / 3, 1.0, 1.0]))
    assert torch.allclose(priorities.weights(torch.arange(3), 3, 0.5), torch.tensor([1.0, 1 / 2, 1 / 3]).sqrt())
    assert torch.equal(priorities.weights(torch.arange(3), 3, 0.0), torch.ones(3))


def test_weights_count_the_uniform_part() -> None:
    # P = 0.5 * (1/4, 3/4) + 0.5 / 2 = 3/8, 5/8; (2 P)^-1 = 4/3, 4/5; over the largest 1, 3/5.
    priorities = Priorities(2, CPU, alpha=1.0, uniform_fraction=0.5)
    priorities.update(torch.arange(2), torch.tensor([1.0, 3.0]))
    assert torch.allclose(priorities.weights(torch.arange(2), 2, 1.0), torch.tensor([1.0, 0.6]))


def test_new_rows_have_the_largest_priority_recorded() -> None:
    priorities = Priorities(6, CPU, alpha=0.5)
    priorities.fill(torch.tensor([0, 1]))
    assert priorities.tree.read(torch.arange(3)).tolist() == [1.0, 1.0, 0.0]
    priorities.update(torch.tensor([0]), torch.tensor([0.25]))
    priorities.fill(torch.tensor([2]))
    assert priorities.tree.read(torch.arange(3)).tolist() == [0.5, 1.0, 1.0]
    priorities.update(torch.tensor([1]), torch.tensor([16.0]))
    priorities.update(torch.tensor([1]), torch.tensor([4.0]))
    priorities.fill(torch.tensor([3]))  # the largest so far, even if no row has it any more
    assert priorities.tree.read(torch.arange(4)).tolist() == [0.5, 2.0, 1.0, 4.0]


def test_a_priority_of_zero_is_never_drawn_for_any_exponent() -> None:
    priorities = Priorities(3, CPU, alpha=0.0)
    priorities.update(torch.arange(3), torch.tensor([0.0, 5.0, 0.0]))
    assert set(priorities.draw(100, 3, torch.Generator()).tolist()) == {1}


def numbered(first: int, count: int) -> Transitions:
    numbers = torch.arange(first, first + count)
    values = numbers.float()
    no = torch.zeros(count, dtype=torch.bool)
    return Transitions(values.unsqueeze(1), numbers, values, no, no, values.unsqueeze(1) + count)


def prioritised(capacity: int) -> PrioritisedReplay:
    return PrioritisedReplay(Replay(capacity, CPU, n_step=3), Priorities(capacity, CPU))


def test_a_prioritised_replay_draws_what_is_new_and_what_has_errors() -> None:
    replay, generator = prioritised(5), torch.Generator().manual_seed(0)
    for first in (0, 2, 4):
        replay.add(numbered(first, 2))  # rows hold 5 1 2 3 4
    replay.set_priorities(torch.arange(5), torch.tensor([0.0, 0.0, 9.0, 1.0, 0.0]))
    drawn = replay.sample(4, generator, beta=1.0)
    assert drawn.actions.tolist() == [2, 2, 2, 3]
    assert drawn.rows.tolist() == [2, 2, 2, 3]
    assert torch.allclose(drawn.weights, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))
    replay.add(numbered(6, 2))  # over 1 and 2, as likely as the largest error
    assert replay.priorities.tree.read(torch.arange(5)).tolist() == [0.0, 3.0, 3.0, 1.0, 0.0]
    assert set(replay.sample(100, generator, beta=1.0).actions.tolist()) == {6, 7, 3}


@pytest.mark.parametrize("whole", [True, False])
def test_state_round_trip(
    whole: bool, tmp_path: Path, through_disk: Callable[[Any], Any], same: Callable[[Any, Any], bool]
) -> None:
    original, restored, generator = prioritised(300), prioritised(300), torch.Generator().manual_seed(0)
    for first in range(0, 400, 2):
        original.add(numbered(first, 2))
        drawn = original.sample(16, generator, 0.5)
        original.set_priorities(drawn.rows, torch.rand(16, generator=generator) * 3)
    folder = None if whole else tmp_path
    restored.load_state_dict(through_disk(original.state_dict(folder)), folder)
    assert same(original.state_dict(), restored.state_dict())
    results = []
    for replay in (original, restored):
        generator.manual_seed(3)
        replay.add(numbered(400, 2))
        replay.set_priorities(torch.tensor([5, 7]), torch.tensor([7.0, 2.0]))
        replay.add(numbered(402, 2))
        results.append(replay.sample(64, generator, 0.4))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert same(original.state_dict(), restored.state_dict())


def test_sampling_depends_on_the_generator_alone() -> None:
    replay = prioritised(50)
    for first in range(0, 40, 4):
        replay.add(numbered(first, 4))
    one, two, three = (replay.sample(20, torch.Generator().manual_seed(seed), 0.5).rows for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"agent\.priority_exponent=1.5 must be between 0 and 1"):
        Priorities(3, CPU, alpha=1.5)
    with pytest.raises(ValueError, match=r"agent\.priority_uniform_fraction=-1 must be between 0 and 1"):
        Priorities(3, CPU, uniform_fraction=-1)
    with pytest.raises(ValueError, match="priorities of 4 rows do not fit a replay of 3"):
        PrioritisedReplay(Replay(3, CPU), Priorities(4, CPU))
    with pytest.raises(ValueError, match="empty"):
        prioritised(3).sample(1, torch.Generator(), 0.5)
