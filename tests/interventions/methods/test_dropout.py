from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.dropout import Dropout
from plasticity.interventions.methods.plasticity_injection import PlasticityInjection
from plasticity.interventions.methods.reset import Reset
from plasticity.interventions.methods.sam import SAM
from plasticity.metrics.probe import ProbeSettings, fit
from plasticity.networks.layers.dropout import dropout_layers, hashed
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPEC = MLPSpec(widths=[6, 5])
Methods = dict[str, Callable[[], Intervention]]


def build(
    spec: NetworkSpec = SPEC, inputs: tuple[int, ...] = (3,), seed: int = 0, more: Methods | None = None, **settings: Any
) -> Updater:
    methods: Methods = {"dropout": lambda: Dropout(**settings), **(more or {})}
    optimizer = OptimizerSettings("sgd", 0.1)
    return PartBuilder(spec, inputs, torch.float32, optimizer, methods, seed)("q", HeadSpec("regression", 2))


def inputs_of(step: int, count: int = 8) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(step))


def update(part: Updater, step: int) -> None:
    def loss() -> Tensor:
        return part.forward_again(inputs_of(step)).square().mean()

    part.step(part.forward(inputs_of(step)).square().mean(), None, loss)


def masks(part: Updater) -> list[Tensor]:
    return [layer.words.clone() for layer in dropout_layers(part.network)]


