"""Adam with a step count per entry, compared with PyTorch's."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from plasticity.interventions.methods.adam_state_reset import reset_adam_state
from plasticity.optimizers.optimizer_state import reset_entries
from plasticity.optimizers.unit_adam import UnitAdam

SHAPES = [(4, 3), (4,), (2, 3, 2, 2)]
ROW = torch.tensor([False, True, False, True]).view(4, 1)
FIRST_ROW = torch.tensor([True, False, False, False]).view(4, 1)
COLUMN = torch.tensor([False, False, True]).view(1, 3)
BETAS = [(0.9, 0.999), (0.99, 0.99), (0.5, 0.5), (0.0, 0.999), (0.9, 0.0), (0.0, 0.0)]


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    """Gradients of very different sizes, the same for everyone."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) * 10.0 ** (step % 5 - 3) for shape in SHAPES]


def steps(optimizer: torch.optim.Optimizer, numbers: range) -> None:
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number in numbers:
        for parameter, gradient in zip(own, gradients(number), strict=False):
            parameter.grad = gradient
        optimizer.step()


def same(first: list[nn.Parameter], second: list[nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_without_a_restart_it_is_adam_bit_for_bit(betas: tuple[float, float], weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    settings = {"lr": 1e-2, "betas": betas, "weight_decay": weight_decay, "fused": True}
    steps(UnitAdam(ours, **settings), range(50))
    steps(torch.optim.Adam(theirs, **settings), range(50))
    assert same(ours, theirs)


def test_a_group_that_is_added_later_moves_too() -> None:
    ours, theirs = parameters(), parameters()
    optimizers = [kind(own[:2], lr=1e-2, fused=True) for kind, own in ((UnitAdam, ours), (torch.optim.Adam, theirs))]
    for optimizer, own in zip(optimizers, (ours, theirs), strict=True):
        steps(optimizer, range(3))
        optimizer.add_param_group({"params": own[2:]})
        steps(optimizer, range(3, 9))
    assert same(ours, theirs)


def test_a_copied_optimizer_counts_on_its_own() -> None:
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, fused=True)
    steps(optimizer, range(3))
    copied, twins = copy.deepcopy((optimizer, ours))
    steps(copied, range(3, 5))
    assert [float(copied.state[twin]["step"]) for twin in twins] == [5.0] * 3
    assert [float(optimizer.state[own]["step"]) for own in ours] == [3.0] * 3


@pytest.mark.parametrize("betas", BETAS)
def test_restarted_entries_follow_a_fresh_adam_and_the_others_the_old_one(betas: tuple[float, float]) -> None:
    ours, theirs = parameters(), parameters()
    settings = {"lr": 1e-2, "betas": betas, "fused": True}
    optimizer, old = UnitAdam(ours, **settings), torch.optim.Adam(theirs, **settings)
    steps(optimizer, range(37))
    steps(old, range(37))
    reset_entries(optimizer, ours[0], ROW, "restart")
    new = [nn.Parameter(ours[0].detach().clone())]
    fresh = torch.optim.Adam(new, **settings)
    restarted = ROW.expand(4, 3)
    for number in range(37, 237):
        for follower in (optimizer, old, fresh):
            steps(follower, range(number, number + 1))
        assert torch.equal(ours[0][~restarted], theirs[0][~restarted])
        # Looser than one step below: 400 roundings add up, of values up to 20 when the second beta is 0.
        torch.testing.assert_close(ours[0][restarted], new[0][restarted], rtol=1e-5, atol=1e-5)
    assert same(ours[1:], theirs[1:])
    assert torch.equal(ours[0][restarted], theirs[0][restarted]) == (betas == (0.0, 0.0))  # which has no memory to clear


@pytest.mark.parametrize("betas", BETAS)
def test_each_step_of_a_restarted_entry_is_that_of_a_fresh_adam(betas: tuple[float, float]) -> None:
    # The parameter is put back to 0 after every step, so that a step is seen to its last digits.
    ours, new = (nn.Parameter(torch.zeros(4, 3)) for _ in range(2))
    optimizer = UnitAdam([ours], lr=1e-2, betas=betas, fused=True)
    fresh = torch.optim.Adam([new], lr=1e-2, betas=betas, fused=True)
    steps(optimizer, range(37))
    reset_entries(optimizer, ours, torch.ones(1, dtype=torch.bool), "restart")
    with torch.no_grad():
        for number in range(37, 237):
            ours.zero_(), new.zero_()
            steps(optimizer, range(number, number + 1))
            steps(fresh, range(number, number + 1))
            torch.testing.assert_close(ours, new, rtol=1e-6, atol=0)


def test_double_precision() -> None:
    ours, new = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer, fresh = UnitAdam([ours], fused=True), torch.optim.Adam([new], fused=True)
    gradient = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    for follower, count in ((optimizer, 5), (fresh, 0)):
        for _ in range(count):
            follower.param_groups[0]["params"][0].grad = gradient
            follower.step()
    reset_entries(optimizer, ours, torch.ones(3, dtype=torch.bool), "restart")
    with torch.no_grad():
        ours.fill_(1.0)
    for _ in range(10):
        ours.grad = new.grad = gradient
        optimizer.step()
        fresh.step()
    torch.testing.assert_close(ours, new, rtol=1e-6, atol=0)


def test_two_restarts_and_rows_that_cross_columns() -> None:
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, fused=True)
    followers: list[tuple[Tensor, nn.Parameter, torch.optim.Optimizer]] = []
    start = 0
    for restart, mask in [(20, ROW), (31, COLUMN), (31, FIRST_ROW), (45, ROW)]:
        for follower in (optimizer, *(entry[2] for entry in followers)):
            steps(follower, range(start, restart))
        start = restart
        reset_entries(optimizer, ours[0], mask, "restart")
        whole = mask.expand(4, 3)
        followers = [(rows & ~whole, value, follower) for rows, value, follower in followers]
        value = nn.Parameter(ours[0].detach().clone())
        followers.append((whole, value, torch.optim.Adam([value], lr=1e-2, fused=True)))
    for follower in (optimizer, *(entry[2] for entry in followers)):
        steps(follower, range(start, 120))
    assert optimizer.restarted_at(ours[0]).tolist() == [[31.0] * 3, [45.0] * 3, [0.0, 0.0, 31.0], [45.0] * 3]
    for entries, value, _ in followers:
        torch.testing.assert_close(ours[0][entries], value[entries], rtol=1e-6, atol=5e-7)


def test_a_restart_stops_costing_anything_when_it_stops_mattering(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.5^25 is 2^-25, so the 26th step after the restart is the first without a correction.
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, betas=(0.5, 0.5), fused=True)
    calls = []
    monkeypatch.setattr("plasticity.optimizers.restart_correction._Joined.correct", lambda *_: calls.append(1))
    steps(optimizer, range(10))
    assert calls == []
    optimizer.restart(ours[0], ROW)
    steps(optimizer, range(10, 60))
    assert len(calls) == 25


def test_past_the_horizon_the_fresh_adam_is_still_followed() -> None:
    settings = {"lr": 1e-2, "betas": (0.7, 0.6), "fused": True}
    ours = parameters()
    optimizer = UnitAdam(ours, **settings)
    steps(optimizer, range(10))
    reset_entries(optimizer, ours[0], ROW, "restart")
    new = [nn.Parameter(ours[0].detach().clone())]
    fresh = torch.optim.Adam(new, **settings)
    steps(optimizer, range(10, 150))
    steps(fresh, range(10, 150))
    torch.testing.assert_close(ours[0][ROW.expand(4, 3)], new[0][ROW.expand(4, 3)], rtol=1e-6, atol=5e-7)


def clear_second(optimizer: UnitAdam, own: list[nn.Parameter]) -> None:
    reset_entries(optimizer, own[1], None, "restart")


def nothing(optimizer: UnitAdam, own: list[nn.Parameter]) -> None:
    pass


@pytest.mark.parametrize("between", [nothing, clear_second])
@pytest.mark.parametrize("restarts", [[], [12]])
def test_saving_and_loading_continue_bit_for_bit(
    between: Callable[[UnitAdam, list[nn.Parameter]], None], restarts: list[int]
) -> None:
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, fused=True)
    steps(optimizer, range(20))
    for _ in restarts:
        reset_entries(optimizer, ours[0], ROW, "restart")
        steps(optimizer, range(20, 25))
    between(optimizer, ours)
    saved = copy.deepcopy(optimizer.state_dict())
    loaded = [nn.Parameter(value.detach().clone()) for value in ours]
    other = UnitAdam(loaded, lr=99.0, fused=True)
    other.load_state_dict(saved)
    for follower, own in ((optimizer, ours), (other, loaded)):
        steps(follower, range(25, 40))
        reset_entries(follower, own[2], torch.tensor([True, False]).view(2, 1, 1, 1), "restart")
        steps(follower, range(40, 60))
    assert same(ours, loaded)


