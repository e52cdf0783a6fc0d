from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.gradient_norm import GradientNorm, squared_gradient_norm
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPECS: dict[str, tuple[NetworkSpec, tuple[int, ...]]] = {
    "mlp": (MLPSpec(widths=[5, 4], activations=["tanh"]), (3,)),
    "conv": (ConvSpec(widths=[4], channels=[3], activations=["crelu"], normalisation=["layer"]), (1, 4, 4)),
}


def build(layout: str = "mlp", treated: bool = True, optimizer: str = "sgd", **settings: Any) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"gradient_norm": lambda: GradientNorm(**settings)} if treated else {}
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings(optimizer, 0.05), methods)("q", HeadSpec("regression", 2))


def loss_of(part: Updater, step: int, count: int = 6) -> Tensor:
    inputs = torch.randn(count, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return (part.forward(inputs) - 1).square().mean()


def flat_gradient(network: Network, inputs: Tensor) -> Tensor:
    loss = (network(inputs) - 1).square().mean()
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(network.parameters()))])


def test_norm_and_its_gradient_by_hand() -> None:
    # L = a^2 b: dL/da = 2ab = 12, dL/db = a^2 = 9; the squared norm 4a^2b^2 + a^4 = 225,
    # with derivatives 8ab^2 + 4a^3 = 96 + 108 and 8a^2b = 144.
    a, b, c = (torch.tensor(number, requires_grad=True) for number in (3.0, 2.0, 5.0))
    norm = squared_gradient_norm(a.square() * b, [a, b, c])
    assert norm.item() == pytest.approx(225.0)
    norm.backward()
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.item(), b.grad.item()) == pytest.approx((204.0, 144.0))
    assert c.grad is None


def test_the_update_agrees_with_finite_differences() -> None:
    # The gradient of ||g||^2 is 2 H g, and H g = (g(theta + e g) - g(theta - e g)) / 2e in float64.
    treated, plain = build(coefficient=0.7), build(treated=False)
    start = [value.detach().clone() for value in plain.network.parameters()]
    treated.step(loss_of(treated, 0), None)
    inputs = torch.randn(6, *plain.network.input_shape, generator=torch.Generator().manual_seed(0)).double()
    exact = plain.network.double()
    base = torch.cat([value.flatten().double() for value in start])

    def gradient_at(theta: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(theta, exact.parameters())
        return flat_gradient(exact, inputs)

    gradient = gradient_at(base)
    product = (gradient_at(base + 1e-4 * gradient) - gradient_at(base - 1e-4 * gradient)) / 2e-4
    expected = base - 0.05 * (gradient + 0.7 * 2 * product)
    after = torch.cat([value.detach().flatten().double() for value in treated.network.parameters()])
    assert (after - expected).norm() < 1e-3 * (expected - (base - 0.05 * gradient)).norm()


@pytest.mark.parametrize("layout", ["mlp", "conv"])
def test_agrees_with_a_penalty_in_the_loss(layout: str) -> None:
    treated, plain = build(layout, optimizer="adam", coefficient=0.4), build(layout, treated=False, optimizer="adam")
    for step in range(4):
        logs = treated.step(loss_of(treated, step), None)
        loss = loss_of(plain, step)
        gradients = torch.autograd.grad(loss, list(plain.network.parameters()), create_graph=True)
        penalty = sum((gradient**2).sum() for gradient in gradients) * 0.4
        torch.testing.assert_close(logs["gradient_norm/loss"], torch.as_tensor(penalty).detach())
        plain.step(loss + penalty, None)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-6)


def test_terms_of_other_methods_are_not_part_of_the_loss() -> None:
    from plasticity.interventions.methods.feature_norm import FeatureNorm

    methods: dict[str, Any] = {"feature_norm": lambda: FeatureNorm(coefficient=3.0), "gradient_norm": GradientNorm}
    spec, inputs = SPECS["mlp"]
    both = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", 0.05), methods)("q", HeadSpec("regression", 2))
    alone = build()
    logs = [part.step(loss_of(part, 0), None)["gradient_norm/loss"] for part in (both, alone)]
    assert torch.equal(torch.as_tensor(logs[0]), torch.as_tensor(logs[1]))


def test_dead_layers() -> None:
    part = build("conv", coefficient=1.0)
    with torch.no_grad():
        for value in part.network.parameters():
            value.zero_()
    part.step(loss_of(part, 0, count=1), None)
    assert all(value.isfinite().all() for value in part.network.parameters())


def test_no_strength_is_absence() -> None:
    treated, plain = build(coefficient=0.0), build(treated=False)
    for step in range(3):
        assert treated.step(loss_of(treated, step), None) == {}
        plain.step(loss_of(plain, step), None)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(value, other)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"gradient_norm\.coefficient=-1\.0 must be at least 0"):
        GradientNorm(coefficient=-1.0)