def test_an_update_by_hand() -> None:
    # One unit per layer, all weights 1, inputs 1 and 2, targets 0, rate 0.5: where the unit is kept the output is 2 x.
    part = build(MLPSpec(widths=[1]), (1,), rates=[0.5])
    with torch.no_grad():
        for name, value in part.network.named_parameters():
            value.fill_(1.0 if name.endswith("weight") else 0.0)
    (layer,) = dropout_layers(part.network)
    first, second = (hashed(layer.words, 2) >= 2**31).tolist()
    outputs = part.forward(torch.tensor([[1.0], [2.0]]))
    assert outputs[:, 0].tolist() == [2.0 * first, 4.0 * second]
    assert part.predict(torch.tensor([[1.0], [2.0]]))[:, 0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("rates", [[0.5], [0.2, 0.7]])
def test_training_against_plain_products(rates: list[float]) -> None:
    part = build(rates=rates)
    weights = {name: value.detach().clone() for name, value in part.network.named_parameters()}
    for step in range(5):
        words = [layer.words.clone() for layer in dropout_layers(part.network)]
        for value in weights.values():
            value.requires_grad_(True)
        x = inputs_of(step)
        for number, (own, rate) in enumerate(zip(words, rates * (2 // len(rates)), strict=True), start=1):
            path = f"torso.layers.dense_{number}.linear"
            h = functional.linear(x, weights[f"{path}.weight"], weights[f"{path}.bias"]).relu()
            kept = torch.tensor([[int(bits) >= rate * 2**32 for bits in row] for row in hashed(own, h.numel()).view(h.shape)])
            x = h * kept / (1 - rate)
        loss = functional.linear(x, weights["head.linear.weight"], weights["head.linear.bias"]).square().mean()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        weights = {
            name: (value - 0.1 * gradient).detach() for (name, value), gradient in zip(weights.items(), gradients, strict=True)
        }
        update(part, step)
    for name, value in part.network.named_parameters():
        torch.testing.assert_close(value, weights[name], msg=name)


def test_every_update_has_masks_of_its_own_and_acting_has_none() -> None:
    part, x = build(), inputs_of(0)
    seen = []
    for step in range(4):
        before = part.predict(x)
        seen.append(torch.cat(masks(part)))
        assert torch.equal(part.forward(x), part.forward(x))
        assert torch.equal(part.predict(x), before)
        assert not torch.equal(part.forward(x), before)
        update(part, step)
    assert len({tuple(words.tolist()) for words in seen}) == 4


def test_masks_follow_from_the_seed_and_not_from_the_global_generator() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, other = build(), build(seed=1)
    update(first, 0)
    assert torch.equal(torch.get_rng_state(), state)
    again = build()
    update(again, 0)
    assert all(torch.equal(one, two) for one, two in zip(masks(first), masks(again), strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(masks(other), masks(build()), strict=True))


def test_a_resumed_part_continues_with_the_same_masks() -> None:
    whole, resumed = build(), build(seed=4)
    for step in range(3):
        update(whole, step)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    for step in range(3, 6):
        update(whole, step), update(resumed, step)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_rate_of_0_is_a_plain_network() -> None:
    part = build(rates=[0.0])
    assert not dropout_layers(part.network)
    assert not part.network.mode_dependent
    update(part, 0)


def test_activations_of_the_training_forward_are_those_before_the_mask() -> None:
    part, x = build(more={"dormancy": Reads}), inputs_of(0)
    with part.network.taps.record():
        part.predict(x)
    whole = part.network.taps.post["dense_1"].clone()
    part.forward(x)
    assert torch.equal(part.network.taps.post["dense_1"], whole)


class Reads(Intervention):
    """Asks for activations."""

    needs_taps = True


@pytest.mark.parametrize("last", [1, 2])
def test_a_reset_of_layers_leaves_the_masks_to_chance(last: int) -> None:
    part, other = build(), build(more={"reset": lambda: Reset(last_layers=last, every_updates=1)})
    for step in range(3):
        update(part, step), update(other, step)
        assert all(torch.equal(one, two) for one, two in zip(masks(part), masks(other), strict=True))


def test_a_loss_that_is_computed_again_has_the_same_mask() -> None:
    """At the radius 0 or nearly so, sharpness-aware minimisation takes the plain step."""
    plain, near = build(), build(more={"sam": lambda: SAM(radius=1e-6)})
    for step in range(4):
        update(plain, step), update(near, step)
    for one, two in zip(plain.network.parameters(), near.network.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_an_injection_leaves_the_function_as_it_is_in_training_too() -> None:
    part, x = build(more={"plasticity_injection": PlasticityInjection}), inputs_of(0)
    update(part, 0)
    trained, acting = part.forward(x), part.predict(x)
    part.task_switch(1)
    torch.testing.assert_close(part.forward(x), trained)
    torch.testing.assert_close(part.predict(x), acting)
    update(part, 1)
    assert part.forward(x).isfinite().all()


def test_the_fits_of_the_probe_are_without_it() -> None:
    network = build().network
    plain = PartBuilder(SPEC, (3,), torch.float32, OptimizerSettings("sgd", 0.1))("q", HeadSpec("regression", 2)).network
    settings, x = ProbeSettings(steps=5, batch_size=4), inputs_of(0)
    curves = [
        fit(deepcopy(one), x, lambda outputs, rows: outputs.square().mean(), settings, torch.Generator().manual_seed(0)).losses
        for one in (network, plain)
    ]
    assert torch.equal(*curves)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [(SPEC, (3,)), (ConvSpec(widths=[5], channels=[4], activations=["crelu"]), (2, 6, 6))],
    ids=["dense", "conv"],
)
def test_weights_are_those_of_a_network_without(spec: NetworkSpec, shape: tuple[int, ...]) -> None:
    plain = PartBuilder(spec, shape, torch.float32, OptimizerSettings("sgd", 0.1))("q", HeadSpec("regression", 2)).network
    network = build(spec, shape).network
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dropout(rates=[1.0]), r"^dropout\.rates=1\.0 must be at least 0 and below 1$"),
        (lambda: Dropout(rates=[0.1, -0.1]), r"^dropout\.rates=-0\.1 must be at least 0 and below 1$"),
        (lambda: Dropout(rates=[]), r"^dropout\.rates=\[\] must have one rate for all hidden layers, or one for each$"),
        (lambda: build(rates=[0.1, 0.2, 0.3]), "^network.dropout_rates has 3 entries; give 1 or 2, one for each layer$"),
        (lambda: build(MLPSpec(widths=[])), "^intervention dropout acts on hidden layers, and this network has none"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
