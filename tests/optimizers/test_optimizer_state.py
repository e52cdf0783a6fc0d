"""What happens to the optimizer's state of the entries that a reset writes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.optimizers.optimizer_state import require_restart, reset_entries
from plasticity.optimizers.unit_adam import UnitAdam


def adam(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2, fused=True)


def momentum(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)


def rmsprop(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.RMSprop(parameters, lr=1e-2, momentum=0.9, centered=True)


MOMENTS = {adam: {"exp_avg", "exp_avg_sq"}, momentum: {"momentum_buffer"}, rmsprop: {"square_avg", "grad_avg", "momentum_buffer"}}


@pytest.mark.parametrize("policy", ["keep", "zero", "restart"])
@pytest.mark.parametrize("make", MOMENTS)
@pytest.mark.parametrize("name", ["mlp_batch_norm", "conv_crelu_flatten_dense", "two_heads"])
def test_moments_of_exactly_the_touched_entries_are_cleared(
    admit: Any, name: str, make: Callable[[list[nn.Parameter]], Optimizer], policy: str
) -> None:
    patient = admit(name, make)
    names = {parameter: key for key, parameter in patient.network.named_parameters()}
    before, masks = copy.deepcopy(patient.optimizer.state_dict()["state"]), patient.every_other()
    reset_units(patient.network, patient.optimizer, masks, ResetPolicy(optimizer_state=policy), patient.generator)
    touched, cleared = patient.touched(masks), 0
    for index, (parameter, key) in enumerate(names.items()):
        state = patient.optimizer.state[parameter]
        assert set(state) == set(before[index])
        for moment in MOMENTS[make]:
            entries = touched[key] if policy != "keep" else torch.zeros_like(touched[key])
            assert not state[moment][entries].any()
            assert torch.equal(state[moment][~entries], before[index][moment][~entries])
            cleared += int(before[index][moment][entries].count_nonzero())
        if "step" in state:
            assert torch.equal(state["step"], before[index]["step"])
    assert (cleared > 0) == (policy != "keep")


def test_restart_counts_the_touched_entries_from_zero(admit: Any) -> None:
    patient = admit("conv_crelu_flatten_dense", steps=4)
    masks = patient.every_other()
    reset_units(patient.network, patient.optimizer, masks, ResetPolicy(optimizer_state="restart"), patient.generator)
    touched = patient.touched(masks)
    for name, parameter in patient.network.named_parameters():
        state = patient.optimizer.state[parameter]
        if touched[name].any():
            assert torch.equal(patient.optimizer.restarted_at(parameter), touched[name] * 4.0)
        else:
            assert "restarted_at" not in state
        assert state["step"] == 4


def test_policies_that_keep_a_slice_keep_its_optimizer_state(admit: Any) -> None:
    patient = admit("mlp", adam)
    before = copy.deepcopy(patient.optimizer.state_dict()["state"])
    policy = ResetPolicy(incoming="keep", bias="keep", outgoing="zero", norm=False)
    reset_units(patient.network, patient.optimizer, {"dense_1": torch.ones(6).bool()}, policy, patient.generator)
    changed = [
        name
        for index, (name, parameter) in enumerate(patient.network.named_parameters())
        if not torch.equal(patient.optimizer.state[parameter]["exp_avg"], before[index]["exp_avg"])
    ]
    assert changed == ["torso.layers.dense_2.linear.weight"]


def test_before_the_first_step_there_is_no_state_to_reset(admit: Any) -> None:
    for policy in ("zero", "restart"):
        patient = admit("mlp", steps=0)
        reset_units(
            patient.network, patient.optimizer, patient.every_other(), ResetPolicy(optimizer_state=policy), patient.generator
        )
        assert all(not state for state in patient.optimizer.state.values())
        patient.train(2)


@pytest.mark.parametrize("policy", ["keep", "zero", "restart"])
def test_a_whole_parameter(policy: str) -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = UnitAdam([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(2, 2)
    optimizer.step()
    reset_entries(optimizer, parameter, None, policy)
    state = optimizer.state[parameter]
    assert state["step"] == (0 if policy == "restart" else 1)
    assert state["exp_avg"].unique().tolist() == pytest.approx([0.1 if policy == "keep" else 0.0])


@pytest.mark.parametrize("make", ["UnitAdam", "SGD", "momentum", "nesterov", "RMSprop", "centered"])
@pytest.mark.parametrize("units_first", [False, True])
def test_a_restarted_parameter_continues_as_under_a_fresh_optimizer(make: str, units_first: bool) -> None:
    makers: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        "UnitAdam": lambda own: UnitAdam(own, lr=0.1, fused=True),
        "SGD": lambda own: torch.optim.SGD(own, lr=0.1, fused=True),
        "momentum": lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9, fused=True),
        "nesterov": lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9, nesterov=True, fused=True),
        "RMSprop": lambda own: torch.optim.RMSprop(own, lr=0.1),
        "centered": lambda own: torch.optim.RMSprop(own, lr=0.1, momentum=0.9, centered=True),
    }
    ours, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = makers[make]([other, ours])
    for number in range(4):
        other.grad, ours.grad = torch.ones(2), torch.tensor([1.0, -2.0, number])
        optimizer.step()
        if units_first and number == 2:
            reset_entries(optimizer, ours, torch.tensor([True, False, False]), "restart")
    reset_entries(optimizer, ours, None, "restart")
    new = nn.Parameter(ours.detach().clone())
    fresh = makers[make]([new])
    for number in range(4):
        other.grad, ours.grad = torch.ones(2), torch.tensor([-1.0, number, 0.5])
        new.grad = ours.grad.clone()
        optimizer.step()
        fresh.step()
        assert torch.equal(ours, new)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("whole", [True, False])
def test_the_step_count_of_a_single_number_is_no_moment(shape: tuple[int, ...], whole: bool) -> None:
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = torch.optim.Adam([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(shape)
    optimizer.step()
    reset_entries(optimizer, parameter, None if whole else torch.ones(shape, dtype=torch.bool), "zero")
    assert optimizer.state[parameter]["step"] == 1
    assert not optimizer.state[parameter]["exp_avg"].any()
    assert not optimizer.state[parameter]["exp_avg_sq"].any()


def test_clearing_moments_alone_does_not_undo_a_restart() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = UnitAdam([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(2)
    optimizer.step()
    reset_entries(optimizer, parameter, torch.tensor([True, False]), "restart")
    optimizer.step()
    reset_entries(optimizer, parameter, torch.tensor([True, True]), "zero")
    assert optimizer.restarted_at(parameter).tolist() == [1.0, 0.0]


def test_a_buffer_has_no_state() -> None:
    parameter, buffer = nn.Parameter(torch.ones(2)), torch.ones(2)
    optimizer = UnitAdam([parameter], lr=0.1, fused=True)
    for mask in (None, torch.tensor([True, False])):
        reset_entries(optimizer, buffer, mask, "restart")
    assert buffer not in optimizer.state


def test_restart_is_refused_where_steps_cannot_be_counted_from_zero() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    for optimizer in (torch.optim.Adam(parameters), torch.optim.AdamW(parameters)):
        with pytest.raises(ValueError, match=r"^redo.optimizer_state=restart needs UnitAdam .*; choose zero or keep$"):
            require_restart("redo", "restart", optimizer)
        require_restart("redo", "zero", optimizer)
        require_restart("redo", "keep", optimizer)
    for optimizer in (UnitAdam(parameters), torch.optim.SGD(parameters, 0.1), torch.optim.RMSprop(parameters)):
        require_restart("redo", "restart", optimizer)
