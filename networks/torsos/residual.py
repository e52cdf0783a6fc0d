"""Residual torsos of dense layers: SimBa and BroNet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Final

from torch import Tensor, nn

from plasticity.networks.layers.activations import activation_named
from plasticity.networks.layers.initialisers import Initialiser, fan_in
from plasticity.networks.layers.noisy import NoisyLinear, dense
from plasticity.networks.registry import torso
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.torso import Stage, Torso
from plasticity.networks.units import ExcludedUnits
from plasticity.settings.fields import setting

STREAM: Final = "stream"
EMBEDDING: Final = "embed"


class ResidualBlock(nn.Module):
    """x + after(outer(inner(before(x)))), where only the inner units are its own.

    Attributes:
        before: Normalisation of the block's input, or nothing.
        inner: The hidden layer.
        outer: The map back to the stream.
        after: Normalisation of what is added, or nothing.
    """

    def __init__(self, width: int, inner: HiddenLayer, outer: nn.Linear, before: bool, after: bool) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width) if before else nn.Identity()
        self.inner, self.outer = inner, outer
        self.after = nn.LayerNorm(width) if after else nn.Identity()

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, width) to the same shape."""
        added: Tensor = self.after(self.outer(self.inner(self.before(x), taps)))
        return x + added


class ResidualTorso(Torso):
    """A map onto a stream, blocks that add to it, and what is done to it at the end.

    The units of the stream are sums over all blocks: they have no incoming weights of their own and are excluded from the unit
    graph. Each block's inner units, ``block_1`` ..., are resettable.

    Args:
        embed: The map onto the stream, a sequence that begins with a dense map; a non-linearity at its end is tapped as
            ``embed``.
        blocks: In forward order.
        final: Normalisation of the stream at the end, or nothing.
        published: Initial distribution of a dense map's weight, unless the network chooses another kind than ``default``.
    """

    def __init__(
        self, embed: nn.Sequential, blocks: Sequence[ResidualBlock], final: nn.Module, published: Callable[[Tensor], Initialiser]
    ) -> None:
        super().__init__()
        self.embed, self.final, self._published = embed, final, published
        self.layers = nn.ModuleDict({block.inner.name: block for block in blocks})
        self._blocks = tuple(blocks)
        stages = [Stage(block.inner.name, (block,), block.inner, block.outer) for block in blocks]
        stages[-1] = replace(stages[-1], parts=(*stages[-1].parts, final))
        first = embed[0]
        assert isinstance(first, nn.Linear)
        self.declare(first.out_features, [Stage(EMBEDDING, (embed,)), *stages])

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, ...) to (B, width)."""
        x = self._embedded(x.flatten(1), taps)
        for block in self._blocks:
            x = block(x, taps)
        x = self.finish(x)
        if taps is not None:
            taps.store(STREAM, x, x)
        return x

    def finish(self, x: Tensor) -> Tensor:
        """Normalises the stream."""
        finished: Tensor = self.final(x)
        return finished

    def _embedded(self, x: Tensor, taps: Taps | None) -> Tensor:
        for module in self.embed:
            z, x = x, module(x)
            if taps is not None and isinstance(module, Pointwise):
                taps.store(EMBEDDING, z, x)
        return x

    def excluded(self) -> list[ExcludedUnits]:
        """The stream, and the units of the embedding if they have a non-linearity."""
        last = self.embed[-1]
        reason = "a unit of the embedding is what the residual stream starts with"
        embedded = [ExcludedUnits(EMBEDDING, self.features, reason, last.name)] if isinstance(last, Pointwise) else []
        return [*embedded, ExcludedUnits(STREAM, self.features, "a unit of the residual stream is the sum of all blocks")]

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Weights as published with biases of 0, or all of ``kind`` if that is not ``default``."""
        chosen = super().initialisers(prefix, kind)
        maps = [(path, module) for path, module in self.named_modules(prefix=prefix) if isinstance(module, nn.Linear)]
        for path, linear in maps if kind == "default" else []:
            chosen[f"{path}.weight"] = self._published(linear.weight)
            if linear.bias is not None:
                chosen[f"{path}.bias"] = Initialiser("constant", 0.0)
            if isinstance(linear, NoisyLinear) and not path.endswith(".inner.linear"):
                deviations = ("weight_deviation", "bias_deviation")
                chosen |= {f"{path}.{name}": Initialiser("constant", 0.0) for name in deviations}
        return chosen


