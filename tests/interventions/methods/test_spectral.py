from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.spectral import Leading, Spectral, bias_gradient, power_iteration, spectral_gradient
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPECS: dict[str, tuple[NetworkSpec, tuple[int, ...]]] = {
    "mlp": (MLPSpec(widths=[5, 4], normalisation=["layer"]), (3,)),
    "conv": (ConvSpec(widths=[4], channels=[3], activations=["crelu"], normalisation=["batch"]), (1, 4, 4)),
}


def build(layout: str = "mlp", treated: bool = True, seed: int = 0, **settings: Any) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"spectral": lambda: Spectral(**settings)} if treated else {}
    builder = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", 0.05), methods, seed)
    return builder("q", HeadSpec("gaussian", 2))


def loss_of(part: Updater, step: int) -> Tensor:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.forward(inputs).square().mean()


def test_power_iteration_by_hand() -> None:
    # W = diag(3, 4), u = (1, 0): v = (1, 0), u = (1, 0), sigma = 3. From u = (0.6, 0.8): W^T u = (1.8, 3.2).
    weight = torch.diag(torch.tensor([3.0, 4.0]))
    found = power_iteration(weight, torch.tensor([1.0, 0.0]), 1)
    assert (found.left.tolist(), found.value.item(), found.right.tolist()) == ([1.0, 0.0], 3.0, [1.0, 0.0])
    found = power_iteration(weight, torch.tensor([0.6, 0.8]), 1)
    right = torch.tensor([1.8, 3.2]) / (1.8**2 + 3.2**2) ** 0.5
    torch.testing.assert_close(found.right, right)
    torch.testing.assert_close(found.value, (weight @ right).norm())
    torch.testing.assert_close(found.left, weight @ right / (weight @ right).norm())


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 2, 3, 3)])
def test_power_iteration_finds_the_leading_triple(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    start = torch.randn(shape[0], generator=generator)
    found = power_iteration(weight, start / start.norm(), 200)
    left, values, right = torch.linalg.svd(weight.flatten(1))
    torch.testing.assert_close(found.value, values[0])
    torch.testing.assert_close(torch.outer(found.left, found.right), torch.outer(left[:, 0], right[0]), rtol=1e-3, atol=1e-4)


def test_gradients_by_hand() -> None:
    # sigma 2, k = 2: 2 * 2 * 2 * (4 - 1) = 24 along u v^T; k = 1: 2 * (2 - 1) = 2.
    leading = Leading(torch.tensor([1.0, 0.0]), torch.tensor(2.0), torch.tensor([0.0, 1.0]))
    assert spectral_gradient(leading, 2).tolist() == [[0.0, 24.0], [0.0, 0.0]]
    assert spectral_gradient(leading, 1).tolist() == [[0.0, 2.0], [0.0, 0.0]]
    # ||b||^4 with ||b|| = 5: 4 * 25 * b; ||b||^2: 2 b.
    assert bias_gradient(torch.tensor([3.0, 4.0]), 2).tolist() == [300.0, 400.0]
    assert bias_gradient(torch.tensor([3.0, 4.0]), 1).tolist() == [6.0, 8.0]
    assert bias_gradient(torch.zeros(2), 1).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_gradient_is_that_of_the_largest_singular_value(power: int) -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    (expected,) = torch.autograd.grad((torch.linalg.matrix_norm(weight, 2) ** power - 1) ** 2, weight)
    start = torch.full((4,), 0.5)
    leading = power_iteration(weight.detach(), start, 300)
    torch.testing.assert_close(spectral_gradient(leading, power), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"power": 1}, {"power": 3, "iterations": 2}], ids=str)
@pytest.mark.parametrize("layout", SPECS)
def test_agrees_with_a_naive_penalty_in_the_loss(layout: str, settings: dict[str, Any]) -> None:
    treated, plain = build(layout, coefficient=0.02, **settings), build(layout, treated=False)
    power, iterations = settings.get("power", 2), settings.get("iterations", 1)
    lefts = {name: value.clone() for name, value in treated.interventions["spectral"].state.items()}
    for step in range(5):
        treated.step(loss_of(treated, step), None)
        penalty = torch.zeros(())
        for name, value in plain.network.named_parameters():
            if name in lefts:
                matrix = value.flatten(1)
                with torch.no_grad():
                    for _ in range(iterations):
                        right = torch.nn.functional.normalize(matrix.T @ lefts[name], dim=0)
                        lefts[name] = torch.nn.functional.normalize(matrix @ right, dim=0)
                penalty = penalty + ((lefts[name] @ matrix @ right) ** power - 1) ** 2
            elif name.endswith("bias"):
                penalty = penalty + value.norm() ** (2 * power)
            elif ".norms." in name:
                penalty = penalty + ((value - 1) ** 2).sum()
            else:
                assert name == "head.log_deviation"
        plain.step(loss_of(plain, step) + 0.02 * penalty, None)
    assert len(lefts) == 3
    for (name, value), other in zip(treated.network.named_parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5, msg=name)


def test_largest_singular_values_go_to_one_and_are_logged() -> None:
    part = build(coefficient=0.1)
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_2.linear.weight").mul_(4.0)
    logs: dict[str, Any] = {}
    for _ in range(600):
        logs = part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    for name in part.interventions["spectral"].state:
        assert torch.linalg.matrix_norm(part.network.tensor(name).detach(), 2).item() == pytest.approx(1.0, abs=0.02)
    assert float(logs["spectral/largest_singular_value"]) == pytest.approx(1.0, abs=0.02)


def test_a_dead_weight_gets_no_gradient_and_keeps_its_vector() -> None:
    part = build(coefficient=0.1)
    weight = part.network.tensor("torso.layers.dense_2.linear.weight")
    before = part.interventions["spectral"].state["torso.layers.dense_2.linear.weight"].clone()
    with torch.no_grad():
        weight.zero_()
    part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    assert torch.equal(part.interventions["spectral"].state["torso.layers.dense_2.linear.weight"], before)
    assert before.norm().item() == pytest.approx(1.0)
    assert (weight == 0).all()
    assert all(value.isfinite().all() for value in part.network.parameters())


def test_the_start_is_close_and_private() -> None:
    one, two, other = (build(seed=seed).interventions["spectral"].state for seed in (0, 0, 1))
    part = build()
    for name, left in one.items():
        found = power_iteration(part.network.tensor(name).detach(), left, 1).value
        assert found.item() == pytest.approx(torch.linalg.matrix_norm(part.network.tensor(name).detach(), 2).item(), rel=0.05)
        assert torch.equal(left, two[name])
        assert not torch.equal(left, other[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -0.1}, r"spectral\.coefficient=-0\.1 must be at least 0"),
        ({"power": 0}, r"spectral\.power=0 must be at least 1"),
        ({"iterations": 0}, r"spectral\.iterations=0 must be at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spectral(**settings)
