"""Adam's step as a function of tensors: entries that were restarted move as in the optimizer itself."""

import pytest
import torch
from torch import Tensor

from plasticity.optimizers.optimizer_state import expect_resets, reset_entries
from plasticity.optimizers.unit_adam import UnitAdam
from plasticity.updates.step_rule import AdamRule, step_rule

RATE, EPSILON = 0.01, 1e-8
ROW = torch.tensor([[False], [True], [False]])
COLUMN = torch.tensor([[True, False]])
ENTRIES = torch.tensor([[True, False], [False, False], [False, True]])


def made() -> tuple[list[Tensor], UnitAdam]:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((3, 2), (3,), ())]
    return parameters, UnitAdam(parameters, lr=RATE, eps=EPSILON, fused=True)


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in ((3, 2), (3,), ())]


def step_itself(parameters: list[Tensor], optimizer: UnitAdam, given: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, given, strict=True):
        parameter.grad = gradient
    optimizer.step()


@torch.no_grad()
def step_by_rule(parameters: list[Tensor], optimizer: UnitAdam, given: list[Tensor]) -> None:
    rule = step_rule(optimizer)
    assert isinstance(rule, AdamRule)
    rule.move([parameter.detach() for parameter in parameters], given, rule.state(), torch.tensor(RATE), torch.tensor(True))
    rule.complete()


@pytest.mark.parametrize("masks", [[ROW], [COLUMN], [ROW, COLUMN], [COLUMN, ROW], [ENTRIES], [ROW, ENTRIES]], ids=str)
def test_restarted_entries_move_as_in_the_optimizer_itself(masks: list[Tensor]) -> None:
    (ours, optimizer), (theirs, other) = made(), made()
    for step in range(30):
        if step >= 8 and step - 8 < len(masks):
            for parameters, own in ((ours, optimizer), (theirs, other)):
                reset_entries(own, parameters[0], masks[step - 8], "restart")
                reset_entries(own, parameters[1], ROW.flatten(), "restart")
        step_by_rule(ours, optimizer, gradients(step))
        step_itself(theirs, other, gradients(step))
        for mine, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, expected, rtol=0.0, atol=1e-3 * RATE)


def test_the_first_step_after_a_restart_by_hand() -> None:
    # Of a fresh Adam: rate * g / (|g| + epsilon), so 0.01 against the sign of g.
    parameters, optimizer = made()
    for step in range(50):
        step_by_rule(parameters, optimizer, gradients(step))
    assert not optimizer.restarts_matter()
    reset_entries(optimizer, parameters[0], ROW, "restart")
    assert optimizer.restarts_matter()
    before, given = parameters[0].detach().clone(), gradients(50)
    step_by_rule(parameters, optimizer, given)
    moved = parameters[0].detach() - before
    torch.testing.assert_close(moved[1], -RATE * given[0][1].sign(), rtol=1e-4, atol=0.0)
    assert (moved[[0, 2]].abs() < 0.9 * RATE).any()


def test_restarts_cost_nothing_once_they_no_longer_matter() -> None:
    parameters = [torch.ones(3, 2).requires_grad_()]
    optimizer = UnitAdam(parameters, lr=RATE, betas=(0.5, 0.5), fused=True)  # 0.5^25 is half a unit in the last place
    step_by_rule(parameters, optimizer, [torch.ones(3, 2)])
    reset_entries(optimizer, parameters[0], ROW, "restart")
    rule = AdamRule(optimizer)
    lengths = []
    for _ in range(30):
        lengths.append(len(rule.state()))
        step_by_rule(parameters, optimizer, [torch.ones(3, 2)])
    assert lengths == [4] * 25 + [3] * 5


def test_restarts_that_are_expected_leave_the_form_of_the_step_alone() -> None:
    parameters, optimizer = made()
    step_by_rule(parameters, optimizer, gradients(0))
    rule = AdamRule(optimizer)
    for axis in (0, 1):
        expect_resets(optimizer, parameters[0], axis, "restart")
    assert not optimizer.restarts_matter()
    reset_entries(optimizer, parameters[0], ROW, "restart")
    key = rule.key
    assert key[-1] == (((1, 2), (3, 1)), (), ())
    reset_entries(optimizer, parameters[0], COLUMN, "restart")
    assert rule.key == key
    reset_entries(optimizer, parameters[1], ROW.flatten(), "restart")
    assert rule.key != key


@pytest.mark.parametrize("all_of_it", [True, False])
def test_a_state_that_is_cleared_from_outside_begins_again(all_of_it: bool) -> None:
    parameters, optimizer = made()
    for step in range(9):
        step_by_rule(parameters, optimizer, gradients(step))
    for parameter in parameters[:2]:
        reset_entries(
            optimizer, parameter, torch.ones(parameter.shape[0], *[1] * (parameter.ndim - 1), dtype=torch.bool), "restart"
        )
    step_by_rule(parameters, optimizer, gradients(9))
    for parameter in parameters if all_of_it else parameters[:1]:
        optimizer.state[parameter].clear()
    before = parameters[0].detach().clone()
    given = gradients(10)
    step_by_rule(parameters, optimizer, given)
    torch.testing.assert_close(parameters[0].detach() - before, -RATE * given[0].sign(), rtol=1e-4, atol=1e-7)