def test_loading_in_the_middle_of_a_horizon_keeps_its_end() -> None:
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, betas=(0.5, 0.5), fused=True)
    steps(optimizer, range(10))
    reset_entries(optimizer, ours[0], ROW, "restart")
    steps(optimizer, range(10, 15))
    other = UnitAdam(parameters(), lr=1e-2, betas=(0.5, 0.5), fused=True)
    other.load_state_dict(optimizer.state_dict())
    assert [group["updates"] for group in other.param_groups] == [15]
    state = other.state[other.param_groups[0]["params"][0]]
    assert state["restart_matters_until_update"] == 35
    assert torch.equal(other.restarted_at(other.param_groups[0]["params"][0]), optimizer.restarted_at(ours[0]))


@pytest.mark.parametrize("policy", ["restart", "zero"])
def test_how_long_the_first_steps_are(policy: str) -> None:
    # Under a constant gradient of 1 the moments of a long run are 1 and every step is lr. Clearing the moments and keeping the
    # step count gives lr (1 - 0.9^k) / sqrt(1 - 0.999^k) at step k: 0.1 / sqrt(0.001) = 3.16 at k = 1, and
    # (1 - 0.9^12) / sqrt(1 - 0.999^12) = 0.7176 / 0.1092 = 6.57 at its peak, k = 12.
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = UnitAdam([parameter], lr=0.5, fused=True)
    parameter.grad = torch.ones(2)
    optimizer.step()
    state = optimizer.state[parameter]
    state["step"].fill_(1e6)
    state["exp_avg"].fill_(1.0)
    state["exp_avg_sq"].fill_(1.0)
    reset_entries(optimizer, parameter, torch.tensor([True, False]), policy)
    ratios = []
    for _ in range(30):
        with torch.no_grad():
            parameter.zero_()
        optimizer.step()
        ratios.append((parameter / -0.5).tolist())
    assert [ratio[1] for ratio in ratios] == pytest.approx([1.0] * 30, rel=1e-5)
    reset = [ratio[0] for ratio in ratios]
    if policy == "restart":
        assert reset == pytest.approx([1.0] * 30, rel=1e-5)
    else:
        assert reset == pytest.approx([(1 - 0.9**k) / (1 - 0.999**k) ** 0.5 for k in range(1, 31)], rel=1e-4)
        assert reset[0] == pytest.approx(3.16, abs=0.01)
        assert max(reset) == pytest.approx(6.57, abs=0.01)
        assert reset.index(max(reset)) + 1 in (11, 12, 13)


