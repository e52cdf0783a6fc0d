"""The units of anybody's module: which can be reset one by one, which cannot and why, and where their activations are seen."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from plasticity.adopt.layer import Layer
from plasticity.adopt.operations import Nonlinearity
from plasticity.adopt.ownership import exclude_foreign
from plasticity.adopt.reading import Reader
from plasticity.adopt.tracing import Forward, trace
from plasticity.networks.layers.activations import crelu
from plasticity.networks.units import ExcludedUnits, UnitGraph, UnitLayer, UnitSlice

_CRELU: Final = Nonlinearity("crelu", crelu)
_IDENTITY: Final = Nonlinearity("identity", lambda z: z)
_UNSEEN: Final = "no module of its own hands on what its non-linearity receives, so that it cannot be recorded"


@dataclass(frozen=True)
class Tap:
    """Where the activations of a layer are seen.

    Attributes:
        layer: Name of the layer.
        module: Name of the module whose output are its pre-activations, or whose input.
        by_input: Whether it is the input.
        nonlinearity: Makes post-activations of them.
        tokens: Whether units lie along the last axis, as those of a dense map do.
        behind: Name of the module that is the non-linearity and hands on post-activations with their graph, or None.
        read_by: Name of a map that gets them as they are, or None.
    """

    layer: str
    module: str
    by_input: bool
    nonlinearity: Nonlinearity
    tokens: bool
    behind: str | None = None
    read_by: str | None = None


@dataclass(frozen=True)
class Found:
    """What a forward of a module told.

    Attributes:
        units: The unit graph.
        taps: Where activations are seen, in forward order; of excluded units too, where that is possible.
        heads: Names of the maps behind which no other map comes.
        maps: Names of all maps, in forward order.
    """

    units: UnitGraph
    taps: tuple[Tap, ...]
    heads: tuple[str, ...]
    maps: tuple[str, ...]

    @classmethod
    def of(cls, layers: Mapping[str, Layer], maps: Sequence[str]) -> "Found":
        """Makes unit graph and taps of what was found out about maps.

        Args:
            layers: By name, in forward order; heads may be among them.
            maps: Names of all maps.
        """
        hidden = [layer for layer in layers.values() if layer.hidden or layer.consumers]
        for layer in hidden:
            _complete(layer)
        resettable = [_unit_layer(layer) for layer in hidden if not layer.reasons]
        excluded = [
            ExcludedUnits(_shown(layer.name), layer.units, "; ".join(layer.reasons), (layer.nonlinearity or _IDENTITY).name)
            for layer in hidden
            if layer.reasons
        ]
        taps = [tap for layer in hidden if (tap := _tap(layer)) is not None]
        heads = tuple(name for name in maps if name not in layers or layers[name] not in hidden)
        return cls(UnitGraph(tuple(resettable), tuple(excluded)), tuple(taps), heads, tuple(maps))

    def lines(self) -> list[str]:
        """Says what was found, layer by layer."""
        told = [f"{layer.name}: {layer.units} units, {layer.activation}" for layer in self.units.layers]
        return told + [f"{each.name}: {each.units} units are left alone: {each.reason}" for each in self.units.excluded]


def find_units(
    module: nn.Module, example: Any, forward: Forward | None, trained: Collection[int] | None = None, *, evaluated: bool = False
) -> Found:
    """Reads the unit graph from one forward in evaluation mode and one in training mode.

    Args:
        module: A user's module, left as it is.
        example: A tensor, a dict of tensors, or a tuple of several inputs; a batch of two or more tells most.
        forward: Called with module and inputs; None for the module itself.
        trained: ``id`` of the parameters that the optimizer trains; None for all that are not frozen.
        evaluated: Whether the module is used in evaluation mode alone, so that its other mode does not matter.

    Raises:
        ValueError: In one line with the user's file and line, if the forward cannot be traced or fails on the example.
    """
    layers = _read(module, example, forward, trained, training=False)
    if not evaluated:
        in_training = _read(module, example, forward, trained, training=True)
        for name, layer in layers.items():
            if not layer.reasons and layer.consumers and _reading(layer) != _reading(in_training.get(name)):
                layer.exclude("in training mode it is read otherwise than in evaluation mode")
    return Found.of(layers, list(layers))


def _read(
    module: nn.Module, example: Any, forward: Forward | None, trained: Collection[int] | None, *, training: bool
) -> dict[str, Layer]:
    """Returns every map of a forward in one mode."""
    reader = Reader(trace(module, example, forward, training))
    if reader.without_batch:
        raise ValueError(f"example= has no batch axis: {reader.without_batch} gets a vector; give it one, example[None]")
    exclude_foreign(reader.layers, module, trained, reader.direct)
    for layer in reader.layers.values():
        if layer.hidden or layer.consumers:
            _complete(layer)
    return reader.layers


def _reading(layer: Layer | None) -> tuple[Any, ...]:
    """Returns what has to be the same in both modes."""
    if layer is None:
        return ()
    nonlinearity = (layer.nonlinearity or _IDENTITY).name
    return layer.reasons, layer.consumers, layer.norms, layer.copies, layer.tap, layer.by_input, nonlinearity


def _complete(layer: Layer) -> None:
    """Notes what can be known only at the end of a forward."""
    if layer.copies == 2 and layer.nonlinearity is not None:
        layer.nonlinearity = _CRELU
    if not layer.reasons and not layer.consumers:
        layer.exclude("no map has columns of its own for its units")
    if not layer.reasons and layer.tap is None:
        layer.exclude(_UNSEEN)


def _tap(layer: Layer) -> Tap | None:
    nonlinearity, dense = layer.nonlinearity or _IDENTITY, isinstance(layer.module, nn.Linear)
    if layer.tap is None or not nonlinearity.name:
        return None
    single = layer.copies == 1
    behind, read_by = layer.behind if single else None, layer.read_by if single else None
    return Tap(_shown(layer.name), layer.tap, layer.by_input, nonlinearity, dense, behind, read_by)


def _unit_layer(layer: Layer) -> UnitLayer:
    prefix = f"{layer.name}." if layer.name else ""
    own: Any = layer.module
    bias = None if own.bias is None else UnitSlice(f"{prefix}bias", 0, layer.units)
    rows = 1 if isinstance(own, nn.modules.conv._ConvTransposeNd) else 0
    return UnitLayer(
        name=_shown(layer.name),
        units=layer.units,
        activation=(layer.nonlinearity or _IDENTITY).name,
        copies=layer.copies,
        weight=UnitSlice(f"{prefix}weight", rows, layer.units),
        bias=bias,
        norms=tuple(layer.norms),
        consumers=tuple(layer.consumers),
    )


def _shown(name: str) -> str:
    return name or "module"
