import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plasticity.networks.layers.load_balancing import LoadBalance
from plasticity.networks.network import Network
from plasticity.networks.spec import LoadBalancingSpec

Build = Callable[..., Network]
BATCHES = [
    # Rates of z + offset > 0, unit by unit, worked out next to the assertions below.
    torch.tensor([[1.0, -1.0, 0.05], [2.0, -2.0, -5.0], [3.0, -3.0, 5.0], [4.0, -4.0, -5.0]]),
    torch.tensor([[0.05, -0.05, 1.0], [0.2, -0.2, 1.0], [-1.0, 0.2, -1.0], [-1.0, 0.2, -1.0]]),
    torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, -0.1], [1.0, 1.0, 0.1], [1.0, 1.0, 0.1]]),
]


def close(values: Tensor, expected: list[float]) -> None:
    assert values.tolist() == pytest.approx(expected, abs=1e-6)


def test_three_batches_by_hand() -> None:
    layer = LoadBalance(3, LoadBalancingSpec(low=0.4, high=0.6, step_size=0.1, decay=0.5))
    # Batch 1: rates 1, 0, 0.5; averages from 0.5: 0.75, 0.25, 0.5; above, below, within.
    assert torch.equal(layer(BATCHES[0]), BATCHES[0])
    close(layer.firing_rate, [0.75, 0.25, 0.5])
    close(layer.offset, [-0.1, 0.1, 0.0])
    # Batch 2, shifted: unit 0 is -0.05, 0.1, -1.1, -1.1, rate 1/4; unit 1 is 0.05, -0.1, 0.3, 0.3, rate 3/4; unit 2 rate 1/2.
    torch.testing.assert_close(layer(BATCHES[1]), BATCHES[1] + torch.tensor([-0.1, 0.1, 0.0]))
    close(layer.firing_rate, [0.5, 0.5, 0.5])
    close(layer.offset, [-0.1, 0.1, 0.0])
    # Batch 3, shifted: rates 1, 1, 1/2, for a pre-activation of exactly 0 does not fire. Averages 0.75, 0.75, 0.5.
    layer(BATCHES[2])
    close(layer.firing_rate, [0.75, 0.75, 0.5])
    close(layer.offset, [-0.2, 0.0, 0.0])


def test_a_convolution_averages_over_batch_and_positions() -> None:
    flat = LoadBalance(3, LoadBalancingSpec(step_size=0.1, decay=0.5))
    spatial = LoadBalance(3, LoadBalancingSpec(step_size=0.1, decay=0.5))
    for batch in BATCHES:  # the four rows become two images of 1 x 2 positions
        images = batch.view(2, 1, 2, 3).permute(0, 3, 1, 2)
        assert torch.equal(spatial(images).permute(0, 2, 3, 1).reshape(4, 3), flat(batch))
        assert torch.equal(spatial.firing_rate, flat.firing_rate)
        assert torch.equal(spatial.offset, flat.offset)
    close(spatial.offset, [-0.2, 0.0, 0.0])


def test_equal_bounds_hold_every_unit_at_one_half() -> None:
    layer = LoadBalance(3, LoadBalancingSpec(low=0.5, high=0.5, step_size=0.1, decay=0.5))
    layer(torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0]]))
    close(layer.offset, [-0.1, 0.1, 0.0])  # rates 1, 0, 1/2: only a unit at exactly one half rests


def test_equal_bounds_balance_skewed_units_in_the_long_run() -> None:
    layer = LoadBalance(2, LoadBalancingSpec(low=0.5, high=0.5, step_size=0.01, decay=0.9))
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([1.0, -2.0])
    for _ in range(600):
        layer(torch.randn(64, 2, generator=generator) + means)
    torch.testing.assert_close(layer.offset, -means, atol=0.15, rtol=0)


def test_evaluation_moves_nothing() -> None:
    layer = LoadBalance(3, LoadBalancingSpec(step_size=0.1, decay=0.5))
    layer(BATCHES[0])
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    shifted = layer.eval()(BATCHES[0])
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    torch.testing.assert_close(shifted, BATCHES[0] + torch.tensor([-0.1, 0.1, 0.0]))


def test_a_network_in_evaluation_mode_moves_nothing(build: Build) -> None:
    network = build(widths=[4], load_balancing=LoadBalancingSpec())
    network.eval()(torch.randn(8, 3))
    assert network.tensor("torso.layers.dense_1.balance.firing_rate").unique().tolist() == [0.5]
    network.train()(torch.randn(8, 3))
    assert network.tensor("torso.layers.dense_1.balance.firing_rate").unique().tolist() != [0.5]


def test_the_gradient_passes_unchanged_and_the_offset_has_none() -> None:
    layer = LoadBalance(3, LoadBalancingSpec(step_size=0.1))
    z = torch.randn(4, 3, requires_grad=True)
    layer(z).sum().backward()
    assert torch.equal(z.grad, torch.ones(4, 3))
    assert list(layer.parameters()) == []
    assert not layer.offset.requires_grad
    assert not layer.firing_rate.requires_grad


def test_the_output_of_a_forward_does_not_move_with_the_offset() -> None:
    layer = LoadBalance(3, LoadBalancingSpec(step_size=0.1, decay=0.5))
    first = layer(BATCHES[0])
    kept = first.clone()
    layer(BATCHES[0])
    assert torch.equal(first, kept)


def test_half_precision_stays_half_precision() -> None:
    layer = LoadBalance(3, LoadBalancingSpec(step_size=0.25, decay=0.5))
    assert layer(BATCHES[0].bfloat16()).dtype == torch.bfloat16
    close(layer.offset, [-0.25, 0.25, 0.0])
    assert layer.offset.dtype == torch.float32


def test_a_copy_has_buffers_of_its_own(build: Build) -> None:
    network = build(widths=[4], load_balancing=LoadBalancingSpec())
    before = {name: value.clone() for name, value in network.named_buffers()}
    target = copy.deepcopy(network).train()
    target(torch.randn(8, 3) + 5)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert not all(torch.equal(value, before[name]) for name, value in target.named_buffers())


def test_the_shift_comes_after_the_normalisation_and_reaches_the_activation(build: Build) -> None:
    network = build(widths=[4], normalisation=["layer_non_affine"], load_balancing=LoadBalancingSpec()).eval()
    network.tensor("torso.layers.dense_1.balance.offset").fill_(7.0)
    with network.taps.record():
        network(torch.randn(5, 3))
    torch.testing.assert_close(network.taps.pre["dense_1"].mean(1), torch.full((5,), 7.0))
    assert torch.equal(network.taps.post["dense_1"], network.taps.pre["dense_1"])  # all positive by then
