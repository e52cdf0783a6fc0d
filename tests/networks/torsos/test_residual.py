"""Residual torsos: what they compute, what their units are, and what they start with."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.registry import TORSOS
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.torso_network import TorsoNetwork


def network_of(torso: str, inputs: tuple[int, ...] = (3,), **settings: Any) -> TorsoNetwork:
    spec = TORSOS[torso](**({"widths": [4], "expansion": 2} | settings))
    network = build_network(spec, inputs, torch.float32, HeadSpec("q", 2), 0)
    assert isinstance(network, TorsoNetwork)
    return network


def unsettled(network: Network) -> dict[str, torch.Tensor]:
    """Moves every parameter off its initial value, and returns them by the last words of their names."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.2)
    return {name.removeprefix("torso.").removeprefix("layers."): value for name, value in network.named_parameters()}


def test_simba_is_what_the_paper_says() -> None:
    network = network_of("simba")
    p = unsettled(network)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x = functional.linear(inputs, p["embed.0.weight"], p["embed.0.bias"])
    for block in ("block_1", "block_2"):
        h = functional.layer_norm(x, (4,), p[f"{block}.before.weight"], p[f"{block}.before.bias"])
        h = functional.linear(h, p[f"{block}.inner.linear.weight"], p[f"{block}.inner.linear.bias"]).relu()
        x = x + functional.linear(h, p[f"{block}.outer.weight"], p[f"{block}.outer.bias"])
    x = functional.layer_norm(x, (4,), p["final.weight"], p["final.bias"])
    torch.testing.assert_close(network.features(inputs), x)
    torch.testing.assert_close(network(inputs), functional.linear(x, p["head.linear.weight"], p["head.linear.bias"]))


def test_bro_is_what_the_paper_says() -> None:
    network = network_of("bro", expansion=1)
    p = unsettled(network)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x = functional.linear(inputs, p["embed.0.weight"], p["embed.0.bias"])
    x = functional.layer_norm(x, (4,), p["embed.1.weight"], p["embed.1.bias"]).relu()
    for block in ("block_1", "block_2"):
        h = functional.linear(x, p[f"{block}.inner.linear.weight"], p[f"{block}.inner.linear.bias"])
        h = functional.layer_norm(h, (4,), p[f"{block}.inner.norms.0.weight"], p[f"{block}.inner.norms.0.bias"]).relu()
        h = functional.linear(h, p[f"{block}.outer.weight"], p[f"{block}.outer.bias"])
        x = x + functional.layer_norm(h, (4,), p[f"{block}.after.weight"], p[f"{block}.after.bias"])
    torch.testing.assert_close(network.features(inputs), x)


@pytest.mark.parametrize("torso", ["simba", "bro"])
def test_inner_units_are_in_the_graph_and_the_stream_is_excluded(torso: str) -> None:
    network = network_of(torso, residual_blocks=3)
    assert network.units.names == ("block_1", "block_2", "block_3")
    assert [layer.units for layer in network.units.layers] == [8, 8, 8]
    embedded = [("embed", 4, "relu")] if torso == "bro" else []  # BroNet's has a non-linearity
    excluded = [(units.name, units.units, units.activation) for units in network.units.excluded]
    assert excluded == [*embedded, ("stream", 4, "identity")]
    assert [block.name for block in network.blocks] == ["embed", "block_1", "block_2", "block_3", "head"]
    with network.taps.record():
        features = network.features(torch.randn(5, 3))
    assert torch.equal(network.taps.post["stream"], features)


def test_simba_starts_orthogonal_and_he_normal() -> None:
    network = network_of("simba", inputs=(40,), widths=[32])
    embed = network.tensor("torso.embed.0.weight").detach()
    torch.testing.assert_close(embed @ embed.T, torch.eye(32), rtol=0, atol=1e-5)
    for name, inputs in (("inner.linear", 32), ("outer", 64)):
        weight = network.tensor(f"torso.layers.block_1.{name}.weight").detach()
        assert float(weight.std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.06)
        assert not network.tensor(f"torso.layers.block_1.{name}.bias").any()


def test_bro_starts_orthogonal_with_gain_root_2() -> None:
    weight = network_of("bro", widths=[8], expansion=1).tensor("torso.layers.block_2.outer.weight").detach()
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(8), rtol=0, atol=1e-5)


def test_another_initialiser_can_be_asked_for() -> None:
    network = network_of("simba", initialiser="kaiming_uniform", widths=[32])
    weight = network.tensor("torso.layers.block_1.outer.weight").detach()
    assert float(weight.abs().max()) <= (3 / 64) ** 0.5
    assert float(weight.abs().max()) > 0.9 * (3 / 64) ** 0.5


@pytest.mark.parametrize(
    ("torso", "settings", "message"),
    [
        ("simba", {"widths": [4, 4]}, "network.torso=simba has one width, that of its stream"),
        ("simba", {"activations": ["relu", "tanh"]}, "one activation"),
        ("bro", {"activations": ["crelu"]}, "network.torso=bro takes activations of one output per unit"),
        ("bro", {"spectral_layers": [1]}, "network.torso=bro does not work with spectral_layers"),
    ],
)
def test_what_cannot_be_built(torso: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_of(torso, **settings)
