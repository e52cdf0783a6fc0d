import copy
from collections.abc import Callable

import pytest
import torch

from networks.activations import ACTIVATIONS, activation_named, crelu
from networks.network import Network
from networks.normalisation import NORMALISATIONS, build_normalisation

Build = Callable[..., Network]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("relu", [0.0, 0.0, 2.0]),
        ("leaky_relu", [-0.01, 0.0, 2.0]),
        ("tanh", [-0.76159416, 0.0, 0.96402758]),
        ("abs", [1.0, 0.0, 2.0]),
        ("gelu", [-0.15865525, 0.0, 1.95449974]),  # x Phi(x): Phi(-1) = 0.15865525, Phi(2) = 0.97724987
        ("identity", [-1.0, 0.0, 2.0]),
        ("crelu", [0.0, 0.0, 2.0, 1.0, 0.0, 0.0]),
    ],
)
def test_values_by_hand(name: str, values: list[float]) -> None:
    z = torch.tensor([[-1.0, 0.0, 2.0]])
    assert activation_named(name).function(z)[0].tolist() == pytest.approx(values, abs=1e-6)


def test_every_activation_returns_its_copies_of_the_units() -> None:
    z = torch.randn(2, 3, 4, 5)
    for name, activation in ACTIVATIONS.items():
        assert activation.function(z).shape == (2, 3 * activation.copies, 4, 5), name


def test_crelu_puts_the_negated_half_second() -> None:
    z = torch.tensor([[[[1.0]], [[-3.0]]]])  # one image, two channels, one position
    assert crelu(z).flatten().tolist() == [1.0, 0.0, 0.0, 3.0]


def test_gains_of_he_initialisation() -> None:
    # He et al. 2015: the gain undoes the loss of mean square through the activation, 1 / sqrt(E f(x)^2) for x ~ N(0, 1).
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).unsqueeze(1)
    for name in ("relu", "leaky_relu", "abs", "identity"):
        activation = activation_named(name)
        assert activation.gain == pytest.approx(activation.function(x).square().mean().item() ** -0.5, rel=5e-3), name


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize("spatial", [False, True])
def test_normalisation_by_hand(name: str, spatial: bool) -> None:
    norm = build_normalisation(name, 2, spatial)
    # Example 0 holds 1 and 3, example 1 holds 1 and 7: over units the mean and deviation are 2 +- 1 and 4 +- 3, over the batch
    # 1 +- 0 and 5 +- 2.
    z = torch.tensor([[1.0, 3.0], [1.0, 7.0]])
    z = z.view(2, 2, 1, 1).expand(2, 2, 2, 3) if spatial else z
    expected = [[-1.0, 1.0], [-1.0, 1.0]] if name.startswith("layer") else [[0.0, -1.0], [0.0, 1.0]]
    normalised = norm(z)
    values = normalised[:, :, 1, 2] if spatial else normalised
    assert values.tolist() == [pytest.approx(row, abs=1e-4) for row in expected]
    assert len(list(norm.parameters())) == (0 if "non_affine" in name else 2)
    assert all(parameter.shape == (2,) for parameter in norm.parameters())


def test_layer_norm_of_a_convolution_takes_channels_and_positions_together() -> None:
    z = torch.arange(12.0).view(1, 3, 2, 2)
    normalised = build_normalisation("layer", 3, True)(z)
    assert normalised.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert normalised[0, 0].mean().item() < -1  # the first channel is low beside the others, which one of its own would hide


def test_normalisations_apply_in_order_before_the_activation(build: Build) -> None:
    network = build(widths=[4], normalisation=["layer_non_affine", "batch_non_affine"]).train()
    with network.taps.record():
        network(torch.randn(50, 3))
    pre = network.taps.pre["dense_1"]
    assert pre.mean(0).abs().max() < 1e-5
    assert (pre.std(0, correction=0) - 1).abs().max() < 1e-3
    assert torch.equal(network.taps.post["dense_1"], pre.relu())


def test_a_network_of_any_activation_can_be_copied() -> None:
    for activation in ACTIVATIONS.values():
        assert copy.deepcopy(activation) == activation
