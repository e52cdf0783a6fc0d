from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.optimizers import OptimizerSettings
from agents.parts import PartBuilder
from agents.updater import Updater
from interventions.base import Intervention, Logs, Update
from networks.spec import HeadSpec, NetworkSpec

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
    part = builder(methods, spec=NetworkSpec(widths=[]), inputs=(2,), optimizer=settings)("q", HeadSpec("regression", 1))
    with torch.no_grad():
        part.network.tensor(WEIGHT).copy_(torch.tensor([[1.0, 2.0]]))
        part.network.tensor(BIAS).zero_()
    return part


def update(part: Updater) -> None:
    """The loss is the output at (3, 4): gradient (3, 4) for the weight and 1 for the bias."""
    part.step(part.forward(torch.tensor([[3.0, 4.0]])).sum(), None)


def norms(part: Updater) -> dict[str, float]:
    return {name: float(value) for name, value in part.trace.norms.items()}


def test_norms_by_hand(builder: BuildPart) -> None:
    # Gradient (3, 4) and 1 + 1 = 2 by the intervention: 5, 2, and sqrt(29) together. The optimizer moves by half of that.
    # The intervention adds 3 to both weights: 3 sqrt(2).
    part = linear(builder, add=AddToGradient, move=MoveWeights)
    part.trace.arm()
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
    part.trace.arm()
    update(part)
    assert norms(part)["gradient"] == pytest.approx(26**0.5)
    assert norms(part)[f"gradient/{WEIGHT}"] == pytest.approx(5.0)
    assert norms(part)["optimizer"] == pytest.approx(0.05, rel=1e-4)
    assert norms(part)["intervention"] == 0.0


def test_only_the_next_update_is_traced(builder: BuildPart) -> None:
    part = linear(builder)
    update(part)
    assert part.trace.norms == {}
    part.trace.arm()
    assert part.trace.norms == {}
    update(part)
    assert part.trace.norms["update"] == 2
    update(part)
    assert part.trace.norms["update"] == 2


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
    part.trace.arm()
    update(part)
    other.load_state_dict(through_disk(part.state_dict()))
    assert norms(other) == norms(part)
    update(other)
    assert norms(other) == norms(part)


def test_a_refused_update_publishes_nothing(builder: BuildPart) -> None:
    part = linear(builder)
    part.trace.arm()
    with pytest.raises(FloatingPointError):
        part.step(part.forward(torch.tensor([[3.0, float("inf")]])).sum(), None)
    assert part.trace.norms == {}
    update(part)
    assert part.trace.norms["update"] == 2
    assert norms(part)["gradient"] == pytest.approx(26**0.5)
