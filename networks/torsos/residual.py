"""Residual torsos of dense layers: SimBa and BroNet."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Final

from torch import Tensor, nn

from plasticity.networks.heads.head import Readers
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.layers.initialisers import Initialiser, fan_in
from plasticity.networks.layers.noisy import dense, map_initialisers
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.torso import Torso
from plasticity.networks.units import ExcludedUnits, UnitLayer

STREAM: Final = "stream"
EMBEDDING: Final = "embed"


class ResidualBlock(nn.Module):
    """x + after(outer(inner(before(x)))), the inner units being the only ones of their own.

    Attributes:
        before: Normalisation of what enters, or nothing.
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
    """A map onto a stream, blocks that add to it, and what is done to it in the end.

    The units of the stream are sums over all blocks: they have no incoming weights of their own and are excluded from the unit
    graph. Each block's inner units, ``block_1`` ..., are resettable.

    Args:
        embed: The map onto the stream, a sequence that begins with a dense map; a non-linearity at its end is tapped as
            ``embed``.
        blocks: In forward order.
        final: Normalisation of the stream in the end, or nothing.
        published: Initial distribution of a dense map's weight, unless the network asks for another kind than ``default``.
    """

    def __init__(
        self, embed: nn.Sequential, blocks: Sequence[ResidualBlock], final: nn.Module, published: Callable[[Tensor], Initialiser]
    ) -> None:
        super().__init__()
        self.embed, self.final, self._published = embed, final, published
        self.layers = nn.ModuleDict({block.inner.name: block for block in blocks})
        self.hidden = tuple(block.inner for block in blocks)
        self._blocks = tuple(blocks)
        self.features = _dense_of(embed).out_features

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, ...) to (B, width)."""
        x = self._embedded(x.flatten(1), taps)
        for block in self._blocks:
            x = block(x, taps)
        x = self.final(x)
        if taps is not None:
            taps.store(STREAM, x, x)
        return x

    def _embedded(self, x: Tensor, taps: Taps | None) -> Tensor:
        for module in self.embed:
            z, x = x, module(x)
            if taps is not None and isinstance(module, Pointwise):
                taps.store(EMBEDDING, z, x)
        return x

    def unit_layers(self, prefix: str, readers: Readers) -> list[UnitLayer]:
        """Describes the inner units, each block's read by its outer map."""
        described = []
        for block in self._blocks:
            path = f"{prefix}.layers.{block.inner.name}"
            described.append(block.inner.unit_layer(f"{path}.inner", (block.inner.read_by(f"{path}.outer", block.outer),)))
        return described

    def excluded(self) -> list[ExcludedUnits]:
        """The stream, and the units of the embedding if they have a non-linearity."""
        last = self.embed[-1]
        reason = "a unit of the embedding is what the residual stream begins with"
        embedded = [ExcludedUnits(EMBEDDING, self.features, reason, last.name)] if isinstance(last, Pointwise) else []
        return [*embedded, ExcludedUnits(STREAM, self.features, "a unit of the residual stream is the sum of all blocks")]

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Weights as published with biases of 0, or all of ``kind`` if that is not ``default``."""
        chosen = {
            f"{prefix}.{name}": Initialiser("constant", 1.0 if name.endswith("weight") else 0.0)
            for name, _ in self.named_parameters()
        }
        maps = {f"{prefix}.embed.0": _dense_of(self.embed)}
        for block in self._blocks:
            path = f"{prefix}.layers.{block.inner.name}"
            chosen |= block.inner.initialisers(f"{path}.inner", kind)
            assert isinstance(block.inner.linear, nn.Linear)
            maps |= {f"{path}.inner.linear": block.inner.linear, f"{path}.outer": block.outer}
        for path, linear in maps.items():
            inner = path.endswith(".inner.linear")
            if kind == "default":
                chosen |= {f"{path}.weight": self._published(linear.weight), f"{path}.bias": Initialiser("constant", 0.0)}
            elif not inner:
                chosen |= map_initialisers(path, linear, kind, 1.0)
        return chosen

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """The embedding, each block, and what follows them with the last."""
        named = {name: (f"{prefix}.layers.{name}",) for name in self.layers}
        last = next(reversed(named))
        return {"embed": (f"{prefix}.embed",), **named, last: (*named[last], f"{prefix}.final")}


def simba(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> ResidualTorso:
    """SimBa (Lee et al. 2025): a map, blocks x + map(activation(map(norm(x)))), a normalisation; inputs should be normalised.

    The embedding starts orthogonal, the blocks' maps He-normal.
    """
    width = stream_width(spec)
    embed = nn.Sequential(dense(prod(input_shape), width, head.noise_deviation))

    def published(weight: Tensor) -> Initialiser:
        return Initialiser("orthogonal", 1.0) if weight is embed[0].weight else Initialiser("normal", (2 / fan_in(weight)) ** 0.5)

    return ResidualTorso(embed, _blocks(spec, width, spec, head.noise_deviation, before=True), nn.LayerNorm(width), published)


def bro(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> ResidualTorso:
    """BroNet (Nauman et al. 2024): map, norm, activation, then blocks x + norm(map(activation(norm(map(x))))).

    All maps start orthogonal with gain sqrt(2). The paper's blocks are as wide as the stream, network.expansion=1.
    """
    width = stream_width(spec)
    normalised = replace(spec, normalisation=["layer", *(name for name in spec.normalisation if not name.startswith("layer"))])
    activation = activation_named(spec.activations[0])
    if activation.copies > 1 or activation.learned:
        raise ValueError(
            f"network.torso=bro takes activations of one output per unit, none that is learned, not {spec.activations[0]}"
        )
    embed = nn.Sequential(
        dense(prod(input_shape), width, head.noise_deviation), nn.LayerNorm(width), Pointwise(spec.activations[0])
    )
    blocks = _blocks(spec, width, normalised, head.noise_deviation, before=False)
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


def _blocks(spec: NetworkSpec, width: int, inner: NetworkSpec, noise: float, before: bool) -> list[ResidualBlock]:
    units = width * spec.expansion
    made = []
    for number in range(1, spec.residual_blocks + 1):
        layer = HiddenLayer(f"block_{number}", dense(width, units, noise), inner, spec.activations[0])
        outer = dense(units * layer.activation.copies, width, noise)
        made.append(ResidualBlock(width, layer, outer, before=before, after=not before))
    return made


def stream_width(spec: NetworkSpec) -> int:
    """Returns the width of a residual torso's stream; ValueError if there are several, or what such a torso does not have."""
    if len(spec.widths) != 1 or len(spec.activations) != 1:
        raise ValueError(
            f"network.torso={spec.torso} has one width, that of its stream, and one activation, "
            f"not widths={list(spec.widths)} and activations={list(spec.activations)}"
        )
    if spec.spectral_layers or spec.normalised_layers:
        raise ValueError(f"network.torso={spec.torso} does not work with spectral_layers or normalised_layers")
    return spec.widths[0]


def _dense_of(embed: nn.Sequential) -> nn.Linear:
    first = embed[0]
    assert isinstance(first, nn.Linear)
    return first
