from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.l2 import included_parameters
from plasticity.interventions.methods.wasserstein_init import (
    WassersteinInit,
    sorting_places,
    wasserstein_penalty,
    write_targets,
)
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPECS: dict[str, tuple[NetworkSpec, tuple[int, ...]]] = {
    "mlp": (MLPSpec(widths=[5, 4], normalisation=["layer"]), (3,)),
    "conv": (ConvSpec(widths=[4], channels=[3], activations=["crelu"]), (1, 4, 4)),
}


def build(layout: str = "mlp", optimizer: str = "sgd", treated: bool = True, **settings: Any) -> Updater:
    spec, inputs = SPECS[layout]
    methods = {"wasserstein_init": lambda: WassersteinInit(**settings)} if treated else {}
    chosen = OptimizerSettings(optimizer, 0.05, max_gradient_norm=0.5)
    return PartBuilder(spec, inputs, torch.float32, chosen, methods)("q", HeadSpec("regression", 2))


def loss_of(part: Updater, step: int) -> Tensor:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.forward(inputs).square().mean()


def test_penalty_by_hand() -> None:
    # Sorted: (-1, 2, 5) against (0, 2, 3): 1 + 0 + 4; and (4) against (1): 9; 0.5 * 14 = 7.
    now = {"a": torch.tensor([[5.0, -1.0, 2.0]]), "b": torch.tensor(4.0)}
    initial = {"a": torch.tensor([0.0, 2.0, 3.0]), "b": torch.tensor([1.0])}
    assert wasserstein_penalty(now, initial, 0.5).item() == 7.0


def test_targets_by_hand() -> None:
    # 5 is the largest and 3 was; -1 is the least and 0 was; 2 is in the middle as 2 was.
    target = torch.empty(1, 3)
    write_targets(target, torch.tensor([[5.0, -1.0, 2.0]]), torch.tensor([0.0, 2.0, 3.0]))
    assert target.tolist() == [[3.0, 0.0, 2.0]]


def test_the_distance_to_the_targets_is_half_the_gradient() -> None:
    value = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    initial = torch.randn(48, generator=torch.Generator().manual_seed(1)).sort().values
    wasserstein_penalty({"w": value}, {"w": initial}, 1.0).backward()
    target = torch.empty_like(value)
    write_targets(target, value.detach(), initial)
    torch.testing.assert_close(value.grad, 2 * (value.detach() - target))


def test_permuted_weights_are_at_no_distance() -> None:
    part = build(coefficient=0.5)
    weight = part.network.tensor("torso.layers.dense_1.linear.weight")
    with torch.no_grad():
        weight.copy_(weight.flip(0))
    before = weight.clone()
    part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    assert torch.equal(weight, before)


def test_equal_entries_share_out_the_ranks() -> None:
    target = torch.empty(4)
    write_targets(target, torch.zeros(4), torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert sorted(target.tolist()) == [-1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_places_are_those_of_a_comparison_sort(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)) ** 3
    assert values.unique().numel() == count  # so that there is one order
    assert torch.equal(sorting_places(values), values.argsort())


def test_places_of_every_kind_of_number() -> None:
    # Of both signs, tiny, huge, alike in the upper or the lower half of their bits, and ties: each once among 5,000 others.
    special = torch.tensor([-float("inf"), -3e38, -1.5, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1.0000001, 2.0, 3e38, float("inf")])
    values = torch.cat([special.flip(0), torch.linspace(-2, 2, 5000)])
    places = sorting_places(values)
    assert torch.equal(places.sort().values, torch.arange(5013))
    assert torch.equal(values[places], values.sort().values)


def test_places_of_a_diverged_tensor_are_a_permutation() -> None:
    places = sorting_places(torch.full((5000,), float("nan")))
    assert torch.equal(places.sort().values, torch.arange(5000))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("average", ["sum", "mean"])
@pytest.mark.parametrize("include", ["weights", "weights_and_biases", "all"])
@pytest.mark.parametrize("layout", SPECS)
def test_agrees_with_the_penalty_in_the_loss(layout: str, include: str, average: str, optimizer: str) -> None:
    treated = build(layout, optimizer, coefficient=0.4, include=include, average=average)
    plain = build(layout, optimizer, treated=False)
    start = {name: value.detach().clone().flatten() for name, value in plain.network.named_parameters()}
    # Entries that start equal can be matched in either order; apart, there is one gradient.
    for step in range(5):
        treated.step(loss_of(treated, step), None)
        penalty = torch.zeros(())
        for name, value in included_parameters(plain.network, include).items():
            distance = (torch.sort(value.view(-1))[0] - torch.sort(start[name])[0]).pow(2)
            penalty = penalty + (distance.mean() if average == "mean" else distance.sum())
        plain.step(loss_of(plain, step) + 0.4 * penalty, None)
    for (name, value), other in zip(treated.network.named_parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=2e-4, atol=2e-5, msg=name)


def test_without_another_gradient_the_distribution_goes_back_to_its_start() -> None:
    # Step size 0.05, coefficient 0.5: a displacement of every entry by 8 shrinks by 1 - 2 * 0.5 * 0.05 at each update.
    spec, inputs = SPECS["mlp"]
    methods = {"wasserstein_init": lambda: WassersteinInit(coefficient=0.5)}
    part = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", 0.05), methods)("q", HeadSpec("regression", 2))
    weight = part.network.tensor("head.linear.weight")
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(8.0)
    for _ in range(3):
        part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    torch.testing.assert_close(weight.detach(), start + 8.0 * 0.95**3)


def test_state_is_the_sorted_start() -> None:
    part = build()
    state = part.interventions["wasserstein_init"].state_dict()
    assert set(state) == set(included_parameters(part.network, "weights_and_biases"))
    for name, value in state.items():
        assert torch.equal(value, part.network.tensor(name).detach().flatten().sort().values)
        assert not value.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -0.1}, r"wasserstein_init\.coefficient=-0\.1 must be at least 0"),
        ({"average": "median"}, r"wasserstein_init\.average=median is unknown \(did you mean mean\?\); choose from sum, mean"),
        ({"include": "norms"}, r"wasserstein_init\.include=norms is unknown"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WassersteinInit(**settings)
