"""Noisy linear maps: numbers by hand, when they are noisy, and what learns."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.networks.factory import build_network
from plasticity.networks.layers.noisy import NoisyLinear, dense, fresh_noise
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand() -> NoisyLinear:
    layer = NoisyLinear(2, 2, 0.5)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
        layer.weight_deviation.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        layer.bias_deviation.copy_(torch.tensor([0.5, 1.0]))
    return layer


def network_of(deviation: float = 0.5) -> Network:
    return build_network(MLPSpec(widths=[4]), (3,), torch.float32, HeadSpec("q", 2, noise_deviation=deviation), 0)


def test_a_noisy_map_by_hand() -> None:
    layer = by_hand()
    x = torch.tensor([[1.0, 2.0]])
    assert layer(x).tolist() == [[6.0, 1.0]]
    layer.noise = (torch.tensor([2.0, -1.0]), torch.tensor([3.0, 0.5]))
    # weight noise [[1*3*2, 0], [0, 2*0.5*-1]] = [[6, 0], [0, -1]]; bias noise [0.5*3, 1*0.5] = [1.5, 0.5]
    assert layer(x).tolist() == [[6.0 + 6.0 + 1.5, 1.0 - 2.0 + 0.5]]


def test_the_noise_equals_a_materialised_matrix_of_rank_1() -> None:
    layer = NoisyLinear(5, 4, 0.5)
    torch.nn.init.normal_(layer.weight_deviation)
    torch.nn.init.normal_(layer.bias_deviation)
    x = torch.randn(7, 5, generator=generator())
    with fresh_noise([layer], generator()):
        assert layer.noise is not None
        incoming, outgoing = layer.noise
        noise = torch.outer(outgoing, incoming)
        assert torch.linalg.matrix_rank(noise) == 1
        weight = layer.weight + layer.weight_deviation * noise
        expected = functional.linear(x, weight, layer.bias + layer.bias_deviation * outgoing)
        torch.testing.assert_close(layer(x), expected)


def test_the_noise_is_the_signed_root_of_a_normal() -> None:
    layer = NoisyLinear(20_000, 1, 0.5)
    with fresh_noise([layer], generator()):
        assert layer.noise is not None
        squares = layer.noise[0].sign() * layer.noise[0].square()  # standard normal again
    assert float(squares.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(squares.std()) == pytest.approx(1.0, abs=0.03)
    assert float((squares.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)


def test_there_is_noise_only_inside_the_block() -> None:
    network = network_of()
    x = torch.randn(3, 3, generator=generator())
    plain = network(x)
    with fresh_noise(network.noisy_layers, generator(1)):
        first = network(x)
        assert torch.equal(network(x), first)
    with fresh_noise(network.noisy_layers, generator(2)):
        second = network(x)
    with fresh_noise(network.noisy_layers, generator(1)):
        again = network(x)
    assert torch.equal(network(x), plain)
    assert not torch.equal(first, plain)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_block_ends_the_noise_after_an_error() -> None:
    network = network_of()
    with pytest.raises(RuntimeError, match="boom"), fresh_noise(network.noisy_layers, generator()):
        raise RuntimeError("boom")
    assert all(layer.noise is None for layer in network.noisy_layers)


def test_means_and_deviations_learn_under_noise_and_means_alone_without() -> None:
    def gradients(noise: bool) -> dict[str, Tensor | None]:
        network = network_of()
        if noise:
            with fresh_noise(network.noisy_layers, generator()):
                network(torch.ones(2, 3)).sum().backward()
        else:
            network(torch.ones(2, 3)).sum().backward()
        return {name: value.grad for name, value in network.named_parameters()}

    assert all(gradient is not None for gradient in gradients(True).values())
    plain = gradients(False)
    assert {name for name, gradient in plain.items() if gradient is None} == {name for name in plain if "deviation" in name}


def test_deviations_start_at_sigma_0_by_the_root_of_the_inputs() -> None:
    network = network_of(0.1)
    assert network.tensor("torso.layers.dense_1.linear.weight_deviation").unique().tolist() == pytest.approx([0.1 / 3**0.5])
    assert network.tensor("head.linear.bias_deviation").unique().tolist() == pytest.approx([0.1 / 2])
    means = network.tensor("torso.layers.dense_1.linear.weight")
    assert float(means.detach().abs().max()) <= 3**-0.5


def test_the_means_start_as_those_of_a_plain_network() -> None:
    plain = network_of(0.0)
    noisy = dict(network_of().named_parameters())
    assert all(torch.equal(value, noisy[name]) for name, value in plain.named_parameters())
    assert set(plain.weights()) == set(network_of().weights())  # deviations are not weights


def test_convolutions_have_no_noise() -> None:
    network = build_network(
        ConvSpec(widths=[4], channels=[2]), (1, 5, 5), torch.float32, HeadSpec("q", 2, noise_deviation=0.5), 0
    )
    assert len(network.noisy_layers) == 2
    assert isinstance(dense(2, 3, 0.0), torch.nn.Linear)
    assert not isinstance(dense(2, 3, 0.0), NoisyLinear)
