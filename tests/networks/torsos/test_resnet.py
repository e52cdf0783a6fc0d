"""ResNet-18 in the form for small images: its size, what it computes, what its units are."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.batch_norm import BatchNorm
from plasticity.interventions.methods.layer_norm import LayerNorm
from plasticity.interventions.methods.partial_norm import PartialNorm
from plasticity.networks.factory import build_network
from plasticity.networks.layers.normalisation import NORMS
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec
from plasticity.networks.torsos.resnet import ResNetSpec

CONFIGS = Path(__file__).parents[3] / "configs" / "network"


def network_of(inputs: tuple[int, ...] = (2, 6, 6), **settings: Any) -> Network:
    spec = ResNetSpec(widths=[], **{"channels": [3, 4], "residual_blocks": 1} | settings)
    return build_network(spec, inputs, torch.float32, HeadSpec("classification", 2), 0)


def test_the_published_size() -> None:
    # He et al. 2016 for small images, with biases in every convolution and 100 classes (Dohare et al. 2024): 11,224,932.
    spec = ResNetSpec(widths=[], normalisation=["batch"])
    network = build_network(spec, (3, 32, 32), torch.uint8, HeadSpec("classification", 100), 0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_224_932
    assert network.units.names == tuple(f"block_{number}" for number in range(1, 9))
    assert [layer.units for layer in network.units.layers] == [64, 64, 128, 128, 256, 256, 512, 512]


def test_what_it_computes_without_normalisation() -> None:
    network = network_of().eval()
    p = {name.removeprefix("torso.").removeprefix("layers."): value for name, value in network.named_parameters()}

    def convolve(x: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        return functional.conv2d(x, p[f"{name}.linear.weight"], p[f"{name}.linear.bias"], stride, padding)

    inputs = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    x = convolve(inputs, "stem").relu()
    x = (convolve(convolve(x, "block_1.inner").relu(), "block_1.outer") + x).relu()
    skip = convolve(x, "block_2.skip", stride=2, padding=0)
    x = (convolve(convolve(x, "block_2.inner", stride=2).relu(), "block_2.outer") + skip).relu()
    assert x.shape == (3, 4, 3, 3)
    expected = functional.linear(x.mean((2, 3)), p["head.linear.weight"], p["head.linear.bias"])
    torch.testing.assert_close(network(inputs), expected)


def test_the_normalised_skip_centres_what_is_passed_on() -> None:
    network = network_of(normalised_skip=True, channels=[3]).train()
    block = network.get_submodule("torso.layers.block_1")
    seen: list[Tensor] = []
    block.skip_norm.register_forward_hook(lambda module, args, output: seen.append(output))  # type: ignore[union-attr]
    network(torch.randn(16, 2, 6, 6))
    assert seen[0].mean((0, 2, 3)).abs().max() < 1e-5
    assert not list(block.skip_norm.parameters())  # type: ignore[union-attr]


def test_the_stream_is_tapped_and_excluded() -> None:
    network = network_of()
    with network.taps.record():
        network(torch.randn(3, 2, 6, 6))
    assert {units.name: units.units for units in network.units.excluded} == {"stem": 3, "block_1_sum": 3, "block_2_sum": 4}
    assert set(network.taps.post) == {"stem", "block_1", "block_1_sum", "block_2", "block_2_sum"}
    assert [block.name for block in network.blocks] == ["stem", "block_1", "block_2", "head"]


def test_load_balancing_stands_before_every_activation() -> None:
    network = network_of(load_balancing=LoadBalancingSpec())
    offsets = [name for name, _ in network.named_buffers() if name.endswith("balance.offset")]
    assert len(offsets) == 1 + 2 * 2


def test_convolutions_without_biases() -> None:
    network = network_of(convolution_biases=False, normalisation=["batch"])
    assert all(layer.bias is None for layer in network.units.layers)
    assert not [name for name, _ in network.named_parameters() if name.endswith("linear.bias") and "torso" in name]


def test_kaiming_normal_by_fan_in() -> None:
    network = network_of(channels=[64], initialiser="kaiming_normal")
    weight = network.tensor("torso.layers.block_1.outer.linear.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert float(network.tensor("head.linear.weight").detach().std()) == pytest.approx(64**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        ((5,), {}, "network.torso=resnet18 needs images"),
        ((2, 6, 6), {"activations": ["crelu"]}, "takes one activation of one output per unit"),
        ((2, 6, 6), {"normalised_layers": [1]}, "does not work with spectral_layers or normalised_layers"),
    ],
)
def test_what_cannot_be_built(inputs: tuple[int, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_of(inputs, **settings)


def norms_of(name: str, *methods: Intervention) -> dict[type[nn.Module], int]:
    file = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert file["defaults"][0] in ("_resnet18", "resnet18_plain")
    spec = ResNetSpec(widths=[], channels=[4, 5, 6, 7], normalisation=file["normalisation"])
    for method in methods:
        spec = method.build(spec)
    network = build_network(spec, (3, 8, 8), torch.float32, HeadSpec("classification", 2), 0)
    kinds = [type(module) for module in network.modules() if isinstance(module, NORMS)]
    return {kind: kinds.count(kind) for kind in set(kinds)}


def test_the_named_networks_have_one_normalisation_behind_each_of_20_convolutions() -> None:
    # The stem, two in each of eight blocks, and three shortcuts.
    assert norms_of("resnet18") == {nn.BatchNorm2d: 20}
    assert norms_of("resnet18_layer_norm") == norms_of("resnet18_plain", LayerNorm()) == {nn.GroupNorm: 20}
    assert norms_of("resnet18_plain") == {}
    both = {nn.GroupNorm: 20, nn.BatchNorm2d: 20}
    assert norms_of("resnet18_layer_and_batch_norm") == norms_of("resnet18_plain", LayerNorm(), BatchNorm()) == both


@pytest.mark.parametrize("method", [LayerNorm(), LayerNorm(affine=False), PartialNorm()])
def test_a_second_normalisation_on_top_of_batch_normalisation_is_refused(method: Intervention) -> None:
    with pytest.raises(
        ValueError, match=r"added to network\.normalisation=\['batch'\] of a ResNet; choose network=resnet18_plain"
    ):
        norms_of("resnet18", method)
