from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch

from plasticity.networks.layers.initialisers import Initialiser, fan_in, initialisers_for
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec

Build = Callable[..., Network]


def test_fan_in_by_hand() -> None:
    assert fan_in(torch.empty(5, 7)) == 7
    assert fan_in(torch.empty(5, 4, 3, 2)) == 24


@pytest.mark.parametrize(
    ("name", "shape", "gain", "weight", "bias"),
    [
        ("default", (5, 16), 2.0, Initialiser("uniform", 0.25), Initialiser("uniform", 0.25)),
        ("default", (5, 4, 2, 2), 2.0, Initialiser("uniform", 0.25), Initialiser("uniform", 0.25)),
        ("kaiming_uniform", (5, 12), 2.0, Initialiser("uniform", 1.0), Initialiser("constant", 0.0)),  # 2 sqrt(3/12)
        ("kaiming_uniform", (5, 3, 2, 2), 2.0, Initialiser("uniform", 1.0), Initialiser("constant", 0.0)),
        ("xavier_uniform", (4, 2), 9.0, Initialiser("uniform", 1.0), Initialiser("constant", 0.0)),  # sqrt(6/(2+4))
        ("xavier_uniform", (4, 2, 2, 2), 9.0, Initialiser("uniform", 0.5), Initialiser("constant", 0.0)),  # sqrt(6/(8+16))
        ("orthogonal", (5, 12), 2.0, Initialiser("orthogonal", 2.0), Initialiser("constant", 0.0)),
        ("absolute_default", (5, 16), 2.0, Initialiser("absolute_uniform", 0.25), Initialiser("absolute_uniform", 0.25)),
        ("absolute_kaiming_normal", (5, 16), 2.0, Initialiser("absolute_normal", 0.5), Initialiser("constant", 0.0)),  # 2 / 4
    ],
)
def test_bounds_by_hand(name: str, shape: tuple[int, ...], gain: float, weight: Initialiser, bias: Initialiser) -> None:
    for chosen, expected in zip(initialisers_for(name, torch.empty(shape), gain), (weight, bias), strict=True):
        assert chosen.kind == expected.kind
        assert chosen.scale == pytest.approx(expected.scale)


def test_uniform_fills_its_interval() -> None:
    sample = Initialiser("uniform", 0.5).sample(torch.Size([400, 500]), torch.Generator().manual_seed(0))
    assert sample.abs().max() <= 0.5
    assert sample.abs().max() > 0.4999
    assert sample.mean().item() == pytest.approx(0.0, abs=2e-3)
    assert sample.std().item() == pytest.approx(0.5 / sqrt(3), rel=1e-2)


def test_a_constant_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert Initialiser("constant", 0.5).sample(torch.Size([2, 2]), generator).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_absolute_values_are_those_of_the_same_draws(kind: str) -> None:
    drawn = [
        Initialiser(own, 0.5).sample(torch.Size([4, 3]), torch.Generator().manual_seed(1)) for own in (kind, f"absolute_{kind}")
    ]
    assert drawn[0].min() < 0
    assert torch.equal(drawn[1], drawn[0].abs())
    assert Initialiser(f"absolute_{kind}", 0.5).independent


def test_means_by_hand() -> None:
    # The mean of |x| is half the bound for a uniform x, and sqrt(2 / pi) = 0.7979 deviations for a normal one.
    for initialiser, mean in [
        (Initialiser("constant", 3.0), 3.0),
        (Initialiser("uniform", 2.0), 0.0),
        (Initialiser("orthogonal", 2.0), 0.0),
        (Initialiser("absolute_uniform", 2.0), 1.0),
        (Initialiser("absolute_normal", 2.0), 1.5958),
    ]:
        assert initialiser.mean == pytest.approx(mean, rel=1e-4)
        sample = initialiser.sample(torch.Size([300, 400]), torch.Generator().manual_seed(0))
        assert sample.mean().item() == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize("name", ["default", "kaiming_uniform", "kaiming_normal", "xavier_uniform"])
def test_with_absolute_values_every_unit_behind_the_first_layer_is_on_one_side(build: Build, name: str) -> None:
    settings: dict[str, Any] = {"torso": "conv", "channels": [3, 4], "widths": [6, 5], "normalisation": ["batch"]}
    plain = build((2, 8, 8), **settings, initialiser=name)
    network = build((2, 8, 8), **settings, initialiser=f"absolute_{name}")
    for path, parameter in network.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(path).abs())
    network = build((2, 8, 8), **settings | {"normalisation": []}, initialiser=f"absolute_{name}")
    with network.taps.record():
        network(torch.randn(20, 2, 8, 8, generator=torch.Generator().manual_seed(0)))
    first, *others = network.taps.pre.values()
    assert first.min() < 0
    assert len(others) == 3
    assert all(layer.min() > 0 for layer in others)


