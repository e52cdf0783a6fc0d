"""Weights held at their initial norm, alone and with layer normalisation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.normalize_and_project import NormalizeAndProject
from plasticity.interventions.methods.weight_projection import WeightProjection, project_norms
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPEC = MLPSpec(widths=[5, 4])


def part_of(name: str, make: Callable[[], Intervention], spec: NetworkSpec = SPEC) -> Updater:
    optimizer = OptimizerSettings(name="sgd", learning_rate=0.1)
    return PartBuilder(spec, (3,), torch.float32, optimizer, {name: make})("q", HeadSpec("q", 2))


def train(part: Updater, steps: int = 4) -> None:
    for _ in range(steps):
        inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(part.steps))
        part.step((part.forward(inputs) - 1).square().mean(), None)


def norms(part: Updater) -> dict[str, Tensor]:
    return {name: value.detach().norm() for name, value in part.network.weights().items()}


def test_projection_by_hand() -> None:
    weights = [torch.tensor([[3.0, 4.0]]), torch.tensor([6.0, 8.0]), torch.zeros(2)]
    project_norms(weights, [torch.tensor(10.0), torch.tensor(5.0), torch.tensor(1.0)])
    assert [weight.flatten().tolist() for weight in weights] == [[6.0, 8.0], [3.0, 4.0], [0.0, 0.0]]


@pytest.mark.parametrize("output", [True, False])
def test_weights_keep_their_initial_norm(output: bool) -> None:
    part = part_of("weight_projection", lambda: WeightProjection(output=output))
    before = norms(part)
    bias = part.network.tensor("torso.layers.dense_1.linear.bias").detach().clone()
    train(part)
    after = norms(part)
    for name, norm in before.items():
        same = torch.allclose(norm, after[name], rtol=1e-5)
        assert same == (output or not name.startswith("head")), name
    assert not torch.equal(part.network.tensor("torso.layers.dense_1.linear.bias"), bias)


def test_between_projections_the_norm_is_free() -> None:
    part = part_of("weight_projection", lambda: WeightProjection(every_updates=3))
    before = norms(part)
    for step in range(1, 7):
        train(part, 1)
        same = all(torch.allclose(before[name], norm, rtol=1e-5) for name, norm in norms(part).items())
        assert same == (step % 3 == 0)


def test_the_direction_is_that_of_the_step() -> None:
    plain, projected = (
        part_of("weight_projection", lambda: WeightProjection(every_updates=0)),
        part_of("weight_projection", WeightProjection),
    )
    train(plain, 1)
    train(projected, 1)
    for name, weight in plain.network.weights().items():
        other = projected.network.tensor(name)
        torch.testing.assert_close(weight / weight.norm(), other / other.norm())


def test_normalize_and_project_leaves_the_function_as_it_is() -> None:
    # In front of a normalisation the scale of a weight and its bias has no effect; with zero biases, that of the weight alone.
    part = part_of("nap", lambda: NormalizeAndProject(every_updates=0, gains="fixed"))
    with torch.no_grad():
        for name, value in part.network.named_parameters():
            if name.endswith("bias") and "torso" in name:
                value.zero_()
        inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        before = part.predict(inputs)
        for name in ("torso.layers.dense_1.linear.weight", "torso.layers.dense_2.linear.weight"):
            part.network.tensor(name).mul_(7.0)
    torch.testing.assert_close(part.predict(inputs), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("gains", "norm_parameters"), [("free", 4), ("project", 4), ("fixed", 0)])
def test_gains_and_offsets(gains: str, norm_parameters: int) -> None:
    part = part_of("nap", lambda: NormalizeAndProject(gains=gains))
    before = norms(part)
    train(part)
    assert len(part.network.norm_parameters) == norm_parameters
    after = norms(part)
    for name, norm in before.items():
        assert torch.allclose(norm, after[name], rtol=1e-5) == (not name.startswith("head"))
    if gains == "fixed":
        return
    for layer, units in (("dense_1", 5), ("dense_2", 4)):
        both = [part.network.tensor(f"torso.layers.{layer}.norms.0.{name}").detach() for name in ("weight", "bias")]
        held = torch.allclose(torch.cat(both).norm(), torch.tensor(float(units)).sqrt(), rtol=1e-5)
        assert held == (gains == "project")


def test_a_layer_normalisation_that_is_there_stays_the_only_one() -> None:
    built = NormalizeAndProject().build(MLPSpec(normalisation=["layer_non_affine"]))
    assert built.normalisation == ["layer_non_affine"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightProjection(every_updates=-1), "weight_projection.every_updates=-1 must be at least 0"),
        (
            lambda: NormalizeAndProject(gains="loose"),
            "normalize_and_project.gains=loose is unknown; choose from free, project, fixed",
        ),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