def test_clearing_the_step_count_clears_the_restarts() -> None:
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, fused=True)
    steps(optimizer, range(20))
    reset_entries(optimizer, ours[0], ROW, "restart")
    steps(optimizer, range(20, 25))
    reset_adam_state(optimizer, "both", step=True)
    new = [nn.Parameter(value.detach().clone()) for value in ours]
    steps(optimizer, range(25, 60))
    steps(torch.optim.Adam(new, lr=1e-2, fused=True), range(25, 60))
    assert same(ours, new)


def test_the_learning_rate_of_the_moment_counts() -> None:
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, fused=True)
    steps(optimizer, range(20))
    reset_entries(optimizer, ours[0], ROW, "restart")
    new = [nn.Parameter(ours[0].detach().clone())]
    fresh = torch.optim.Adam(new, lr=1e-2, fused=True)
    for number in range(20, 60):
        for follower in (optimizer, fresh):
            follower.param_groups[0]["lr"] = 1e-2 / (number - 19)
            steps(follower, range(number, number + 1))
    torch.testing.assert_close(ours[0][ROW.expand(4, 3)], new[0][ROW.expand(4, 3)], rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize("after_restart", [0, 3])
def test_a_refused_step_changes_nothing(after_restart: int) -> None:
    """A caller that meets a gradient that is not finite sets ``found_inf``; the fused kernel then changes no value."""
    ours, untouched = parameters(), parameters()
    optimizer, other = UnitAdam(ours, lr=1e-2, fused=True), UnitAdam(untouched, lr=1e-2, fused=True)
    for follower, own in ((optimizer, ours), (other, untouched)):
        steps(follower, range(10))
        reset_entries(follower, own[0], ROW, "restart")
        follower.grad_scale = None
        follower.found_inf = torch.zeros(())
        steps(follower, range(10, 10 + after_restart))
    optimizer.found_inf = torch.ones(())
    steps(optimizer, range(50, 51))
    assert same(ours, untouched)
    optimizer.found_inf = torch.zeros(())
    for follower in (optimizer, other):
        steps(follower, range(60, 80))
    assert same(ours, untouched)


def test_a_parameter_without_gradient_stays() -> None:
    ours = parameters()
    optimizer = UnitAdam(ours, lr=1e-2, fused=True)
    steps(optimizer, range(10))
    reset_entries(optimizer, ours[0], ROW, "restart")
    before = ours[0].detach().clone()
    optimizer.zero_grad(set_to_none=True)
    ours[1].grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(ours[0], before)


def test_two_groups_keep_their_own_settings() -> None:
    first, second = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimizer = UnitAdam([{"params": [first]}, {"params": [second], "lr": 0.5, "betas": (0.5, 0.5)}], lr=0.1, fused=True)
    new = nn.Parameter(torch.ones(4, 3))
    fresh = torch.optim.Adam([new], lr=0.5, betas=(0.5, 0.5), fused=True)
    for number in range(10):
        first.grad = second.grad = gradients(number)[0]
        optimizer.step()
    reset_entries(optimizer, second, ROW, "restart")
    with torch.no_grad():
        second.fill_(1.0)
    for number in range(10, 20):
        second.grad = new.grad = gradients(number)[0]
        optimizer.step()
        fresh.step()
    torch.testing.assert_close(second[ROW.expand(4, 3)], new[ROW.expand(4, 3)], rtol=1e-6, atol=5e-7)
