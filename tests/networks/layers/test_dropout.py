from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from plasticity.networks.layers.dropout import Dropout, draw, dropout_layers, hashed, without_dropout
from plasticity.networks.network import Network

Build = Callable[..., Network]
SHAPE = (200, 50)


def drawn(rate: float = 0.5, seed: int = 0) -> Dropout:
    layer = Dropout(rate)
    draw([layer], torch.Generator().manual_seed(seed))
    return layer


def zeros(layer: Dropout, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return (layer(torch.ones(shape)) == 0).double()


def hashed_by_hand(first: int, second: int, place: int) -> int:
    bits = (place ^ first) * 0x21F0AAAD % 2**32
    return ((bits ^ bits >> 15) ^ second) * 0x735A2D97 % 2**32


def test_the_first_numbers_by_hand() -> None:
    # Words 0 and 0 mix place 0 to 0. Place 1: 1 * 569420461 is itself, shifted by 15 it is 17377, and the xor of the two is
    # 569436492; times 1935289751, modulo 2^32, that is 2262038484.
    assert hashed(torch.tensor([0, 0]), 2).tolist() == [0, 2262038484]


@pytest.mark.parametrize("words", [(0, 0), (1, 2), (2**32 - 1, 2**32 - 1), (123456789, 4000000000)])
def test_numbers_are_those_of_plain_integers(words: tuple[int, int]) -> None:
    numbers = hashed(torch.tensor(words), 1000).tolist()
    assert numbers == [hashed_by_hand(*words, place) for place in range(1000)]
    assert 0 <= min(numbers) < max(numbers) < 2**32


def test_activations_by_hand() -> None:
    layer = drawn(rate=0.75, seed=1)
    h = torch.tensor([[1.0, -2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    limit = 0.75 * 2**32
    kept = [hashed_by_hand(*layer.words.tolist(), place) >= limit for place in range(8)]
    assert 0 < sum(kept) < 8
    assert layer(h).flatten().tolist() == [
        4 * value if keep else 0.0 for value, keep in zip(h.flatten().tolist(), kept, strict=True)
    ]


def test_what_is_dropped_has_no_gradient() -> None:
    layer = drawn(rate=0.5)
    h = torch.ones(6, 5, requires_grad=True)
    out = layer(h)
    assert set(out.flatten().tolist()) == {0.0, 2.0}
    out.sum().backward()
    assert h.grad is not None
    assert torch.equal(h.grad, 2.0 * (out.detach() != 0))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate_in_every_unit_and_example(rate: float) -> None:
    dropped = torch.stack([zeros(drawn(rate, seed)) for seed in range(100)])
    for axes in [(0, 1, 2), (0, 1), (0, 2), (1, 2)]:
        shares = dropped.mean(axes)
        deviation = (rate * (1 - rate) / (dropped.numel() / shares.numel())) ** 0.5
        assert (shares - rate).abs().max() < 5 * deviation


def test_masks_are_not_correlated() -> None:
    """Between units, between examples, and between the updates of one unit."""
    dropped = torch.stack([zeros(drawn(0.5, seed)) for seed in range(100)])
    for rows in (dropped.flatten(0, 1).T, dropped.transpose(0, 1).flatten(1), dropped.flatten(1)):
        found = torch.corrcoef(rows) - torch.eye(len(rows))
        assert found.abs().max() < 5.5 / rows.shape[1] ** 0.5


def test_the_mean_over_masks_is_the_activation() -> None:
    h = torch.linspace(-1, 1, 50)
    mean = torch.stack([drawn(0.4, seed)(h) for seed in range(4000)]).mean(0)
    torch.testing.assert_close(mean, h, rtol=0, atol=0.07)  # 5 deviations of h sqrt(0.4 / 0.6 / 4000)


def test_evaluation_returns_its_input() -> None:
    layer = drawn().eval()
    h = torch.randn(4, 3)
    assert layer(h) is h


def test_the_mask_is_the_same_until_words_are_drawn() -> None:
    layer = drawn()
    first = zeros(layer)
    assert torch.equal(zeros(layer), first)
    assert torch.equal(zeros(deepcopy(layer)), first)
    draw([layer], torch.Generator().manual_seed(7))
    assert not torch.equal(zeros(layer), first)


def test_layers_of_one_network_have_masks_of_their_own(build: Build) -> None:
    network = build((3,), widths=[40, 40], dropout_rates=[0.5])
    layers = dropout_layers(network)
    draw(layers, torch.Generator().manual_seed(0))
    assert not torch.equal(*(zeros(layer, (10, 40)) for layer in layers))


def test_images_in_either_layout_have_one_mask_and_keep_their_layout() -> None:
    layer, images = drawn(), torch.randn(3, 4, 5, 6)
    flipped = layer(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(layer(images), flipped)
    assert flipped.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_stays(dtype: torch.dtype) -> None:
    out = drawn()(torch.ones(SHAPE, dtype=dtype))
    assert out.dtype == dtype
    assert torch.equal(out == 0, zeros(drawn()).bool())


def test_words_that_were_never_drawn_are_refused_in_training_alone(build: Build) -> None:
    network = build((3,), widths=[4], dropout_rates=[0.5])
    assert network.eval()(torch.ones(2, 3)).isfinite().all()
    with pytest.raises(ValueError, match=r"^network\.dropout_rates is what the method dropout sets; choose intervention="):
        network.train()(torch.ones(2, 3))


def test_a_copy_without_dropout_is_the_same_function_in_both_modes(build: Build) -> None:
    network = build((3,), widths=[30], dropout_rates=[0.5])
    draw(dropout_layers(network), torch.Generator().manual_seed(0))
    copy, x = deepcopy(network), torch.ones(2, 3)
    without_dropout(copy)
    assert torch.equal(copy.train()(x), network.eval()(x))
    assert not torch.equal(network.train()(x), network.eval()(x))


def test_it_sits_behind_the_pooling_and_the_taps(build: Build) -> None:
    network = build((1, 6, 6), torso="conv", channels=[2], pools=[2], widths=[9], dropout_rates=[0.5, 0.0])
    draw(dropout_layers(network), torch.Generator().manual_seed(0))
    x, (layer,) = torch.randn(5, 1, 6, 6), dropout_layers(network)
    entered: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with network.taps.record():
        network.eval()(x)
    whole = network.taps.post["conv_1"].clone()
    with network.taps.record():
        network.train()(x)
    assert torch.equal(network.taps.post["conv_1"], whole)
    assert torch.equal(entered[1], torch.nn.functional.max_pool2d(whole, 2))
    hidden = network.get_submodule("torso.layers.dense_1.linear")
    expected = torch.nn.functional.linear(layer(entered[1]).flatten(1), hidden.weight, hidden.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(network.taps.pre["dense_1"], expected)


@pytest.mark.parametrize("rates", [[0.2, 0.0, 0.4], [0.3]])
def test_each_layer_has_its_rate(build: Build, rates: list[float]) -> None:
    network = build((3,), widths=[4, 4, 4], dropout_rates=rates)
    found = [layer.rate for layer in dropout_layers(network)]
    assert found == ([0.2, 0.4] if len(rates) == 3 else [0.3] * 3)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"widths": [4, 4], "dropout_rates": [0.1] * 3}, (3,), "network.dropout_rates has 3 entries; give 1 or 2"),
        (
            {"torso": "simba", "widths": [4], "dropout_rates": [0.1, 0.2]},
            (3,),
            "network.torso=simba takes one of network.dropout",
        ),
        (
            {"torso": "resnet18", "channels": [4], "widths": [], "dropout_rates": [0.1, 0.2]},
            (3, 6, 6),
            "network.torso=resnet18 takes one of network.dropout_rates",
        ),
        ({"widths": [4], "dropout_rates": [1.0]}, (3,), r"network\.dropout_rates=1\.0 must be at least 0 and below 1"),
    ],
)
def test_rates_that_do_not_fit(build: Build, settings: dict[str, object], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(shape, **settings)
