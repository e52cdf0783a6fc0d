from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.adam_state_reset import AdamStateReset, reset_adam_state
from plasticity.interventions.methods.continual_backprop import ContinualBackprop
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.optimizers.unit_adam import RESTARTED_AT
from plasticity.updates.updater import Updater

RATE = 0.01


def build(layout: str = "mlp", optimizer: str = "adam", treated: bool = True, **settings: Any) -> Updater:
    spec, inputs = {
        "mlp": (MLPSpec(widths=[5]), (3,)),
        "conv": (ConvSpec(widths=[4], channels=[3], activations=["crelu"]), (1, 4, 4)),
    }[layout]
    methods = {"adam_state_reset": lambda: AdamStateReset(**settings)} if treated else {}
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings(optimizer, RATE), methods)("q", HeadSpec("regression", 2))


def update(part: Updater, step: int = 0) -> dict[str, Any]:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.step(part.forward(inputs).square().mean(), None)


def scalar_adam(value: float = 0.0) -> tuple[Tensor, torch.optim.Optimizer]:
    parameter = torch.nn.Parameter(torch.tensor([value]))
    return parameter, torch.optim.Adam([parameter], lr=RATE)


def constant_step(parameter: Tensor, optimizer: torch.optim.Optimizer, gradient: float = 1.0) -> float:
    before = float(parameter.detach())
    parameter.grad = torch.tensor([gradient])
    optimizer.step()
    return before - float(parameter.detach())


@pytest.mark.parametrize(
    ("moments", "step", "after", "factor"),
    [
        ("both", True, 0, 1.0),  # a fresh Adam: lr times the sign
        ("both", False, 5000, 0.1 / (0.001 / (1 - 0.999**5001)) ** 0.5),  # 3.16 in the long run
        ("none", True, 0, (1 / 0.1) / (1 / 0.001) ** 0.5),  # Adam-Rel: 0.316
        ("none", False, 5000, 1.0),
        ("first", False, 5000, 0.1),
        ("second", False, 5000, 1 / (0.001 / (1 - 0.999**5001)) ** 0.5),  # 31.6 in the long run
        ("first", True, 0, (0.1 / 0.1) / (1 / 0.001) ** 0.5),
    ],
)
def test_next_step_by_hand(moments: str, step: bool, after: int, factor: float) -> None:
    # After 5,000 equal gradients of 1: m = 1, v = 1 - 0.999^5000 = 0.9933.
    parameter, optimizer = scalar_adam()
    for _ in range(5000):
        constant_step(parameter, optimizer)
    with torch.no_grad():
        parameter.zero_()  # near 0 a step of 0.01 is measured precisely
    reset_adam_state(optimizer, moments, step)
    state = optimizer.state[parameter]
    assert float(state["step"]) == after
    assert bool(state["exp_avg"].any()) == (moments in ("second", "none"))
    assert bool(state["exp_avg_sq"].any()) == (moments in ("first", "none"))
    assert constant_step(parameter, optimizer) == pytest.approx(factor * RATE, rel=0.01)


def test_nothing_to_clear_before_the_first_step() -> None:
    _, optimizer = scalar_adam()
    reset_adam_state(optimizer, "both", True)
    assert not optimizer.state


def test_moments_of_amsgrad_are_cleared_too() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=RATE, amsgrad=True)
    parameter.grad = torch.ones(2)
    optimizer.step()
    reset_adam_state(optimizer, "second", step=False)
    assert not optimizer.state[parameter]["max_exp_avg_sq"].any()
    assert optimizer.state[parameter]["exp_avg"].all()


@pytest.mark.parametrize("layout", ["mlp", "conv"])
def test_against_adam_by_hand(layout: str) -> None:
    part = build(layout, every_updates=3)
    network = part.network
    first = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    second = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    count = 0
    for step in range(1, 9):
        inputs = torch.randn(6, *network.input_shape, generator=torch.Generator().manual_seed(step))
        loss = part.forward(inputs).square().mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        count += 1
        expected = {}
        for (name, value), gradient in zip(network.named_parameters(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            first_hat, second_hat = first[name] / (1 - 0.9**count), second[name] / (1 - 0.999**count)
            expected[name] = value.detach() - RATE * first_hat / (second_hat.sqrt() + 1e-8)
        if step % 3 == 0:
            count = 0
            for name in first:
                first[name].zero_()
                second[name].zero_()
        logs = part.step(loss, None)
        assert logs == ({"adam_state_reset/applied": 1.0} if step % 3 == 0 else {})
        for name, value in network.named_parameters():
            torch.testing.assert_close(value.detach(), expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("at_task_switch", [True, False])
def test_task_switch_clears_state_and_keeps_weights(at_task_switch: bool) -> None:
    part = build(at_task_switch=at_task_switch)
    update(part)
    before = [value.detach().clone() for value in part.network.parameters()]
    logs = part.task_switch(1)
    assert logs == ({"adam_state_reset/applied": 1.0} if at_task_switch else {})
    assert all(torch.equal(a, b) for a, b in zip(before, part.network.parameters(), strict=True))
    for parameter in part.network.parameters():
        state = part.optimizer.state[parameter]
        assert float(state["step"]) == (0.0 if at_task_switch else 1.0)
        assert bool(state["exp_avg_sq"].any()) != at_task_switch


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6])])
def test_period(every: int, expected: list[int]) -> None:
    part = build(every_updates=every)
    assert [step for step in range(1, 8) if update(part, step)] == expected


def test_a_full_reset_makes_adam_that_of_the_first_update_even_after_units_were_restarted() -> None:
    methods = {
        "continual_backprop": lambda: ContinualBackprop(replacement_rate=0.5, maturity_updates=1),
        "adam_state_reset": lambda: AdamStateReset(),
    }
    part = PartBuilder(MLPSpec(widths=[6]), (3,), torch.float32, OptimizerSettings(learning_rate=RATE), methods)(
        "q", HeadSpec("regression", 2)
    )
    for step in range(6):
        update(part, step)
    assert any(RESTARTED_AT in state for state in part.optimizer.state.values())
    part.task_switch(1)
    part.interventions["continual_backprop"].replacement_rate = 0.0  # type: ignore[attr-defined]
    before = part.network.tensor("head.linear.weight").detach().clone()
    update(part, 7)
    gradient = part.network.tensor("head.linear.weight").grad
    assert gradient is not None
    moved = before - part.network.tensor("head.linear.weight").detach()
    large = gradient.abs() > 1e-5
    assert bool(large.any())
    torch.testing.assert_close(moved[large], RATE * gradient.sign()[large], rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_other_optimizers_are_refused(optimizer: str) -> None:
    with pytest.raises(ValueError, match=f"adam_state_reset needs optimizer=adam, not {optimizer}"):
        build(optimizer=optimizer)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"adam_state_reset\.every_updates=-1 must be at least 0"):
        AdamStateReset(every_updates=-1)
    with pytest.raises(ValueError, match=r"adam_state_reset\.moments=all is unknown; choose from both, first, second, none"):
        AdamStateReset(moments="all")
