"""Small transformers: a vision transformer for images and a GPT for tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.layers.convolution import Convolution
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.registry import torso
from plasticity.networks.spec import HeadSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.residual import STREAM, BlocksSpec, stream_width
from plasticity.networks.torsos.torso import Stage, Torso
from plasticity.networks.units import ExcludedUnits
from plasticity.settings.fields import setting

_DEVIATION: Final = 0.02  # of embeddings and, unless another initialiser is chosen, of all maps (Radford et al. 2019)


@dataclass(frozen=True, kw_only=True)
class TransformerSpec(BlocksSpec):
    """What transformers share."""

    attention_heads: int = setting(2, "Heads of each attention.", low=1)

    def check(self) -> None:
        """Raises ValueError if sizes do not fit, or if there is more than one width or activation."""
        width = stream_width(self)
        if width % self.attention_heads:
            heads = f"attention_heads={self.attention_heads}"
            raise ValueError(f"network.torso={self.torso}: widths=[{width}] must be a multiple of {heads}")


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), causal or not."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.queries_keys_values, self.outer = nn.Linear(width, 3 * width), nn.Linear(width, width)

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
        inner: The hidden layer of the block's MLP; it receives every token as an example, (B * T, width).
        outer: The map back to the stream.
    """

    def __init__(self, name: str, spec: TransformerSpec, width: int, causal: bool) -> None:
        super().__init__()
        self.before_attention, self.before = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, spec.attention_heads, causal)
        self.inner = HiddenLayer(name, nn.Linear(width, width * spec.expansion), spec, spec.activations[0])
        self.outer = nn.Linear(width * spec.expansion * self.inner.activation.copies, width)

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

    def __init__(self, spec: TransformerSpec, embed: nn.Module, tokens: int, causal: bool) -> None:
        super().__init__()
        spec.check()
        width = spec.widths[0]
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        names = [f"block_{number}" for number in range(1, spec.residual_blocks + 1)]
        self.layers = nn.ModuleDict({name: TransformerBlock(name, spec, width, causal) for name in names})
        self.final, self.embed = nn.LayerNorm(width), embed
        self._blocks = tuple(block for block in self.layers.values() if isinstance(block, TransformerBlock))
        stages = [Stage(block.inner.name, (block,), block.inner, block.outer) for block in self._blocks]
        stages[-1] = replace(stages[-1], parts=(*stages[-1].parts, self.final))
        self.declare(width, [Stage("embed", (embed, self.positions)), *stages])

    def embedded(self, x: Tensor) -> Tensor:
        """Maps inputs to (B, T, width), without the positions."""
        raise NotImplementedError

    def stream(self, x: Tensor, taps: Taps | None) -> Tensor:
        """Runs the blocks on inputs; returns features."""
        x = self.embedded(x)
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        for block in self._blocks:
            x = block(x, taps)
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        """Normalises the stream, (B, T, width)."""
        finished: Tensor = self.final(x)
        return finished

    def excluded(self) -> list[ExcludedUnits]:
        """The stream."""
        return [ExcludedUnits(STREAM, self.features, "a unit of the residual stream is the sum of all blocks")]

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Normal with deviation 0.02 and biases of 0, or maps of ``kind`` if that is not ``default``."""
        chosen = super().initialisers(prefix, kind)
        for name, value in self.named_parameters():
            beginning = name.partition(".")[0] in ("embed", "positions")
            if beginning or (kind == "default" and ".learned." not in name):
                chosen[f"{prefix}.{name}"] = self._start(name, value)
        return chosen

    @staticmethod
    def _start(name: str, value: Tensor) -> Initialiser:
        if value.ndim > 1:
            return Initialiser("normal", _DEVIATION)
        return Initialiser("constant", 1.0 if name.endswith("weight") else 0.0)


class GPT(Transformer):
    """Tokens (B, T) int64 to features (B, T, width): for each token what follows it, from it and those before it."""

    reads_tokens: ClassVar[bool] = True

    def __init__(self, spec: TransformerSpec, tokens: int, vocabulary: int) -> None:
        super().__init__(spec, nn.Embedding(vocabulary, spec.widths[0]), tokens, causal=True)

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

    def __init__(self, spec: "ViTSpec", channels: int, patches: int) -> None:
        embed = Convolution(channels, spec.widths[0], spec.patch_size, spec.patch_size)
        super().__init__(spec, embed, patches, causal=False)

    def embedded(self, x: Tensor) -> Tensor:
        """Maps each patch."""
        patches: Tensor = self.embed(x)
        return patches.flatten(2).transpose(1, 2)

    def finish(self, x: Tensor) -> Tensor:
        """Normalises the stream and takes the mean over the patches."""
        return super().finish(x).mean(1)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, C, H, W) to (B, width)."""
        x = self.stream(x, taps)
        if taps is not None:
            taps.store(STREAM, x, x)
        return x


@torso("gpt")
@dataclass(frozen=True, kw_only=True)
class GPTSpec(TransformerSpec):
    """A GPT over as many kinds of tokens as the head has outputs."""

    scale: int = setting(
        1, "A square number, by whose root the width and the number of heads are multiplied (Farias and Jozefiak 2025).", low=1
    )

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> GPT:
        """Builds it; ValueError if inputs are not sequences, or the sizes do not fit."""
        if len(input_shape) != 1:
            raise ValueError(f"network.torso=gpt needs sequences of tokens, not inputs of shape {tuple(input_shape)}")
        return GPT(self._scaled(), input_shape[0], head.outputs)

    def _scaled(self) -> "GPTSpec":
        """Returns the same network at scale 1."""
        root = isqrt(self.scale)
        if root**2 != self.scale:
            raise ValueError(f"network.scale={self.scale} must be a square number, 1, 4, 9, 16 ...: its root multiplies widths")
        widths, heads = [root * width for width in self.widths], root * self.attention_heads
        return replace(self, widths=widths, attention_heads=heads, scale=1)


@torso("vit")
@dataclass(frozen=True, kw_only=True)
class ViTSpec(TransformerSpec):
    """A vision transformer (Dosovitskiy et al. 2021) that averages over its patches."""

    patch_size: int = setting(4, "Side of a patch, in pixels.", low=1)

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> ViT:
        """Builds it; ValueError if inputs are not images, or cannot be divided into patches."""
        side = self.patch_size
        if len(input_shape) != 3 or input_shape[1] % side or input_shape[2] % side:
            raise ValueError(
                "network.torso=vit needs images (channels, height, width) whose sides are multiples of "
                f"network.patch_size={side}, "
                f"not inputs of shape {tuple(input_shape)}"
            )
        return ViT(self, input_shape[0], input_shape[1] * input_shape[2] // side**2)
