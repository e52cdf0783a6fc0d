"""Weights of convolutions laid out channels last: the same network, resets and resumed runs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SPEC = ConvSpec(channels=[4, 6], kernel_sizes=[3], widths=[8])
METHODS: dict[str, dict[str, Any]] = {
    "redo": {"threshold": 0.6, "every_updates": 2},
    "continual_backprop": {"replacement_rate": 0.2, "maturity_updates": 1},
    "shrink_and_perturb": {"shrink": 0.9, "perturb": 0.1, "every_updates": 2},
    "l2_init": {"coefficient": 0.1},
}


class Batch(NamedTuple):
    inputs: Tensor
    targets: Tensor


def part(channels_last: bool, methods: Mapping[str, Callable[[], Intervention]] | None = None) -> Updater:
    chosen = methods or {}
    optimizer = OptimizerSettings(learning_rate=0.01)
    builder = PartBuilder(SPEC, (3, 8, 8), torch.uint8, optimizer, chosen, channels_last=channels_last)
    return builder("q", HeadSpec("q", 2))


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.randn(5, 2, generator=generator))


def distance(outputs: Tensor, data: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    return (outputs - data.targets).square().mean(), {}


def weights(updater: Updater) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in updater.network.named_parameters()}


def test_only_the_layout_differs() -> None:
    plain, ours = part(False), part(True)
    assert all(torch.equal(value, weights(ours)[name]) for name, value in weights(plain).items())
    kernel = ours.network.tensor("torso.layers.conv_2.linear.weight")
    assert kernel.shape == (6, 4, 3, 3)
    assert kernel.stride() == (36, 1, 12, 4)
    data = batch(0)
    torch.testing.assert_close(ours.predict(data.inputs), plain.predict(data.inputs))
    for updater in (plain, ours):
        updater.update(distance, data)
    assert kernel.stride() == (36, 1, 12, 4)
    state = ours.optimizer.state[kernel]
    assert state["exp_avg"].stride() == kernel.stride()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", [ResetPolicy(), ResetPolicy(incoming="scale", factor=0.5, outgoing="resample")])
def test_a_reset_writes_the_same_entries(policy: ResetPolicy) -> None:
    plain, ours = part(False), part(True)
    for updater in (plain, ours):
        masks = {layer.name: torch.arange(layer.units) % 3 == 1 for layer in updater.network.units.layers}
        reset_units(updater.network, updater.optimizer, masks, policy, torch.Generator().manual_seed(0))
    before, after, expected = weights(part(True)), weights(ours), weights(plain)
    assert not torch.equal(before["torso.layers.conv_1.linear.weight"], after["torso.layers.conv_1.linear.weight"])
    for name, value in expected.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("name", [None, *METHODS])
def test_a_resumed_part_continues_bit_for_bit(name: str | None, through_disk: Callable[[Any], Any]) -> None:
    methods = {} if name is None else {name: lambda: INTERVENTIONS.named(name)(**METHODS[name])}
    whole, other = part(True, methods), part(True, methods)
    for number in range(5):
        whole.update(distance, batch(number))
    other.load_state_dict(through_disk(whole.state_dict()))
    for number in range(5, 10):
        whole.update(distance, batch(number))
        other.update(distance, batch(number))
    for key, value in weights(whole).items():
        assert torch.equal(weights(other)[key], value), key
