"""Small transformers: what they compute, that GPT does not look ahead, what their units are."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.transformer import GPTSpec, ViTSpec

VOCABULARY = 7


def gpt(**settings: Any) -> Network:
    spec = GPTSpec(**{"widths": [4], "residual_blocks": 2, "expansion": 3} | settings)
    return build_network(spec, (5,), torch.int64, HeadSpec("classification", VOCABULARY), 0)


def vit(**settings: Any) -> Network:
    spec = ViTSpec(**{"widths": [4], "residual_blocks": 1, "patch_size": 2} | settings)
    return build_network(spec, (2, 4, 6), torch.float32, HeadSpec("classification", 3), 0)


def tokens(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, 5), generator=torch.Generator().manual_seed(seed))


def unsettled(network: Network) -> dict[str, Tensor]:
    """Moves every parameter off its initial value; returns them by the last words of their names."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return {name.removeprefix("torso.").removeprefix("layers."): value for name, value in network.named_parameters()}


def naive_block(x: Tensor, p: dict[str, Tensor], name: str, heads: int, causal: bool) -> Tensor:
    width = x.shape[2]
    h = functional.layer_norm(x, (width,), p[f"{name}.before_attention.weight"], p[f"{name}.before_attention.bias"])
    h = functional.linear(h, p[f"{name}.attention.queries_keys_values.weight"], p[f"{name}.attention.queries_keys_values.bias"])
    queries, keys, values = h.split(width, dim=2)
    mixed = torch.zeros_like(x)
    size = width // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[:, :, part] @ keys[:, :, part].transpose(1, 2) / size**0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
        mixed[:, :, part] = scores.softmax(2) @ values[:, :, part]
    x = x + functional.linear(mixed, p[f"{name}.attention.outer.weight"], p[f"{name}.attention.outer.bias"])
    h = functional.layer_norm(x, (width,), p[f"{name}.before.weight"], p[f"{name}.before.bias"])
    h = functional.linear(h, p[f"{name}.inner.linear.weight"], p[f"{name}.inner.linear.bias"]).relu()
    return x + functional.linear(h, p[f"{name}.outer.weight"], p[f"{name}.outer.bias"])


def test_gpt_is_a_pre_norm_transformer() -> None:
    network = gpt()
    p = unsettled(network)
    x = p["embed.weight"][tokens()] + p["positions"]
    for block in ("block_1", "block_2"):
        x = naive_block(x, p, block, 2, causal=True)
    x = functional.layer_norm(x, (4,), p["final.weight"], p["final.bias"])
    expected = functional.linear(x, p["head.linear.weight"], p["head.linear.bias"])
    torch.testing.assert_close(network(tokens()), expected, rtol=1e-4, atol=1e-5)


def test_vit_averages_over_patches() -> None:
    network = vit()
    p = unsettled(network)
    images = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    x = functional.conv2d(images, p["embed.weight"], p["embed.bias"], 2).flatten(2).transpose(1, 2) + p["positions"]
    assert x.shape == (3, 6, 4)
    x = naive_block(x, p, "block_1", 2, causal=False)
    x = functional.layer_norm(x, (4,), p["final.weight"], p["final.bias"]).mean(1)
    expected = functional.linear(x, p["head.linear.weight"], p["head.linear.bias"])
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_gpt_does_not_look_ahead() -> None:
    network = gpt()
    unsettled(network)
    one, two = tokens(), tokens()
    two[:, 3] = (two[:, 3] + 1) % VOCABULARY
    outputs, others = network(one), network(two)
    assert torch.equal(outputs[:, :3], others[:, :3])
    assert not torch.equal(outputs[:, 3:], others[:, 3:])


def test_shorter_sequences_are_read_too() -> None:
    network = gpt()
    assert network(tokens()[:, :2]).shape == (3, 2, VOCABULARY)


def test_every_token_counts_as_an_example_of_a_unit() -> None:
    network = gpt()
    with network.taps.record():
        network(tokens())
    assert network.units.names == ("block_1", "block_2")
    assert {name: tuple(post.shape) for name, post in network.taps.post.items()} == {
        "block_1": (15, 12),
        "block_2": (15, 12),
        "stream": (15, 4),
    }
    assert [(units.name, units.units) for units in network.units.excluded] == [("stream", 4)]
    assert [block.name for block in network.blocks] == ["embed", "block_1", "block_2", "head"]


def test_embeddings_and_maps_start_with_deviation_002() -> None:
    network = build_network(GPTSpec(widths=[32], expansion=8), (16,), torch.int64, HeadSpec("classification", 100), 0)
    for name in ("torso.embed.weight", "torso.layers.block_1.inner.linear.weight", "torso.layers.block_1.attention.outer.weight"):
        assert float(network.tensor(name).detach().std()) == pytest.approx(0.02, rel=0.1), name
    assert not network.tensor("torso.layers.block_1.inner.linear.bias").any()
    assert (network.tensor("torso.final.weight") == 1).all()


def test_another_initialiser_can_be_asked_for() -> None:
    weight = gpt(initialiser="orthogonal").tensor("torso.layers.block_1.attention.outer.weight").detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (gpt, {"widths": [5]}, r"network.torso=gpt: widths=\[5\] must be a multiple of attention_heads=2"),
        (gpt, {"widths": [4, 4]}, "network.torso=gpt has one width, that of its stream"),
        (
            vit,
            {"patch_size": 3},
            r"vit needs images \(channels, height, width\) whose sides are multiples of network.patch_size=3",
        ),
        (gpt, {"attention_heads": 0}, "network.attention_heads=0 must be at least 1"),
    ],
)
def test_what_cannot_be_built(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
