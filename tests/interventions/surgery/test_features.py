from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plasticity.interventions.surgery.features import as_matrix, features_of, frozen_copy, require_features
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec

Q = HeadSpec("q", 2)
CASES: dict[str, tuple[NetworkSpec, tuple[int, ...], HeadSpec, int, tuple[str, ...]]] = {
    "mlp": (MLPSpec(widths=[5, 4]), (3,), Q, 1, ("dense_2",)),
    "no hidden layer": (MLPSpec(widths=[]), (3,), Q, 1, ()),
    "conv": (ConvSpec(widths=[], channels=[3, 2]), (1, 6, 6), Q, 1, ("conv_2",)),
    "policy next to value": (MLPSpec(widths=[4]), (3,), HeadSpec("policy", 2, second=HeadSpec("value", 1)), 1, ("dense_1",)),
    "streams": (
        MLPSpec(widths=[4]),
        (3,),
        HeadSpec("q", 2, dueling=True, stream_widths=(4, 3)),
        1,
        ("value_2", "advantage_2"),
    ),
    "dueling without streams": (MLPSpec(widths=[4]), (3,), HeadSpec("q", 2, dueling=True), 1, ("dense_1",)),
    "twins": (MLPSpec(widths=[5, 4]), (3,), HeadSpec("value", 1), 2, ("0.dense_2", "1.dense_2")),
}


def network_of(case: str, **changes: Any) -> Network:
    spec, shape, head, members, _ = CASES[case]
    return build_network(replace(spec, **changes), shape, torch.float32, head, 0, members)


@pytest.mark.parametrize("case", CASES)
def test_the_layers_that_the_head_reads(case: str) -> None:
    assert network_of(case).feature_layers == CASES[case][-1]


def test_a_residual_stream_stands_for_the_features() -> None:
    network = build_network(SimbaSpec(widths=[4]), (3,), torch.float32, HeadSpec("q", 2), 0)
    assert network.feature_layers == ("stream",)


def test_a_network_without_hidden_layers_is_refused() -> None:
    update: Any = SimpleNamespace(network=network_of("no hidden layer"))
    with pytest.raises(ValueError, match=r"^intervention srank acts on hidden layers, and this network has none; give network"):
        require_features("srank", update)


def test_a_matrix_has_a_row_for_each_example_in_float32() -> None:
    matrix = as_matrix(torch.arange(12.0).view(2, 3, 1, 2).bfloat16())
    assert matrix.dtype == torch.float32
    assert matrix.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize("case", ["mlp", "streams", "twins", "conv"])
def test_features_of_a_network(case: str) -> None:
    network, inputs = network_of(case), torch.randn(7, *CASES[case][1])
    names = network.feature_layers
    with network.taps.record():
        network(inputs)
    seen = dict(network.taps.post)
    found = features_of(network, inputs, names)
    assert len(found) == len(names)
    for name, features in zip(names, found, strict=True):
        assert torch.equal(features, seen[name].flatten(1))
        assert features.requires_grad
        assert network.taps.post[name] is seen[name]


def test_features_come_from_evaluation_mode_and_leave_the_mode_and_statistics() -> None:
    network = network_of("mlp", normalisation=["batch"]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = features_of(network, torch.randn(7, 3), ("dense_2",))
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.eval()
    features_of(network, torch.ones(1, 3), ("dense_2",))
    assert not network.training
    assert found[0].shape == (7, 4)


def test_a_frozen_copy_is_another_network_with_the_same_values() -> None:
    network = network_of("mlp", normalisation=["batch"]).train()
    copy = frozen_copy(network)
    assert network.training
    assert not copy.training
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        network.tensor("head.linear.weight").zero_()
    assert (copy.tensor("head.linear.weight") != 0).any()
