from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.l2 import included_parameters
from plasticity.interventions.methods.l2_init import L2Init, l2_init_penalty, pulls
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPECS = {
    "mlp": (MLPSpec(widths=[5, 4], normalisation=["layer"]), (3,)),
    "conv": (ConvSpec(widths=[4], channels=[3], activations=["crelu"]), (1, 4, 4)),
}


def build(layout: str = "mlp", optimizer: OptimizerSettings | None = None, treated: bool = True, **settings: Any) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"l2_init": lambda: L2Init(**settings)} if treated else {}
    chosen = optimizer or OptimizerSettings("sgd", 0.1)
    return PartBuilder(spec, inputs, torch.float32, chosen, methods)("q", HeadSpec("regression", 2))


def loss_of(part: Updater, step: int) -> Tensor:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.forward(inputs).square().mean()


def test_penalty_by_hand() -> None:
    # Displacements 1, -1 and 3: 0.2 / 2 * (1 + 1 + 9) = 1.1.
    now = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([5.0])}
    assert l2_init_penalty(now, {"a": torch.ones(1, 2), "b": torch.tensor([2.0])}, 0.2).item() == pytest.approx(1.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("layout", ["mlp", "conv"])
@pytest.mark.parametrize("include", ["weights", "weights_and_biases", "all"])
def test_agrees_with_the_penalty_in_the_loss(layout: str, include: str, optimizer: str) -> None:
    chosen = OptimizerSettings(optimizer, 0.05, max_gradient_norm=0.5)
    treated, plain = build(layout, chosen, coefficient=0.4, include=include), build(layout, chosen, treated=False)
    start = {name: value.detach().clone() for name, value in plain.network.named_parameters()}
    for step in range(6):
        treated.step(loss_of(treated, step), None)
        regularised = included_parameters(plain.network, include)
        penalty = torch.stack([((value - start[name]) ** 2).sum() for name, value in regularised.items()]).sum()
        plain.step(loss_of(plain, step) + 0.2 * penalty, None)
    for (name, value), other in zip(treated.network.named_parameters(), plain.network.named_parameters(), strict=True):
        torch.testing.assert_close(value, other[1], rtol=2e-4, atol=2e-6, msg=name)
    assert not torch.equal(treated.network.tensor("head.linear.weight"), start["head.linear.weight"])


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("squared", [[3.0, -4.0], [0.5, 0.0]]),
        ("l1", [[1.0, -1.0], [1.0, 0.0]]),
        ("huber", [[1.0, -1.0], [0.5, 0.0]]),
        ("joint_norm", [[3.0 / 25.25**0.5, -4.0 / 25.25**0.5], [0.5 / 25.25**0.5, 0.0]]),
        ("tensor_norm", [[0.6, -0.8], [1.0, 0.0]]),
    ],
)
def test_pulls_by_hand(distance: str, expected: list[list[float]]) -> None:
    rows = [torch.tensor([3.0, -4.0]), torch.tensor([0.5, 0.0])]
    for pull, row in zip(pulls(rows, distance), expected, strict=True):
        torch.testing.assert_close(pull, torch.tensor(row))
    assert pulls([torch.zeros(3)], distance)[0].tolist() == [0.0, 0.0, 0.0]


def test_the_joint_norm_is_one_norm_of_all_tensors() -> None:
    # (3, 4) and (0, 0, 12): sqrt(9 + 16 + 144) = 13 together, 5 and 12 one by one.
    rows = {"joint_norm": [[3 / 13, 4 / 13], [0.0, 0.0, 12 / 13]], "tensor_norm": [[0.6, 0.8], [0.0, 0.0, 1.0]]}
    for distance, expected in rows.items():
        found = pulls([torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0, 12.0])], distance)
        for pull, row in zip(found, expected, strict=True):
            torch.testing.assert_close(pull, torch.tensor(row))


def test_the_published_joint_norm_includes_normalisation() -> None:
    # Without another gradient a step of 0.1 takes 0.1 * coefficient off the length of the whole displacement.
    part = build(coefficient=2.0, distance="joint_norm", include="all")
    start = {name: value.detach().clone() for name, value in part.network.named_parameters()}
    with torch.no_grad():
        for value in part.network.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    moved = {name: value.detach() - start[name] for name, value in part.network.named_parameters()}
    length = torch.cat([value.flatten() for value in moved.values()]).norm()
    part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    for name, value in part.network.named_parameters():
        torch.testing.assert_close(value.detach() - start[name], moved[name] * (1 - 0.2 / length), rtol=1e-4, atol=1e-5)
    assert any("norms" in name for name in moved)


NAIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "squared": lambda d: 0.5 * (d**2).sum(),
    "l1": lambda d: d.abs().sum(),
    "huber": lambda d: torch.nn.HuberLoss(reduction="sum", delta=1.0)(d, torch.zeros_like(d)),
    "tensor_norm": lambda d: torch.norm(d),
}


@pytest.mark.parametrize("average", ["sum", "mean"])
@pytest.mark.parametrize("distance", NAIVE)
@pytest.mark.parametrize("layout", ["mlp", "conv"])
def test_other_distances_agree_with_penalties_in_the_loss(layout: str, distance: str, average: str) -> None:
    chosen = OptimizerSettings("sgd", 0.05)
    treated = build(layout, chosen, coefficient=0.02, distance=distance, average=average)
    plain = build(layout, chosen, treated=False)
    start = {name: value.detach().clone() for name, value in plain.network.named_parameters()}
    with torch.no_grad():  # some displacements beyond the threshold of Huber's
        for part in (treated, plain):
            part.network.tensor("head.linear.weight").add_(1.5)
    for step in range(6):
        treated.step(loss_of(treated, step), None)
        penalty = torch.zeros(())
        for name, value in included_parameters(plain.network, "weights_and_biases").items():
            term = NAIVE[distance](value - start[name])
            penalty = penalty + (term / value.numel() if average == "mean" else term)
        plain.step(loss_of(plain, step) + 0.02 * penalty, None)
    for (name, value), other in zip(treated.network.named_parameters(), plain.network.named_parameters(), strict=True):
        torch.testing.assert_close(value, other[1], rtol=2e-4, atol=2e-6, msg=name)


def test_towards_fresh_draws_of_the_initial_distribution() -> None:
    # Step size 0.1, coefficient 10, no other gradient: each parameter becomes what is drawn for it.
    part = build(coefficient=10.0, towards="fresh")
    assert part.interventions["l2_init"].state == {}
    seen = []
    for _ in range(2):
        generator = torch.Generator().set_state(part.hooks.view("l2_init").generator.get_state())
        part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
        for name, value in included_parameters(part.network, "weights_and_biases").items():
            drawn = part.network.initialisers[name].sample(value.shape, generator)
            torch.testing.assert_close(value.detach(), drawn, rtol=1e-4, atol=1e-6)
        seen.append(part.network.tensor("head.linear.weight").detach().clone())
    assert not torch.equal(*seen)


def test_without_another_gradient_weights_go_back_to_their_start() -> None:
    # Step size 0.1, coefficient 0.5: a displacement of 8 shrinks by 0.95 at each update.
    part = build(coefficient=0.5)
    start = part.network.tensor("head.linear.weight").detach().clone()
    with torch.no_grad():
        part.network.tensor("head.linear.weight").add_(8.0)
    for _ in range(3):
        part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    torch.testing.assert_close(part.network.tensor("head.linear.weight").detach(), start + 8.0 * 0.95**3)


def test_normalisation_is_left_alone_by_default() -> None:
    part = build(coefficient=0.5)
    gain = part.network.tensor("torso.layers.dense_1.norms.0.weight")
    with torch.no_grad():
        gain.add_(1.0)
    part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    assert gain.tolist() == [2.0] * 5


def test_start_is_a_copy_and_the_state_of_the_method() -> None:
    part = build()
    saved = part.interventions["l2_init"].state_dict()
    start = {name: value.clone() for name, value in saved.items()}
    part.step(loss_of(part, 0), None)
    assert set(start) == set(included_parameters(part.network, "weights_and_biases"))
    assert all(torch.equal(value, part.interventions["l2_init"].state[name]) for name, value in start.items())
    assert not any(value.requires_grad for value in saved.values())


def test_a_checkpoint_restores_its_own_start() -> None:
    part = build(coefficient=0.5)
    method = part.interventions["l2_init"]
    method.load_state_dict({name: torch.zeros_like(value) for name, value in method.state.items()})
    before = part.network.tensor("head.linear.weight").detach().clone()
    part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    torch.testing.assert_close(part.network.tensor("head.linear.weight").detach(), before * 0.95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -0.1}, r"l2_init\.coefficient=-0\.1 must be at least 0"),
        ({"distance": "l3"}, r"l2_init\.distance=l3 is unknown; choose from squared, l1, huber, joint_norm, tensor_norm"),
        ({"distance": "joint_norm", "average": "mean"}, r"l2_init\.average=mean is unknown; choose from sum"),
        ({"average": "median"}, r"l2_init\.average=median is unknown \(did you mean mean\?\); choose from sum, mean"),
        ({"towards": "zero"}, r"l2_init\.towards=zero is unknown; choose from initial, fresh"),
        ({"include": "norms"}, r"l2_init\.include=norms is unknown; choose from weights, weights_and_biases, all"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L2Init(**settings)
