"""Small transformers: a vision transformer for images and a GPT for tokens."""

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.heads.head import Readers
from plasticity.networks.layers.convolution import Convolution
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.noisy import map_initialisers
from plasticity.networks.layers.product import Dense
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.torso import Torso
from plasticity.networks.units import ExcludedUnits, UnitLayer

STREAM: Final = "stream"
_DEVIATION: Final = 0.02  # of embeddings and, unless another initialiser is asked for, of all maps (Radford et al. 2019)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), causal or not."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.queries_keys_values, self.outer = Dense(width, 3 * width), Dense(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, width) to the same shape."""
        batch, tokens, width = x.shape
        parts = self.queries_keys_values(x.flatten(0, 1)).view(batch, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        mapped: Tensor = self.outer(mixed.transpose(1, 2).reshape(batch * tokens, width))
        return mapped.view(batch, tokens, width)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + outer(inner(norm(x))): normalisation first.

    Attributes:
        inner: The hidden layer of the block's MLP; it sees every token as an example, (B * T, width).
        outer: The map back to the stream.
    """

    def __init__(self, name: str, spec: NetworkSpec, width: int, causal: bool) -> None:
        super().__init__()
        self.before_attention, self.before = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, spec.attention_heads, causal)
        self.inner = HiddenLayer(name, Dense(width, width * spec.expansion), spec, spec.activations[0])
        self.outer = Dense(width * spec.expansion * self.inner.activation.copies, width)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, T, width) to the same shape."""
        x = x + self.attention(self.before_attention(x))
        tokens = self.before(x).flatten(0, 1)
        added: Tensor = self.outer(self.inner(tokens, taps))
        return x + added.view_as(x)


class Transformer(Torso):
    """Blocks over a stream of tokens; the units inside the blocks' MLPs, ``block_1`` ..., are resettable, the stream is not.

    Attributes:
        positions: (T, width) learned embedding of the place, added at the start.
    """

    def __init__(self, spec: NetworkSpec, tokens: int, causal: bool) -> None:
        super().__init__()
        _check(spec)
        self.features = spec.widths[0]
        self.positions = nn.Parameter(torch.zeros(tokens, self.features))
        names = [f"block_{number}" for number in range(1, spec.residual_blocks + 1)]
        self.layers = nn.ModuleDict({name: TransformerBlock(name, spec, self.features, causal) for name in names})
        self.final = nn.LayerNorm(self.features)
        self._blocks = tuple(block for block in self.layers.values() if isinstance(block, TransformerBlock))
        self.hidden = tuple(block.inner for block in self._blocks)

    def embedded(self, x: Tensor) -> Tensor:
        """Maps inputs to (B, T, width), without the positions."""
        raise NotImplementedError

    def stream(self, x: Tensor, taps: Taps | None) -> Tensor:
        """Runs the blocks on inputs; returns (B, T, width)."""
        x = self.embedded(x)
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        for block in self._blocks:
            x = block(x, taps)
        tokens: Tensor = self.final(x)
        return tokens

    def unit_layers(self, prefix: str, readers: Readers) -> list[UnitLayer]:
        """Describes the units of the MLPs, each read by the map back to the stream."""
        described = []
        for block in self._blocks:
            path = f"{prefix}.layers.{block.inner.name}"
            described.append(block.inner.unit_layer(f"{path}.inner", (block.inner.read_by(f"{path}.outer", block.outer),)))
        return described

    def excluded(self) -> list[ExcludedUnits]:
        """The stream."""
        return [ExcludedUnits(STREAM, self.features, "a unit of the residual stream is the sum of all blocks")]

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Normal with deviation 0.02 and biases of 0, or maps of ``kind`` if that is not ``default``."""
        chosen = {f"{prefix}.{name}": self._start(name, value) for name, value in self.named_parameters()}
        for block in self._blocks:
            path = f"{prefix}.layers.{block.inner.name}"
            if kind != "default":
                chosen |= block.inner.initialisers(f"{path}.inner", kind)
                attention = block.attention
                for name, linear in (("queries_keys_values", attention.queries_keys_values), ("outer", attention.outer)):
                    chosen |= map_initialisers(f"{path}.attention.{name}", linear, kind, 1.0)
                chosen |= map_initialisers(f"{path}.outer", block.outer, kind, 1.0)
            elif block.inner.learned is not None:
                learned = block.inner.learned.initialisers()
                chosen |= {f"{path}.inner.learned.{name}": start for name, start in learned.items()}
        return chosen

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """The embeddings, each block, and the last normalisation with the last block."""
        named = {name: (f"{prefix}.layers.{name}",) for name in self.layers}
        last = next(reversed(named))
        return {"embed": (f"{prefix}.embed", f"{prefix}.positions"), **named, last: (*named[last], f"{prefix}.final")}

    @staticmethod
    def _start(name: str, value: Tensor) -> Initialiser:
        if value.ndim > 1:
            return Initialiser("normal", _DEVIATION)
        return Initialiser("constant", 1.0 if name.endswith("weight") else 0.0)


class GPT(Transformer):
    """Tokens (B, T) int64 to features (B, T, width): what comes after each token, from it and those before it."""

    reads_tokens: ClassVar[bool] = True

    def __init__(self, spec: NetworkSpec, tokens: int, vocabulary: int) -> None:
        super().__init__(spec, tokens, causal=True)
        self.embed = nn.Embedding(vocabulary, self.features)

    def embedded(self, x: Tensor) -> Tensor:
        """Looks the tokens up."""
        looked_up: Tensor = self.embed(x)
        return looked_up

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, T) to (B, T, width)."""
        x = self.stream(x, taps)
        if taps is not None:
            flat = x.flatten(0, 1)
            taps.store(STREAM, flat, flat)
        return x


class ViT(Transformer):
    """Images to features (B, width): the mean over the patches."""

    def __init__(self, spec: NetworkSpec, channels: int, side: tuple[int, int]) -> None:
        super().__init__(spec, side[0] * side[1] // spec.patch_size**2, causal=False)
        self.embed = Convolution(channels, self.features, spec.patch_size, spec.patch_size)

    def embedded(self, x: Tensor) -> Tensor:
        """Maps each patch."""
        patches: Tensor = self.embed(x)
        return patches.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, C, H, W) to (B, width)."""
        x = self.stream(x, taps).mean(1)
        if taps is not None:
            taps.store(STREAM, x, x)
        return x


def gpt(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> GPT:
    """Builds a GPT over as many kinds of tokens as the head has outputs.

    Raises:
        ValueError: If inputs are no sequences, or the sizes do not fit.
    """
    if len(input_shape) != 1:
        raise ValueError(f"network.torso=gpt needs sequences of tokens, not inputs of shape {tuple(input_shape)}")
    return GPT(spec, input_shape[0], head.outputs)


def vit(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> ViT:
    """Builds a vision transformer (Dosovitskiy et al. 2021) that averages over its patches.

    Raises:
        ValueError: If inputs are no images, or cannot be divided into patches.
    """
    if len(input_shape) != 3 or input_shape[1] % spec.patch_size or input_shape[2] % spec.patch_size:
        raise ValueError(
            "network.torso=vit needs images (channels, height, width) whose sides are multiples of "
            f"network.patch_size={spec.patch_size}, "
            f"not inputs of shape {tuple(input_shape)}"
        )
    return ViT(spec, input_shape[0], (input_shape[1], input_shape[2]))


def _check(spec: NetworkSpec) -> None:
    name = f"network.torso={spec.torso}"
    if len(spec.widths) != 1 or len(spec.activations) != 1:
        raise ValueError(
            f"{name} has one width, that of its stream, and one activation, not widths={list(spec.widths)} and "
            f"activations={list(spec.activations)}"
        )
    if spec.widths[0] % spec.attention_heads:
        raise ValueError(f"{name}: widths=[{spec.widths[0]}] must be a multiple of attention_heads={spec.attention_heads}")
    if spec.spectral_layers or spec.normalised_layers:
        raise ValueError(f"{name} does not work with spectral_layers or normalised_layers")
