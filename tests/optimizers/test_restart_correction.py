"""The corrections of restarted entries: the factors by hand, and every way of applying them against fresh Adams."""

import pytest
import torch
from torch import Tensor, nn

from plasticity.optimizers.optimizer_state import reset_entries
from plasticity.optimizers.restart_correction import RestartCorrection
from plasticity.optimizers.restart_factors import RestartFactors
from plasticity.optimizers.unit_adam import UnitAdam

SMALL, LARGE = (40, 30), (40, 512)  # the second has more entries than are joined when many of its rows were restarted


def step(follower: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for group in follower.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    follower.step()


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def test_the_factors_by_hand() -> None:
    # The tensor's count is 2: 1 - 0.5^2 = 3/4, 1 - 0.75^2 = 7/16. That of the entry restarted at 1 is 1: 1/2, 1 - 0.75 = 1/4.
    factors = RestartFactors((0.5, 0.75), 0.1, [[torch.tensor([0.0, 1.0])]])
    scales, epsilons = factors.at([scalar(2.0)])
    second = (7 / 16) ** 0.5
    assert scales.tolist() == pytest.approx([second / 0.75, second / 0.75, 0.5 / 0.5])
    assert epsilons.tolist() == pytest.approx([0.1 * second, 0.1 * second, 0.05])
    assert scales[0] == scales[1]
    assert epsilons[0] == epsilons[1]
    assert factors.starts == [1]
    assert factors.restarted.tolist() == [False, False, True]


@pytest.mark.parametrize("counts", [range(50, 90), [50, 51, 53, 52, 90, 91, 7]])
def test_factors_computed_ahead_are_those_of_the_moment(counts: list[int]) -> None:
    vectors = [[torch.tensor([0.0, 3.0]), torch.tensor([5.0])], [torch.tensor([2.0])]]
    ahead = RestartFactors((0.9, 0.999), 1e-8, vectors)
    for count in counts:
        steps = [scalar(count), scalar(count + 2.0)]
        now = RestartFactors((0.9, 0.999), 1e-8, vectors).at(steps)
        assert all(torch.equal(a, b) for a, b in zip(ahead.at(steps), now, strict=True))
        assert not ahead.shared()


def test_counts_that_part_are_followed() -> None:
    factors = RestartFactors((0.5, 0.5), 0.0, [[torch.tensor([1.0])], [torch.tensor([1.0])]])
    factors.at([scalar(3.0), scalar(3.0)])
    assert factors.shared()
    scales, _ = factors.at([scalar(4.0), scalar(3.0)])  # the second had no gradient
    assert not factors.shared()
    assert scales.tolist() == pytest.approx([(1 - 0.5**k) ** -0.5 for k in (4, 3, 3, 2)])


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (30, 0), (0, 2), (0, 20), (2, 2), (30, 3)])
def test_all_ways_follow_fresh_adams(shape: tuple[int, int], rows: int, columns: int) -> None:
    """Few entries are gathered, many joined, and many rows or columns of a large parameter corrected in place."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = ([nn.Parameter(start.clone()), nn.Parameter(torch.ones(5))] for _ in range(2))
    optimizer, old = UnitAdam(ours, lr=1e-2, fused=True), torch.optim.Adam(theirs, lr=1e-2, fused=True)
    for number in range(20):
        step(optimizer, number)
        step(old, number)
    row, column = torch.arange(shape[0]).view(-1, 1) < rows, torch.arange(shape[1]).view(1, -1) < columns
    for mask in (row, column):
        if bool(mask.any()):
            reset_entries(optimizer, ours[0], mask, "restart")
    restarted = row | column
    new = [nn.Parameter(ours[0].detach().clone()), nn.Parameter(torch.ones(5))]
    fresh = torch.optim.Adam(new, lr=1e-2, fused=True)
    for number in range(20, 60):
        for follower in (optimizer, old, fresh):
            step(follower, number)
    assert torch.equal(ours[0][~restarted], theirs[0][~restarted])
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[0][restarted], new[0][restarted], rtol=1e-6, atol=1e-6)


def test_few_entries_that_become_many_change_no_bit() -> None:
    """Whether a row is gathered or not depends on other rows, and must not show."""
    own = [nn.Parameter(torch.ones(LARGE)) for _ in range(2)]
    few, many = (UnitAdam([parameter], lr=1e-2, fused=True) for parameter in own)
    for follower in (few, many):
        for number in range(5):
            step(follower, number)
    first, all_but_last = torch.arange(40).view(-1, 1) < 1, torch.arange(40).view(-1, 1) < 39
    reset_entries(few, own[0], first, "restart")
    reset_entries(many, own[1], all_but_last, "restart")
    for number in range(5, 30):
        step(few, number)
        step(many, number)
    assert torch.equal(own[0][0], own[1][0])
    assert torch.equal(own[0][39], own[1][39])


def test_weights_with_channels_last() -> None:
    weights = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    ours = nn.Parameter(weights.clone(memory_format=torch.channels_last))
    plain = nn.Parameter(weights.clone())
    followers = [UnitAdam([parameter], lr=1e-2, fused=True) for parameter in (ours, plain)]
    for number in range(30):
        for follower in followers:
            if number == 10:
                mask = (torch.arange(6) < 4).view(6, 1, 1, 1)
                reset_entries(follower, follower.param_groups[0]["params"][0], mask, "restart")
            step(follower, number)
    torch.testing.assert_close(ours, plain, rtol=0, atol=0)


def test_parameters_with_counts_of_their_own() -> None:
    """One misses half its gradients, and another starts again; both have restarts."""
    own = [nn.Parameter(torch.ones(8, 3)) for _ in range(3)]
    alone = [nn.Parameter(torch.ones(8, 3)) for _ in range(3)]
    together, apart = UnitAdam(own, lr=1e-2, fused=True), [UnitAdam([parameter], lr=1e-2, fused=True) for parameter in alone]
    mask = torch.arange(8).view(8, 1) < 3
    for number in range(60):
        gradient = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        for index in range(3):
            own[index].grad = alone[index].grad = None if index == 1 and number % 2 else gradient
        if number in (20, 30):
            for index in range(3):
                reset_entries(together, own[index], None if (index, number) == (2, 20) else mask, "restart")
                reset_entries(apart[index], alone[index], None if (index, number) == (2, 20) else mask, "restart")
        together.step()
        for follower in apart:
            follower.step()
    assert all(torch.equal(a, b) for a, b in zip(own, alone, strict=True))


def test_restarts_too_long_ago_are_forgotten() -> None:
    # 0.5^25 is 2^-25: at step 40 a restart at step 15 no longer matters, one at step 16 does.
    parameter = nn.Parameter(torch.ones(3))
    optimizer = UnitAdam([parameter], lr=1e-2, betas=(0.5, 0.5), fused=True)
    for number in range(40):
        if number in (15, 16):
            optimizer.restart(parameter, torch.arange(3) == number - 15)
        step(optimizer, number)
    optimizer.restart(parameter, torch.arange(3) == 2)
    assert optimizer.restarted_at(parameter).tolist() == [0.0, 16.0, 40.0]


def test_it_is_rebuilt_for_a_different_state() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = UnitAdam([parameter], lr=1e-2, fused=True)
    step(optimizer, 0)
    optimizer.restart(parameter, torch.tensor([True, False, False]))
    correction = RestartCorrection(optimizer.param_groups[0], optimizer.state)
    assert correction.matches(optimizer.param_groups[0], optimizer.state)
    before = optimizer.param_groups[0], optimizer.state
    optimizer.load_state_dict(optimizer.state_dict())
    assert not correction.matches(*(optimizer.param_groups[0], before[1]))
    assert not correction.matches(*(before[0], optimizer.state))
