"""Spectral normalisation: the largest singular value is 1, what moves it, and that parameters keep their own scale."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from plasticity.networks.layers.noisy import NoisyLinear
from plasticity.networks.layers.spectral_normalisation import SpectralNormalisation
from plasticity.networks.network import Network

Build = Callable[..., Network]


def test_a_diagonal_map_by_hand() -> None:
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.diag(torch.tensor([4.0, 1.0])))
        linear.bias.copy_(torch.tensor([1.0, 2.0]))
    spectral = SpectralNormalisation(linear)
    spectral.estimate()
    assert spectral(torch.tensor([[8.0, 8.0]]))[0].tolist() == pytest.approx([9.0, 4.0])  # 8 * 4/4 + 1, 8 * 1/4 + 2
    assert not dict(spectral.named_parameters())


@pytest.mark.parametrize("spatial", [False, True])
def test_the_map_has_a_largest_singular_value_of_1(spatial: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Conv2d(3, 6, 3, stride=2, padding=1) if spatial else nn.Linear(7, 5)
    spectral = SpectralNormalisation(linear)
    for _ in range(10):
        spectral.estimate()
    sigma = torch.linalg.svdvals(linear.weight.detach().flatten(1))[0]
    scaled = deepcopy(linear)
    with torch.no_grad():
        scaled.weight.div_(sigma)
    x = torch.randn(2, 3, 8, 8) if spatial else torch.randn(2, 7)
    torch.testing.assert_close(spectral.eval()(x), scaled(x), rtol=1e-4, atol=1e-5)


def test_the_gradient_passes_through_the_singular_value() -> None:
    linear = nn.Linear(4, 3).double()
    spectral = SpectralNormalisation(linear).double()
    for _ in range(20):
        spectral.estimate()
    spectral.eval()
    x, weight = torch.randn(5, 4, dtype=torch.float64), linear.weight

    def naive(matrix: torch.Tensor) -> torch.Tensor:
        return (x @ (matrix / torch.linalg.svdvals(matrix)[0]).T + linear.bias).square().sum()

    (expected,) = torch.autograd.grad(naive(weight), weight)
    (gradient,) = torch.autograd.grad(spectral(x).square().sum(), weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_training_follows_the_weight_and_evaluation_moves_nothing(build: Build) -> None:
    network = build(widths=[5, 4], spectral_layers=[-1])
    assert [name for name, _ in network.named_buffers()] == [
        "torso.layers.dense_2.spectral.left",
        "torso.layers.dense_2.spectral.right",
    ]
    x = torch.randn(3, 3)
    before = [buffer.clone() for buffer in network.buffers()]
    network.eval()(x)
    assert all(torch.equal(old, new) for old, new in zip(before, network.buffers(), strict=True))
    with torch.no_grad():
        network.tensor("torso.layers.dense_2.linear.weight").normal_(generator=torch.Generator().manual_seed(0))
    network.train()
    for _ in range(50):
        network(x)
    sigma = torch.linalg.svdvals(network.tensor("torso.layers.dense_2.linear.weight").detach())
    left, right = network.tensor("torso.layers.dense_2.spectral.left"), network.tensor("torso.layers.dense_2.spectral.right")
    weight = network.tensor("torso.layers.dense_2.linear.weight").detach()
    assert float(left @ weight @ right) == pytest.approx(float(sigma[0]), rel=1e-3)


def test_a_copy_reads_its_own_weight(build: Build) -> None:
    network = build(widths=[5], spectral_layers=[1]).eval()
    other = deepcopy(network)
    x = torch.randn(3, 3)
    assert torch.equal(network(x), other(x))
    with torch.no_grad():
        other.tensor("torso.layers.dense_1.linear.weight")[0].mul_(-1)
    assert not torch.equal(network(x), other(x))


@pytest.mark.parametrize("numbers", [[0], [3], [-3]])
def test_numbers_of_layers_are_checked(build: Build, numbers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"network.spectral_layers=\[-?\d\] must be from 1 to 2, or from -2 to -1"):
        build(widths=[5, 4], spectral_layers=numbers)
    with pytest.raises(ValueError, match=r"network.normalised_layers=\[-?\d\] must be from 1 to 2, or from -2 to -1"):
        build(widths=[5, 4], normalised_layers=numbers)


def test_noise_is_not_divided() -> None:
    linear = NoisyLinear(3, 2, 0.5)
    with torch.no_grad():
        linear.weight_deviation.fill_(0.25)
        linear.bias_deviation.fill_(0.5)
    spectral = SpectralNormalisation(linear)
    spectral.estimate()
    x = torch.tensor([[1.0, 2.0, 3.0]])
    plain = spectral.eval()(x)
    linear.noise = (torch.tensor([1.0, 1.0, -1.0]), torch.tensor([2.0, -4.0]))
    # 0.25 * (1 + 2 - 3) + 0.5 = 0.5, times 2 and -4
    torch.testing.assert_close(spectral(x) - plain, torch.tensor([[1.0, -2.0]]))


def test_a_weight_of_zeros_is_taken_as_it_is() -> None:
    linear = nn.Linear(3, 2)
    nn.init.zeros_(linear.weight)
    spectral = SpectralNormalisation(linear)
    spectral.estimate()
    outputs = spectral(torch.ones(1, 3))
    assert torch.equal(outputs[0], linear.bias)
    outputs.sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.tolist() == [[1.0] * 3] * 2
