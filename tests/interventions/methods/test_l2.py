from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.l2 import L2, included_parameters, l2_penalty
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.transformer import GPTSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPECS = {
    "mlp": (MLPSpec(widths=[5, 4], normalisation=["layer"]), (3,)),
    "conv": (ConvSpec(widths=[4], channels=[3], normalisation=["layer"]), (1, 4, 4)),
}


def build(layout: str = "mlp", optimizer: OptimizerSettings | None = None, l2: bool = True, **settings: Any) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"l2": lambda: L2(**settings)} if l2 else {}
    chosen = optimizer or OptimizerSettings("sgd", 0.1)
    return PartBuilder(spec, inputs, torch.float32, chosen, methods)("q", HeadSpec("regression", 2))


def loss_of(part: Updater, step: int) -> Tensor:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.forward(inputs).square().mean()


def test_penalty_by_hand() -> None:
    # 0.1 / 2 * (1 + 4 + 9 + 16) = 1.5.
    parameters = {"a": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([3.0, 4.0])}
    assert l2_penalty(parameters, 0.1).item() == pytest.approx(1.5)


def test_a_sum_of_squares_without_the_half_is_twice_its_coefficient_over_all_parameters() -> None:
    # Permuted Shakespeare's code: loss + 1e-4 * sum of p^2 over all parameters, embeddings and normalisation among them.
    spec = GPTSpec(widths=[4], activations=["relu"], residual_blocks=1, attention_heads=2, expansion=2)
    method = {"l2": lambda: L2(coefficient=2e-4, include="all")}
    part = PartBuilder(spec, (3,), torch.int64, OptimizerSettings("sgd", 1.0), method)("q", HeadSpec("classification", 5))
    before = {name: value.detach().clone().requires_grad_() for name, value in part.network.named_parameters()}
    (1e-4 * torch.stack([(value**2).sum() for value in before.values()]).sum()).backward()
    part.step(part.forward(torch.tensor([[0, 1, 2]])).sum() * 0.0, None)
    for name, value in part.network.named_parameters():
        pull = before[name].grad
        assert pull is not None
        torch.testing.assert_close(value.detach(), before[name].detach() - pull, rtol=0, atol=1e-8)
    assert {before[name].ndim for name in before} == {1, 2}  # vectors too: biases and the gains of normalisation


def test_gradient_of_the_penalty_by_hand() -> None:
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    l2_penalty({"w": weight}, 0.25).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.25, -0.5]


@pytest.mark.parametrize("layout", ["mlp", "conv"])
def test_included_parameters(layout: str) -> None:
    network = build(layout).network
    layers = (
        ["torso.layers.dense_1", "torso.layers.dense_2"] if layout == "mlp" else ["torso.layers.conv_1", "torso.layers.dense_1"]
    )
    weights = [f"{layer}.linear.weight" for layer in layers] + ["head.linear.weight"]
    biases = [f"{layer}.linear.bias" for layer in layers] + ["head.linear.bias"]
    norms = [f"{layer}.norms.0.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert set(included_parameters(network, "weights")) == set(weights)
    assert set(included_parameters(network, "weights_and_biases")) == {*weights, *biases}
    assert set(included_parameters(network, "all")) == {*weights, *biases, *norms}
    with pytest.raises(ValueError, match="include=biases is unknown; choose from weights, weights_and_biases, all"):
        included_parameters(network, "biases")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("layout", ["mlp", "conv"])
@pytest.mark.parametrize("include", ["weights", "weights_and_biases", "all"])
def test_loss_mode_is_the_penalty_in_the_loss(layout: str, include: str, optimizer: str) -> None:
    chosen = OptimizerSettings(optimizer, 0.05, max_gradient_norm=0.3)
    treated, plain = build(layout, chosen, coefficient=0.3, include=include), build(layout, chosen, l2=False)
    for step in range(6):
        treated.step(loss_of(treated, step), None)
        penalised = included_parameters(plain.network, include)
        penalty = sum((value * value).sum() for value in penalised.values()) * 0.15
        plain.step(loss_of(plain, step) + penalty, None)
    for (name, value), other in zip(treated.network.named_parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=2e-4, atol=2e-6, msg=name)


def test_weights_and_sgd_equal_torch_weight_decay() -> None:
    treated, plain = build(coefficient=0.2, include="all"), build(l2=False)
    plain.optimizer.param_groups[0]["weight_decay"] = 0.2
    for step in range(5):
        treated.step(loss_of(treated, step), None)
        plain.step(loss_of(plain, step), None)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other)


def test_decoupled_by_hand() -> None:
    # Step size 0.1, coefficient 0.5, no other gradient: weights times 0.95 at each update; the rest stays.
    part = build(coefficient=0.5, mode="decoupled")
    before = {name: value.detach().clone() for name, value in part.network.named_parameters()}
    for _ in range(2):
        part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    for name, value in part.network.named_parameters():
        factor = 0.95**2 if value.ndim > 1 else 1.0
        torch.testing.assert_close(value, before[name] * factor)


def test_decoupled_adam_shrinks_after_adams_step() -> None:
    # The step's own gradient is not touched: Adam by hand on the loss alone, then w <- (1 - 0.02 * 0.5) w.
    part = build(optimizer=OptimizerSettings("adam", 0.02), coefficient=0.5, mode="decoupled")
    first = {name: torch.zeros_like(value) for name, value in part.network.named_parameters()}
    second = {name: torch.zeros_like(value) for name, value in part.network.named_parameters()}
    for step in range(1, 5):
        loss = loss_of(part, step)
        names = [name for name, _ in part.network.named_parameters()]
        gradients = torch.autograd.grad(loss, list(part.network.parameters()), retain_graph=True)
        expected = {}
        for name, gradient in zip(names, gradients, strict=True):
            value = part.network.tensor(name).detach()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            moved = value - 0.02 * (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            expected[name] = moved * (0.99 if value.ndim > 1 else 1.0)
        part.step(loss, None)
        for name in names:
            torch.testing.assert_close(part.network.tensor(name).detach(), expected[name], rtol=1e-4, atol=1e-6)


def test_decoupled_follows_the_learning_rate() -> None:
    part = build(coefficient=0.5, mode="decoupled")
    part.optimizer.param_groups[0]["lr"] = 1.0
    before = part.network.tensor("head.linear.weight").detach().clone()
    part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    torch.testing.assert_close(part.network.tensor("head.linear.weight").detach(), before * 0.5)


def test_loss_mode_under_adam_is_not_decoupled() -> None:
    results = []
    for mode in ("loss", "decoupled"):
        part = build(optimizer=OptimizerSettings("adam", 0.05), coefficient=0.5, mode=mode)
        for step in range(3):
            part.step(loss_of(part, step), None)
        results.append(part.network.tensor("head.linear.weight").detach().clone())
    assert not torch.allclose(*results)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -1e-5}, r"l2\.coefficient=-1e-05 must be at least 0"),
        ({"coefficient": float("nan")}, r"l2\.coefficient=nan"),
        ({"mode": "adamw"}, r"l2\.mode=adamw is unknown; choose from loss, decoupled"),
        ({"include": "bias"}, r"l2\.include=bias is unknown; choose from weights, weights_and_biases, all"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L2(**settings)
