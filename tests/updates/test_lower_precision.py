"""Copies with weights that have been cast: the numbers of autocast, regardless of what writes the weights."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.updates.updater import Updater

BuildPart = Callable[..., PartBuilder]
SPECS = {
    "conv": (ConvSpec(channels=[4], kernel_sizes=[3], widths=[8]), (3, 8, 8), torch.uint8),
    "normalised": (MLPSpec(widths=[8, 8], normalisation=["layer"]), (5,), torch.float32),
    "batch": (MLPSpec(widths=[8], normalisation=["batch"]), (5,), torch.float32),
    "noisy": (MLPSpec(widths=[8]), (5,), torch.float32),
}


def part(builder: BuildPart, name: str, kind: str = "gaussian") -> Updater:
    spec, inputs, dtype = SPECS[name]
    return builder(spec=spec, inputs=inputs, dtype=dtype, autocast=torch.bfloat16)("actor", _head(name, kind))


def _head(name: str, kind: str) -> HeadSpec:
    return HeadSpec("q", 2, noise_deviation=0.5) if name == "noisy" else HeadSpec(kind, 2)


def inputs_for(updater: Updater) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (100 * torch.rand(6, *updater.network.input_shape, generator=generator)).to(updater.network.input_dtype)


def by_autocast(network: Network, inputs: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return network.eval()(inputs).float()


@pytest.mark.parametrize("name", list(SPECS))
def test_predictions_are_those_of_autocast_after_every_way_of_writing(builder: BuildPart, name: str) -> None:
    updater = part(builder, name)
    inputs = inputs_for(updater)
    seen: list[Tensor] = []

    def check() -> None:
        seen.append(updater.predict(inputs))
        assert torch.equal(seen[-1], by_autocast(updater.network, inputs))
        assert updater.network.tensor("head.linear.weight").dtype == torch.float32

    check()
    updater.step(updater.forward(inputs).square().mean(), inputs)  # by the fused optimizer
    check()
    with torch.no_grad():
        updater.network.tensor("head.linear.weight").mul_(2)
    check()
    with torch.no_grad():
        torch._foreach_mul_(list(updater.network.parameters()), 0.5)
    check()
    updater.network.load_state_dict(part(builder, name).network.state_dict())
    check()
    assert all(not torch.equal(a, b) for a, b in pairwise(seen[:-1]))


def test_a_copy_that_follows_is_followed(builder: BuildPart) -> None:
    updater, other = part(builder, "conv"), part(builder, "conv", "q")
    inputs = inputs_for(updater)
    updater.copies["target"] = other.network
    before = updater.infer(inputs, other.network)
    with torch.no_grad():
        torch._foreach_lerp_(list(other.network.parameters()), list(other.network.fresh(3).parameters()), 0.5)
    after = updater.infer(inputs, other.network)
    assert torch.equal(after, by_autocast(other.network, inputs))
    assert not torch.equal(after, before)


def test_weights_are_cast_once_between_two_updates(builder: BuildPart, monkeypatch: pytest.MonkeyPatch) -> None:
    updater = part(builder, "conv")
    inputs, written = inputs_for(updater), []
    original = Tensor.copy_
    monkeypatch.setattr(Tensor, "copy_", lambda own, other: written.append(own) or original(own, other))
    tensors = len(list(updater.network.parameters()))
    for _ in range(3):
        updater.predict(inputs)
    assert len(written) == tensors
    updater.step(updater.forward(inputs).square().mean(), inputs)
    written.clear()
    for _ in range(3):
        updater.predict(inputs)
    assert len(written) == tensors
