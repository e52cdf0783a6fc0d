from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates import trace as update_trace
from plasticity.updates.updater import Updater

BuildPart = Callable[..., PartBuilder]
WEIGHT, BIAS = "head.linear.weight", "head.linear.bias"


@dataclass
class AddToGradient(Intervention):
    """Adds 1 to the bias gradient."""

    def after_backward(self, u: Update) -> Logs:
        gradient = u.network.tensor(BIAS).grad
        assert gradient is not None
        gradient.add_(1.0)
        return {}


@dataclass
class MoveWeights(Intervention):
    """Moves every weight by 3 after the step."""

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        u.network.tensor(WEIGHT).add_(3.0)
        return {}


def linear(builder: BuildPart, clip: float | None = None, **methods: type[Intervention]) -> Updater:
    """Two inputs, one output, weight (1, 2) and bias 0; SGD with step size 0.5."""
    settings = OptimizerSettings("sgd", 0.5, max_gradient_norm=clip)
    part = builder(methods, spec=MLPSpec(widths=[]), inputs=(2,), optimizer=settings)("q", HeadSpec("regression", 1))
    with torch.no_grad():
        part.network.tensor(WEIGHT).copy_(torch.tensor([[1.0, 2.0]]))
        part.network.tensor(BIAS).zero_()
    return part


def update(part: Updater, scale: float = 1.0) -> None:
    """The loss is the output at ``scale`` (3, 4): a gradient of that for the weight and 1 for the bias."""
    part.step(part.forward(torch.tensor([[3.0, 4.0]]) * scale).sum(), None)


def go_to(part: Updater, last: int) -> list[dict[str, float]]:
    """Makes the updates up to number ``last``, with a scale of their number; returns the norms after each."""
    seen = []
    while part.steps < last:
        update(part, scale=part.steps + 1)
        seen.append(norms(part))
    return seen


def norms(part: Updater) -> dict[str, float]:
    return {name: float(value) for name, value in part.trace.norms.items()}


def test_norms_by_hand(builder: BuildPart) -> None:
    # Gradient (3, 4) and 1 + 1 = 2 by the intervention: 5, 2, and sqrt(29) together. The optimizer moves by half of that.
    # The intervention adds 3 to both weights: 3 sqrt(2).
    part = linear(builder, add=AddToGradient, move=MoveWeights)
    update(part)
    root = 29**0.5
    assert norms(part) == pytest.approx(
        {
            "gradient": root,
            f"gradient/{WEIGHT}": 5.0,
            f"gradient/{BIAS}": 2.0,
            "optimizer": root / 2,
            f"optimizer/{WEIGHT}": 2.5,
            f"optimizer/{BIAS}": 1.0,
            "intervention": 3 * 2**0.5,
            f"intervention/{WEIGHT}": 3 * 2**0.5,
            f"intervention/{BIAS}": 0.0,
            "update": 1,
        }
    )


def test_gradient_norm_is_that_before_clipping(builder: BuildPart) -> None:
    # Gradient (3, 4), 1: norm sqrt(26), clipped to 0.1; the optimizer moves by half of 0.1.
    part = linear(builder, clip=0.1)
    update(part)
    assert norms(part)["gradient"] == pytest.approx(26**0.5)
    assert norms(part)[f"gradient/{WEIGHT}"] == pytest.approx(5.0)
    assert norms(part)["optimizer"] == pytest.approx(0.05, rel=1e-4)
    assert norms(part)["intervention"] == 0.0


def test_the_first_update_and_every_hundredth_are_traced(builder: BuildPart) -> None:
    part = linear(builder)
    assert part.trace.norms == {}
    seen = go_to(part, 305)
    traced = [1] * 99 + [100] * 100 + [200] * 100 + [300] * 6
    assert [entry["update"] for entry in seen] == traced
    # Update k has the gradient k (3, 4) and 1, and moves by half of it.
    assert [entry["gradient"] for entry in seen] == pytest.approx([(25 * k**2 + 1) ** 0.5 for k in traced])
    assert [entry[f"gradient/{WEIGHT}"] for entry in seen] == pytest.approx([5.0 * k for k in traced])
    # The weights are some 10^5 after 300 such steps, and a change of them is known to their rounding.
    assert [entry["optimizer"] for entry in seen] == pytest.approx([(25 * k**2 + 1) ** 0.5 / 2 for k in traced], rel=1e-3)


def test_the_next_update_is_traced_on_request(builder: BuildPart) -> None:
    part = linear(builder)
    go_to(part, 36)
    part.trace.arm()
    assert part.trace.norms["update"] == 1
    seen = go_to(part, 101)
    assert [entry["update"] for entry in seen] == [37] * 63 + [100] * 2
    assert [entry[f"gradient/{WEIGHT}"] for entry in seen] == pytest.approx([37 * 5.0] * 63 + [500.0] * 2)


