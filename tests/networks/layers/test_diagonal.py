from collections.abc import Callable

import pytest
import torch

from plasticity.networks.layers.diagonal import Diagonal
from plasticity.networks.network import Network
from plasticity.networks.units import NormSlice, UnitSlice

Build = Callable[..., Network]
PATH = "torso.layers.dense_1.diagonal"


def test_a_factor_and_an_offset_by_hand() -> None:
    layer = Diagonal(2)
    z = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    assert torch.equal(layer(z), z)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 0.5]))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    assert layer(z).tolist() == [[3.0, 0.0], [7.0, -3.0]]
    images = z.view(2, 2, 1, 1).expand(2, 2, 3, 4)
    assert torch.equal(layer(images), layer(z).view(2, 2, 1, 1).expand(2, 2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_is_that_of_the_pre_activation(dtype: torch.dtype) -> None:
    assert Diagonal(3)(torch.ones(2, 3, dtype=dtype)).dtype == dtype


def test_a_layer_by_hand(build: Build) -> None:
    # z = 3 (1 * 2 + 1) - 4 = 5 at x = 2, behind which a layer normalisation would come.
    network = build((1,), widths=[1], diagonal=True)
    with torch.no_grad():
        for name, value in [("linear.weight", 1.0), ("linear.bias", 1.0), ("diagonal.weight", 3.0), ("diagonal.bias", -4.0)]:
            network.tensor(f"torso.layers.dense_1.{name}").fill_(value)
    with network.taps.record():
        network(torch.tensor([[2.0]]))
    assert network.taps.pre["dense_1"].tolist() == [[5.0]]


def test_it_lies_ahead_of_normalisation(build: Build) -> None:
    network = build((3,), widths=[4], diagonal=True, normalisation=["layer"])
    with torch.no_grad():
        network.tensor(f"{PATH}.bias").fill_(100.0)  # which a normalisation takes out again
    with network.taps.record():
        network(torch.randn(5, 3))
    assert network.taps.pre["dense_1"].abs().max() < 2


def test_it_is_a_unit_s_own(build: Build) -> None:
    layer = build((3,), widths=[4, 5], diagonal=True, normalisation=["layer"]).units["dense_1"]
    assert layer.norms[:2] == (NormSlice(UnitSlice(f"{PATH}.weight", 0, 4), 1.0), NormSlice(UnitSlice(f"{PATH}.bias", 0, 4), 0.0))
    assert len(layer.norms) == 4


def test_it_begins_as_no_layer_and_leaves_other_values_alone(build: Build) -> None:
    plain, network = build((3,), widths=[4]), build((3,), widths=[4], diagonal=True)
    x = torch.randn(5, 3)
    assert torch.equal(network(x), plain(x))
    assert {PATH + ".weight", PATH + ".bias"} == network.norm_parameters
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in plain.state_dict().items())
