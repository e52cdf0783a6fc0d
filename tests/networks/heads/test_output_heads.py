"""Heads with more than one output: two side by side, Gaussians, dueling streams."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from plasticity.networks.factory import build_network
from plasticity.networks.heads.output_heads import PairedHead, build_head
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec

CATEGORICAL = HeadSpec("categorical", 1, bins=3, low=0.0, high=2.0)


def network_of(head: HeadSpec, **settings: Any) -> Network:
    return build_network(MLPSpec(**({"widths": [4]} | settings)), (2,), torch.float32, head, 0)


def test_a_gaussian_by_hand() -> None:
    network = network_of(HeadSpec("gaussian", 2), widths=[])
    values = {"head.linear.weight": [[1.0, 2.0], [0.0, 1.0]], "head.linear.bias": [0.5, 0.0], "head.log_deviation": [-1.0, 3.0]}
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    assert network(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist() == [[3.5, 1.0, -1.0, 3.0], [4.5, 2.0, -1.0, 3.0]]


def test_a_gaussian_starts_with_deviation_1_and_learns_it() -> None:
    network = network_of(HeadSpec("gaussian", 2))
    deviation = network.tensor("head.log_deviation")
    assert deviation.tolist() == [0.0, 0.0]
    network(torch.ones(3, 2)).sum().backward()
    assert deviation.grad is not None
    assert deviation.grad.tolist() == [3.0, 3.0]
    assert "head.log_deviation" not in network.weights()
    assert "head.log_deviation" in network.blocks[-1].parameters


def test_a_squashed_gaussian_has_a_deviation_for_every_input() -> None:
    network = network_of(HeadSpec("squashed_gaussian", 2))
    first, second = network(torch.tensor([[1.0, 0.0], [-1.0, 2.0]]))
    assert first.shape == (4,)
    assert (first[2:] != second[2:]).all()


def test_two_heads_lie_side_by_side() -> None:
    head = build_head(4, HeadSpec("policy", 3, second=CATEGORICAL), MLPSpec())
    assert isinstance(head, PairedHead)
    features = torch.randn(5, 4)
    outputs = head(features)
    policy, value = head.split(outputs)
    assert torch.equal(policy, head.first(features))
    assert torch.equal(value, head.second(features))
    assert value.shape == (5, 1, 3)
    assert head.second.decode(value).shape == (5, 1)


@pytest.mark.parametrize("first", ["policy", "gaussian", "squashed_gaussian", "categorical"])
@pytest.mark.parametrize("second", ["value", "categorical"])
def test_split_gives_back_what_every_pair_joined(first: str, second: str) -> None:
    bins = {"bins": 3, "low": 0.0, "high": 1.0}
    other = HeadSpec(second, 2, **(bins if second == "categorical" else {}))
    head = build_head(4, HeadSpec(first, 3, **(bins if first == "categorical" else {}), second=other), MLPSpec())
    assert isinstance(head, PairedHead)
    features = torch.randn(5, 4)
    one, two = head.split(head(features))
    assert torch.equal(one, head.first(features).flatten(1))
    assert torch.equal(two, head.second(features))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gain_of_each_head_scales_its_own_map(seed: int) -> None:
    head = HeadSpec("policy", 3, gain=0.01, second=HeadSpec("value", 1, gain=2.0))
    network = build_network(MLPSpec(widths=[16], initialiser="orthogonal"), (2,), torch.float32, head, seed)
    policy, value = network.tensor("head.first.linear.weight"), network.tensor("head.second.linear.weight")
    # Rows of an orthogonal matrix times the gain.
    torch.testing.assert_close(policy @ policy.T, 1e-4 * torch.eye(3), rtol=0, atol=1e-8)
    torch.testing.assert_close(value @ value.T, 4 * torch.eye(1))


def test_both_heads_read_every_last_hidden_unit_and_no_other_layer() -> None:
    network = network_of(HeadSpec("policy", 3, second=CATEGORICAL), widths=[4, 5])
    first, last = network.units.layers
    assert [reader.weight.tensor for reader in first.consumers] == ["torso.layers.dense_2.linear.weight"]
    assert [(reader.weight.tensor, reader.bias) for reader in last.consumers] == [
        ("head.first.linear.weight", "head.first.linear.bias"),
        ("head.second.linear.weight", "head.second.linear.bias"),
    ]


def test_a_third_head_is_read_as_well() -> None:
    nested = HeadSpec("policy", 3, second=HeadSpec("value", 1, second=HeadSpec("value", 2)))
    network = network_of(nested)
    assert network(torch.randn(5, 2)).shape == (5, 6)
    assert len(network.units.layers[-1].consumers) == 3


# Dueling streams


def test_dueling_values_by_hand() -> None:
    network = network_of(HeadSpec("q", 2, dueling=True), widths=[])
    values = {
        "head.value.weight": [[1.0, 0.0]],
        "head.value.bias": [10.0],
        "head.advantage.weight": [[0.0, 1.0], [0.0, 3.0]],
        "head.advantage.bias": [0.0, 2.0],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    # value 11, advantages 1 and 5 of mean 3
    assert network(torch.tensor([[1.0, 1.0]])).tolist() == [[9.0, 13.0]]


def test_dueling_categorical_logits_by_hand() -> None:
    network = network_of(HeadSpec("categorical", 2, 2, 0.0, 1.0, dueling=True), widths=[])
    values = {
        "head.value.weight": [[0.0, 0.0], [0.0, 0.0]],
        "head.value.bias": [1.0, 2.0],
        "head.advantage.weight": [[0.0, 0.0]] * 4,
        "head.advantage.bias": [0.0, 4.0, 2.0, 0.0],  # action 0: 0, 4; action 1: 2, 0; means of the atoms 1, 2
    }
    network.load_state_dict(
        {name: torch.tensor(value) for name, value in values.items()} | {"head.atoms": torch.tensor([0.0, 1.0])}
    )
    outputs = network(torch.zeros(1, 2))
    assert outputs.tolist() == [[[0.0, 4.0], [2.0, 0.0]]]
    expected = torch.tensor([[[0.0, 4.0], [2.0, 0.0]]]).softmax(-1)[..., 1]
    assert torch.equal(network.decode(outputs), expected)


def test_each_stream_has_hidden_layers_of_its_own() -> None:
    network = network_of(HeadSpec("q", 2, dueling=True, stream_widths=(3, 5)), normalisation=["layer"])
    assert network.units.names == ("dense_1", "value_1", "value_2", "advantage_1", "advantage_2")
    assert [block.name for block in network.blocks] == ["dense_1", "streams_1", "streams_2", "head"]
    assert len(network.units["dense_1"].consumers) == 2
    assert len(network.units["value_1"].norms) == 2
    with network.taps.record():
        network(torch.zeros(4, 2))
    assert {name: tuple(value.shape) for name, value in network.taps.post.items()} == {
        "dense_1": (4, 4),
        "value_1": (4, 3),
        "value_2": (4, 5),
        "advantage_1": (4, 3),
        "advantage_2": (4, 5),
    }


def test_streams_are_for_action_values() -> None:
    with pytest.raises(ValueError, match="dueling head=policy is unknown; choose from q, categorical"):
        build_head(4, HeadSpec("policy", 3, dueling=True), MLPSpec())


def test_a_head_takes_the_smoothing_of_its_targets_out_by_hand() -> None:
    # Atoms 0, 1, 2 and smoothing 0.4: a value of 2 is (2, 2, 11) / 15, with a mean of 1.6 = 0.6 * 2 + 0.4 * 1; all mass on the
    # first atom would stand for (0 - 0.4) / 0.6.
    logits = torch.tensor([[[2.0, 2.0, 11.0]], [[1.0, 0.0, 0.0]]]).log()
    for dueling in (False, True):
        spec = replace(CATEGORICAL, dueling=dueling)
        plain, smoothed = (build_head(4, replace(spec, label_smoothing=share), MLPSpec()) for share in (0.0, 0.4))
        assert plain.decode(logits).flatten().tolist() == pytest.approx([1.6, 0.0])
        assert smoothed.decode(logits).flatten().tolist() == pytest.approx([2.0, 0.0])