def test_norms_are_taken_at_the_traced_updates_alone(builder: BuildPart) -> None:
    # What costs time is the copy of the weights before the step and the norm of each gradient.
    part = linear(builder)
    armed = []
    part.optimizer.register_step_pre_hook(lambda *_: armed.append(part.trace.armed))
    go_to(part, 205)
    assert [number for number, traced in enumerate(armed, 1) if traced] == [1, 100, 200]


def test_tracing_changes_no_weight(builder: BuildPart) -> None:
    def weights(traced: bool) -> list[Tensor]:
        part = linear(builder, add=AddToGradient, move=MoveWeights)
        for _ in range(3):
            if traced:
                part.trace.arm()
            update(part)
        return list(part.network.parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(False), weights(True), strict=True))


def test_norms_survive_a_checkpoint(builder: BuildPart, through_disk: Callable[[Any], Any]) -> None:
    part, other = linear(builder), linear(builder)
    update(part)
    other.load_state_dict(through_disk(part.state_dict()))
    assert norms(other) == norms(part)
    update(other)
    assert norms(other) == norms(part)


@pytest.mark.parametrize("saved", [1, 99, 100, 150])
def test_a_resumed_run_reports_the_norms_of_the_uninterrupted_one(
    builder: BuildPart, through_disk: Callable[[Any], Any], saved: int
) -> None:
    whole, stopped, resumed = (linear(builder, add=AddToGradient, move=MoveWeights) for _ in range(3))
    expected = go_to(whole, 210)
    go_to(stopped, saved)
    resumed.load_state_dict(through_disk(stopped.state_dict()))
    assert norms(resumed) == expected[saved - 1]
    assert go_to(resumed, 210) == expected[saved:]


def test_a_refused_update_publishes_nothing(builder: BuildPart) -> None:
    part = linear(builder)
    with pytest.raises(FloatingPointError):
        part.step(part.forward(torch.tensor([[3.0, float("inf")]])).sum(), None)
    assert part.trace.norms == {}
    update(part)
    assert part.trace.norms["update"] == 2
    assert norms(part)["gradient"] == pytest.approx(26**0.5)


def outputs_of(part: Updater, inputs: Tensor) -> Tensor:
    return part.infer(inputs, part.network).clone()


class Inputs(NamedTuple):
    inputs: Tensor


def learn(part: Updater, number: int) -> None:
    inputs = torch.tensor([[3.0, 4.0]]) / number
    part.step(part.forward(inputs).sum(), Inputs(inputs))


def test_outputs_before_and_after_a_hundredth_update(builder: BuildPart) -> None:
    # Of the inputs of update 99, before and after update 100.
    part = linear(builder, move=MoveWeights)
    references = torch.tensor([[3.0, 4.0]]) / 99
    for number in range(1, 100):
        learn(part, number)
        assert part.trace.outputs is None
    before = outputs_of(part, references)
    learn(part, 100)
    assert part.network.training
    assert part.trace.outputs is not None
    assert torch.equal(part.trace.outputs[0], before)
    assert torch.equal(part.trace.outputs[1], outputs_of(part, references))
    assert float((part.trace.outputs[1] - before).abs()) > 0.01


@pytest.mark.parametrize("saved", [98, 99, 100])
def test_a_resumed_run_reports_the_outputs_of_the_uninterrupted_one(
    builder: BuildPart, through_disk: Callable[[Any], Any], saved: int
) -> None:
    whole, stopped, resumed = (linear(builder) for _ in range(3))
    for number in range(1, 102):
        learn(whole, number)
    for number in range(1, saved + 1):
        learn(stopped, number)
    resumed.load_state_dict(through_disk(stopped.state_dict()))
    for number in range(saved + 1, 102):
        learn(resumed, number)
    assert whole.trace.outputs is not None
    assert resumed.trace.outputs is not None
    assert all(torch.equal(one, two) for one, two in zip(whole.trace.outputs, resumed.trace.outputs, strict=True))


def test_details_by_hand(builder: BuildPart) -> None:
    part = linear(builder)
    part.step(part.forward(torch.tensor([[3.0, 0.0]])).sum(), None)
    details = {name: float(value) for name, value in part.trace.details.items()}
    expected = {f"parameter/{WEIGHT}": 5**0.5, f"parameter/{BIAS}": 0.0, f"zeros/{WEIGHT}": 1.0, f"zeros/{BIAS}": 0.0}
    assert details == pytest.approx(expected)


def test_outputs_of_many_numbers_are_kept_in_part(builder: BuildPart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_trace, "MOST_OUTPUTS", 7)
    part = builder(inputs=(1,))("learner", HeadSpec("regression", 3))
    inputs = torch.arange(8.0).unsqueeze(1)
    before = torch.empty(0)
    for _ in range(100):
        before = outputs_of(part, inputs)
        part.step(part.forward(inputs).square().mean(), Inputs(inputs))
    assert part.trace.outputs is not None
    for kept, whole in zip(part.trace.outputs, (before, outputs_of(part, inputs)), strict=True):
        assert torch.equal(kept, whole[:2])  # two rows of three numbers are no more than 7
        assert kept.untyped_storage().nbytes() == 2 * 3 * 4
