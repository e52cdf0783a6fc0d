import copy
from collections.abc import Callable

import pytest
import torch

from plasticity.networks.network import Network
from plasticity.networks.taps import Taps

Build = Callable[..., Network]


def test_nothing_is_kept_outside_the_block(build: Build) -> None:
    network = build(widths=[4])
    network(torch.randn(2, 3))
    assert network.taps.pre == {}
    with network.taps.record():
        network(torch.ones(2, 3))
    kept = network.taps.post["dense_1"]
    network(torch.zeros(2, 3))
    assert network.taps.post["dense_1"] is kept


def test_values_by_hand(build: Build) -> None:
    network = build((2,), widths=[2], activations=["crelu"])
    layer = network.torso.layers["dense_1"].linear
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
    with network.taps.record():
        network(torch.tensor([[1.0, -2.0]]))
    assert network.taps.pre["dense_1"].tolist() == [[-2.5, -1.0]]  # 1 - 4 + 0.5, -1
    assert network.taps.post["dense_1"].tolist() == [[0.0, 0.0, 2.5, 1.0]]


def test_convolutions_are_tapped_before_the_pooling(build: Build) -> None:
    network = build((1, 6, 6), torso="conv", channels=[2], pools=[2], widths=[3])
    with network.taps.record():
        network(torch.randn(5, 1, 6, 6))
    assert {name: tuple(value.shape) for name, value in network.taps.pre.items()} == {"conv_1": (5, 2, 4, 4), "dense_1": (5, 3)}


def test_taps_are_detached_and_the_gradient_is_not(build: Build) -> None:
    network = build(widths=[4, 4])
    with network.taps.record():
        network(torch.randn(2, 3)).sum().backward()
    assert not any(value.requires_grad for value in (*network.taps.pre.values(), *network.taps.post.values()))
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_copy_neither_records_nor_writes_into_the_original(build: Build) -> None:
    network = build(widths=[4])
    with network.taps.record():
        network(torch.ones(2, 3))
        kept = dict(network.taps.post)
        target = copy.deepcopy(network)
        target(torch.zeros(2, 3))
    assert target.taps.post == {}
    assert network.taps.post["dense_1"] is kept["dense_1"]
    with target.taps.record():
        target(torch.zeros(2, 3))
    assert set(target.taps.post) == {"dense_1"}  # all layers of the copy share the copy's taps
    assert network.taps.post["dense_1"] is kept["dense_1"]


def test_recording_ends_with_an_error(build: Build) -> None:
    network = build(widths=[4])
    with pytest.raises(RuntimeError), network.taps.record():
        network(torch.ones(2, 99))
    assert not network.taps.recording


def test_a_block_inside_a_block_does_not_end_the_outer_one(build: Build) -> None:
    network = build(widths=[4])
    with network.taps.record():
        with network.taps.record():
            network(torch.ones(2, 3))
        first = network.taps.post["dense_1"]
        network(torch.zeros(2, 3))
        assert network.taps.post["dense_1"] is not first
    assert not network.taps.recording


def test_taps_that_are_given_leave_the_record_as_it_was(build: Build) -> None:
    network = build(widths=[4])
    with network.taps.record():
        network(torch.ones(2, 3))
    kept = network.taps.post["dense_1"]
    spare = Taps()
    network(torch.zeros(2, 3), spare)
    assert network.taps.post["dense_1"] is kept
    assert torch.equal(spare.post["dense_1"], network.torso.layers["dense_1"].linear.bias.relu().expand(2, 4))
    assert not network.taps.recording