def test_there_are_no_absolute_orthogonal_values() -> None:
    with pytest.raises(ValueError, match=r"^network\.initialiser=absolute_orthogonal is unknown"):
        initialisers_for("absolute_orthogonal", torch.empty(3, 3), 1.0)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 2, 3, 3)])
def test_orthogonal_rows_or_columns(shape: tuple[int, ...]) -> None:
    weight = Initialiser("orthogonal", 2.0).sample(torch.Size(shape), torch.Generator().manual_seed(0)).flatten(1)
    small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    torch.testing.assert_close(small, 4 * torch.eye(len(small)), atol=1e-5, rtol=0)


def test_every_tensor_of_a_network_has_its_own_distribution(build: Build) -> None:
    network = build((2, 6, 6), torso="conv", channels=[3], widths=[10], initialiser="kaiming_uniform", normalisation=["layer"])
    relu = sqrt(2)
    scales = {
        "torso.layers.conv_1.linear.weight": relu * sqrt(3 / 18),  # 2 channels x 3 x 3
        "torso.layers.dense_1.linear.weight": relu * sqrt(3 / 48),  # 3 channels x 4 x 4 positions
        "head.linear.weight": sqrt(3 / 10),  # an output layer has gain 1
    }
    for name, parameter in network.named_parameters():
        initialiser = network.initialisers[name]
        if name in scales:
            assert (initialiser.kind, initialiser.scale) == ("uniform", pytest.approx(scales[name]))
            assert 0.8 * scales[name] < parameter.abs().max() <= scales[name]
        else:
            constant = 1.0 if name.endswith("weight") else 0.0
            assert initialiser == Initialiser("constant", constant)
            assert parameter.unique().tolist() == [constant]


def test_default_bias_has_the_bound_of_its_weight(build: Build) -> None:
    network = build((16,), widths=[200])
    bias = network.get_parameter("torso.layers.dense_1.linear.bias")
    assert 0.24 < bias.abs().max() <= 0.25
    assert bias.unique().numel() > 190


def test_crelu_has_the_gain_of_its_pair(build: Build) -> None:
    # relu(z)^2 + relu(-z)^2 = z^2, so CReLU keeps the mean square of a unit, spread over twice the channels.
    network = build((12,), widths=[4, 4], activations=["crelu"], initialiser="kaiming_uniform")
    assert network.initialisers["torso.layers.dense_1.linear.weight"].scale == pytest.approx(0.5)
    assert network.initialisers["torso.layers.dense_2.linear.weight"].scale == pytest.approx(sqrt(3 / 8))


@pytest.mark.parametrize("initialiser", ["default", "kaiming_uniform", "xavier_uniform", "orthogonal"])
@pytest.mark.parametrize(
    "added", [{"normalisation": ["layer"]}, {"normalisation": ["batch"]}, {"load_balancing": LoadBalancingSpec()}]
)
def test_added_layers_leave_the_other_initial_values_alone(build: Build, initialiser: str, added: dict[str, object]) -> None:
    settings = {"torso": "conv", "channels": [3, 3], "widths": [5], "initialiser": initialiser}
    plain = build((2, 8, 8), **settings).state_dict()
    more = build((2, 8, 8), **settings, **added).state_dict()
    assert set(plain) < set(more)
    assert all(torch.equal(value, more[name]) for name, value in plain.items())


def test_a_layer_more_leaves_the_earlier_ones_alone(build: Build) -> None:
    short, long = build(widths=[5]).state_dict(), build(widths=[5, 5]).state_dict()
    assert torch.equal(short["torso.layers.dense_1.linear.weight"], long["torso.layers.dense_1.linear.weight"])
    assert torch.equal(short["head.linear.weight"], long["head.linear.weight"])


def test_the_seed_decides(build: Build) -> None:
    first, again, other = (build(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not any(torch.equal(value, other[name]) for name, value in first.items())


def test_equal_shapes_get_different_values(build: Build) -> None:
    network = build((5,), widths=[5, 5])
    assert not torch.equal(
        network.tensor("torso.layers.dense_1.linear.weight"), network.tensor("torso.layers.dense_2.linear.weight")
    )


def test_the_global_generator_is_neither_read_nor_moved(build: Build) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = build(seed=3).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_fresh_is_the_same_network_with_other_values(build: Build) -> None:
    network = build(
        (2, 6, 6),
        HeadSpec("categorical", 2, 5, -1.0, 1.0),
        torso="conv",
        channels=[3],
        widths=[4],
        load_balancing=LoadBalancingSpec(),
    )
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    for buffer in network.buffers():
        buffer.add_(0.25)
    fresh = network.fresh(9).state_dict()
    assert {name: value.shape for name, value in fresh.items()} == {name: value.shape for name, value in trained.items()}
    buffers = {name for name, _ in network.named_buffers()}
    assert all(torch.equal(fresh[name], value) == (name in buffers) for name, value in trained.items())
    same = network.fresh(9).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in fresh.items())