@dataclass(frozen=True, kw_only=True)
class BlocksSpec(NetworkSpec):
    """What torsos of blocks on a stream share."""

    sizes: ClassVar[tuple[str, ...]] = ("widths", "residual_blocks")

    residual_blocks: int = setting(2, "Blocks.", low=1)
    expansion: int = setting(4, "Inner units of a block for each unit of the stream.", low=1)

    def least_weights(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Counts the two maps of each block."""
        weights, layers = super().least_weights(input_shape)
        width = self.widths[0] if self.widths else 0
        return weights + 2 * self.residual_blocks * self.expansion * width**2, layers + self.residual_blocks


@torso("simba")
@dataclass(frozen=True, kw_only=True)
class SimbaSpec(BlocksSpec):
    """SimBa (Lee et al. 2025): a map, blocks x + map(activation(map(norm(x)))), a normalisation; inputs should be normalised.

    The embedding starts orthogonal, the blocks' maps He-normal.
    """

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> ResidualTorso:
        """Builds the residual torso."""
        width, noise = stream_width(self), head.noise_deviation
        embed = nn.Sequential(dense(prod(input_shape), width, noise))

        def published(weight: Tensor) -> Initialiser:
            return (
                Initialiser("orthogonal", 1.0)
                if weight is embed[0].weight
                else Initialiser("normal", (2 / fan_in(weight)) ** 0.5)
            )

        return ResidualTorso(embed, _blocks(self, width, self, noise, before=True), nn.LayerNorm(width), published)


@torso("bro")
@dataclass(frozen=True, kw_only=True)
class BroSpec(BlocksSpec):
    """BroNet (Nauman et al. 2024): map, norm, activation, then blocks x + norm(map(activation(norm(map(x))))).

    All maps start orthogonal with gain sqrt(2). The paper's blocks are as wide as the stream, network.expansion=1.
    """

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> ResidualTorso:
        """Builds the residual torso."""
        width, noise = stream_width(self), head.noise_deviation
        normalised = replace(
            self, normalisation=["layer", *(name for name in self.normalisation if not name.startswith("layer"))]
        )
        activation = activation_named(self.activations[0])
        if activation.copies > 1 or activation.learned:
            raise ValueError(
                f"network.torso=bro takes activations of one output per unit, none that is learned, not {self.activations[0]}"
            )
        embed = nn.Sequential(dense(prod(input_shape), width, noise), nn.LayerNorm(width), Pointwise(self.activations[0]))
        blocks = _blocks(self, width, normalised, noise, before=False)
        return ResidualTorso(embed, blocks, nn.Identity(), lambda weight: Initialiser("orthogonal", 2**0.5))


class Pointwise(nn.Module):
    """An activation as a module.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.function = name, activation_named(name).function

    def forward(self, x: Tensor) -> Tensor:
        """Applies it."""
        return self.function(x)


def _blocks(spec: BlocksSpec, width: int, inner: NetworkSpec, noise: float, before: bool) -> list[ResidualBlock]:
    units = width * spec.expansion
    made = []
    for number in range(1, spec.residual_blocks + 1):
        layer = HiddenLayer(f"block_{number}", dense(width, units, noise), inner, spec.activations[0])
        outer = dense(units * layer.activation.copies, width, noise)
        made.append(ResidualBlock(width, layer, outer, before=before, after=not before))
    return made


def stream_width(spec: NetworkSpec) -> int:
    """Returns the width of a residual torso's stream; ValueError if there are several, or a setting that the torso lacks."""
    if len(spec.widths) != 1 or len(spec.activations) != 1:
        raise ValueError(
            f"network.torso={spec.torso} has one width, that of its stream, and one activation, "
            f"not widths={list(spec.widths)} and activations={list(spec.activations)}"
        )
    if len(spec.dropout_rates) > 1:
        raise ValueError(f"network.torso={spec.torso} takes one of network.dropout_rates, not {list(spec.dropout_rates)}")
    if spec.spectral_layers or spec.normalised_layers:
        raise ValueError(f"network.torso={spec.torso} does not work with spectral_layers or normalised_layers")
    return spec.widths[0]
