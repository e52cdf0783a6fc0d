"""SimbaV2's torso: what it computes, what its units are, and what it starts with."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.hyperspherical import SimbaV2Spec, SphereDense, unit_length
from plasticity.networks.torsos.torso_network import TorsoNetwork


def network_of(inputs: tuple[int, ...] = (3,), head: HeadSpec | None = None, **settings: Any) -> TorsoNetwork:
    spec = SimbaV2Spec(**{"widths": [4], "expansion": 2} | settings)
    network = build_network(spec, inputs, torch.float32, head or HeadSpec("q", 2), 0)
    assert isinstance(network, TorsoNetwork)
    return network


def on_sphere(x: Tensor) -> Tensor:
    return torch.stack([row / row.square().sum().sqrt() for row in x])


def test_a_map_by_hand() -> None:
    # Kept at 0.5 and standing for 4: a scaler of 0.5 and 1 stands for 4 and 8.
    dense = SphereDense(2, 2, start=4.0, size=0.5)
    dense.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [0.6, 0.8]]), "scaler": torch.tensor([0.5, 1.0])})
    assert dense(torch.tensor([[2.0, 5.0]]))[0].tolist() == pytest.approx([8.0, 8 * (1.2 + 4.0)])


def test_unit_length_by_hand() -> None:
    assert unit_length(torch.tensor([[3.0, -4.0], [0.0, 0.0]])).tolist() == [
        [pytest.approx(0.6), pytest.approx(-0.8)],
        [0.0, 0.0],
    ]


def test_it_is_what_the_paper_says() -> None:
    network = network_of()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.2)
    p = {name.removeprefix("torso.").removeprefix("layers."): value for name, value in network.named_parameters()}
    inputs = torch.randn(5, 3, generator=generator)
    # s is kept as it is; alpha starts at 1/3 and is kept as 4^-1/2 = 1/2.
    x = on_sphere(torch.cat([inputs, torch.full((5, 1), 3.0)], 1))
    x = on_sphere(functional.linear(x, p["embed.0.weight"]) * p["embed.0.scaler"])
    for block in ("block_1", "block_2"):
        h = (functional.linear(x, p[f"{block}.inner.linear.weight"]) * p[f"{block}.inner.linear.scaler"]).relu()
        y = on_sphere(functional.linear(h, p[f"{block}.outer.weight"]))
        x = on_sphere(x + p[f"{block}.alpha"] * 2 / 3 * (y - x))
    x = functional.linear(x, p["final.weight"]) * p["final.scaler"]
    torch.testing.assert_close(network.features(inputs), x)
    torch.testing.assert_close(network(inputs), functional.linear(x, p["head.linear.weight"], p["head.linear.bias"]))


def test_what_it_starts_with() -> None:
    network = network_of((5,), widths=[8], expansion=4, residual_blocks=3)
    named = dict(network.named_parameters())
    starts = {
        "embed.0.scaler": 0.5,  # sqrt(2 / 8)
        "layers.block_2.inner.linear.scaler": 0.25,  # sqrt(2 / 32)
        "layers.block_2.alpha": 8**-0.5,
        "final.scaler": 1.0,
    }
    for name, value in starts.items():
        assert named[f"torso.{name}"].tolist() == pytest.approx([value] * len(named[f"torso.{name}"]))
    for name, weight in network.weights().items():
        if name.startswith("torso"):
            assert weight.norm(dim=1).tolist() == pytest.approx([1.0] * len(weight))
    final = named["torso.final.weight"].detach()
    torch.testing.assert_close(final @ final.T, torch.eye(8), rtol=0, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(network_of().parameters(), network_of().parameters(), strict=True))


def test_inner_units_are_in_the_graph_with_their_scalers_and_the_stream_is_excluded() -> None:
    network = network_of(residual_blocks=3)
    assert network.units.names == ("block_1", "block_2", "block_3")
    assert [layer.units for layer in network.units.layers] == [8, 8, 8]
    layer = network.units["block_2"]
    assert layer.bias is None
    assert [(norm.slice.tensor, norm.fresh) for norm in layer.norms] == [
        ("torso.layers.block_2.inner.linear.scaler", pytest.approx(0.5))
    ]
    assert [(reader.weight.tensor, reader.bias) for reader in layer.consumers] == [("torso.layers.block_2.outer.weight", None)]
    assert [(units.name, units.units) for units in network.units.excluded] == [("stream", 4)]
    assert [block.name for block in network.blocks] == ["embed", "block_1", "block_2", "block_3", "head"]
    assert "torso.final.scaler" in network.blocks[3].parameters
    inside = {name for block in network.blocks for name in block.parameters}
    assert inside == {name for name, _ in network.named_parameters()}
    with network.taps.record():
        features = network.features(torch.randn(5, 3))
    assert torch.equal(network.taps.post["stream"], features)


def test_dead_blocks_and_inputs_of_zeros_have_finite_gradients() -> None:
    network = network_of()
    with torch.no_grad():
        network.tensor("torso.layers.block_1.inner.linear.scaler").fill_(-1.0)
        network.tensor("torso.layers.block_1.inner.linear.weight").abs_()
        network.tensor("torso.embed.0.weight").abs_()
    network(torch.zeros(2, 3)).sum().backward()
    with network.taps.record():
        network(torch.zeros(2, 3))
    assert not network.taps.post["block_1"].any()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("settings", "head", "message"),
    [
        ({"widths": [4, 4]}, HeadSpec("q", 2), "network.torso=simba_v2 has one width, that of its stream"),
        ({"spectral_layers": [1]}, HeadSpec("q", 2), "network.torso=simba_v2 does not work with spectral_layers"),
        ({}, HeadSpec("q", 2, noise_deviation=0.5), "network.torso=simba_v2 does not work with noisy layers"),
    ],
)
def test_what_cannot_be_built(settings: dict[str, Any], head: HeadSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_of(head=head, **settings)
