import copy
from collections.abc import Callable

import pytest
import torch

from plasticity.networks.layers.activations import ACTIVATIONS, activation_named, crelu
from plasticity.networks.layers.learned_activations import PELU, Rational
from plasticity.networks.layers.normalisation import NORMALISATIONS, build_normalisation
from plasticity.networks.network import Network

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
        ("elu", [-0.63212056, 0.0, 2.0]),  # exp(-1) - 1
        ("swish", [-0.26894142, 0.0, 1.76159416]),  # x / (1 + exp(-x))
        ("sigmoid", [0.26894142, 0.5, 0.88079708]),
        ("fourier", [-0.84147098, 0.0, 0.90929743, 0.54030231, 1.0, -0.41614684]),  # sines, then cosines
    ],
)
def test_values_by_hand(name: str, values: list[float]) -> None:
    z = torch.tensor([[-1.0, 0.0, 2.0]])
    assert activation_named(name).function(z)[0].tolist() == pytest.approx(values, abs=1e-6)


def test_every_activation_returns_its_copies_of_the_units() -> None:
    z = torch.randn(2, 3, 4, 5)
    for name, activation in ACTIVATIONS.items():
        function = activation.learned(3) if activation.learned else activation.function
        assert function(z).shape == (2, 3 * activation.copies, 4, 5), name


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
    expected = {
        "layer_mean": [[-1.0, 1.0], [-3.0, 3.0]],
        "layer_std": [[1.0, 3.0], [1 / 3, 7 / 3]],
        "batch_mean": [[0.0, -2.0], [0.0, 2.0]],
        "batch_std": [[1e-5**-0.5, 1.5], [1e-5**-0.5, 3.5]],
    }.get(name, [[-1.0, 1.0], [-1.0, 1.0]] if name.startswith("layer") else [[0.0, -1.0], [0.0, 1.0]])
    normalised = norm(z)
    values = normalised[:, :, 1, 2] if spatial else normalised
    assert values.tolist() == [pytest.approx(row, rel=1e-5, abs=1e-4) for row in expected]
    assert len(list(norm.parameters())) == (2 if name in ("layer", "batch") else 0)
    assert all(parameter.shape == (2,) for parameter in norm.parameters())


def test_layer_norm_of_a_convolution_takes_channels_and_positions_together() -> None:
    z = torch.arange(12.0).view(1, 3, 2, 2)
    normalised = build_normalisation("layer", 3, True)(z)
    assert normalised.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert normalised[0, 0].mean().item() < -1  # the first channel is low compared with the others, which its own mean would hide


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


@pytest.mark.parametrize("name", ["batch_mean", "batch_std"])
def test_moments_of_the_batch_are_averaged_for_evaluation(name: str) -> None:
    norm = build_normalisation(name, 1, False)
    norm(torch.tensor([[1.0], [5.0]]))  # mean 3, variance 4
    assert dict(norm.named_buffers()).popitem()[1].tolist() == pytest.approx([0.3 if name == "batch_mean" else 1.3])
    evaluated = norm.eval()(torch.tensor([[1.3]]))
    assert evaluated.item() == pytest.approx(1.0 if name == "batch_mean" else 1.3 / 1.3**0.5, rel=1e-4)


def test_mean_over_the_batch_and_deviation_over_the_layer(build: Build) -> None:
    network = build(widths=[2], normalisation=["batch_mean", "layer_std"]).train()
    with network.taps.record():
        network(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0], [2.0, 2.0, 2.0]]))
    z = network.torso.layers["dense_1"].linear(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0], [2.0, 2.0, 2.0]]))  # type: ignore[union-attr,operator,index]
    centred = z - z.mean(0)
    deviation = ((centred - centred.mean(1, keepdim=True)).square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(network.taps.pre["dense_1"], (centred / deviation).detach())


def test_the_offset_is_added_before_the_activation(build: Build) -> None:
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    plain, moved = build(widths=[5]), build(widths=[5], activation_offset=-1.0)
    for network in (plain, moved):
        with network.taps.record():
            network(inputs)
    assert torch.equal(moved.taps.pre["dense_1"], plain.taps.pre["dense_1"] - 1)
    assert torch.equal(moved.taps.post["dense_1"], (plain.taps.pre["dense_1"] - 1).relu())


# Learned shapes


def test_pelu_by_hand() -> None:
    pelu = PELU(2)
    with torch.no_grad():
        pelu.height.copy_(torch.tensor([2.0, 0.01]))  # the second is clamped to 0.1
        pelu.width.copy_(torch.tensor([4.0, 0.5]))
    values = pelu(torch.tensor([[2.0, 2.0], [-4.0, -0.5]]))
    # 2/4 * 2 = 1 and 0.1/0.5 * 2 = 0.4; 2 (1/e - 1) and 0.1 (1/e - 1)
    expected = [[1.0, 0.4], [-1.2642411, -0.0632121]]
    assert values.tolist() == [pytest.approx(row) for row in expected]


def test_pelu_starts_as_elu_and_learns() -> None:
    pelu = PELU(3)
    z = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pelu(z), torch.nn.functional.elu(z))
    pelu(z).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.all() for parameter in pelu.parameters())


def test_a_rational_by_hand() -> None:
    rational = Rational(1)
    with torch.no_grad():
        rational.numerator.copy_(torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0, 1.0]))
        rational.denominator.copy_(torch.tensor([1.0, 0.0, 0.0, -1.0]))
    # P(2) = 1 + 4 + 32 = 37, Q(2) = 2 - 16 = -14; P(-1) = 1 - 2 - 1 = -2, Q(-1) = -1 - 1 = -2
    assert rational(torch.tensor([[2.0], [-1.0]])).flatten().tolist() == pytest.approx([37 / 15, -2 / 3])


def test_a_rational_starts_close_to_a_leaky_relu() -> None:
    z = torch.linspace(-3, 3, 601)
    difference = (Rational(1)(z) - torch.nn.functional.leaky_relu(z)).abs()
    assert difference.max() < 0.035
    assert difference.mean() < 0.005


def test_learned_shapes_start_as_their_initialisers_say(build: Build) -> None:
    network = build(widths=[5, 4], activations=["pelu", "rational"])
    fresh = {
        name: network.initialisers[name].sample(value.shape, torch.Generator()) for name, value in network.named_parameters()
    }
    learned = {name: value for name, value in network.named_parameters() if ".learned." in name}
    assert len(learned) == 4
    assert all(torch.equal(value, fresh[name]) for name, value in learned.items())
