"""Units described by hand, of a module whose forward cannot be traced."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from plasticity.adopt.finding import Found
from plasticity.adopt.layer import Layer, norm_slices
from plasticity.adopt.operations import MAPS, NORMS, TRANSPOSED, Nonlinearity
from plasticity.adopt.ownership import exclude_foreign
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.units import Consumer, UnitSlice


@dataclass(frozen=True)
class UnitsOf:
    """The units of one map, as the user knows them.

    Attributes:
        map: Name of the map in the module, ``"encoder.fc1"``: a dense one or a convolution.
        activation: What they go through, a name that ``network.activations`` knows: ``relu``, ``tanh``, ``gelu`` ...
        readers: Names of all maps that read them, and nothing else does.
        norms: Names of the normalisation layers between the map and the activation, in order.
        positions: Consecutive inputs of a reader that are one unit: height x width where a convolution is flattened.
        offset: First input of a reader that is the first unit, where several layers are joined in front of it.
    """

    map: str
    activation: str
    readers: Sequence[str]
    norms: Sequence[str] = ()
    positions: int = 1
    offset: int = 0


def described(module: nn.Module, units: Sequence[UnitsOf], trained: Collection[int] | None) -> Found:
    """Returns what the user says of a module, checked against its shapes.

    Args:
        module: The module.
        units: In forward order.
        trained: As for ``find_units``.

    Raises:
        ValueError: In one line: a name is no map or norm of the module, or sizes do not fit.
    """
    layers: dict[str, Layer] = {}
    for entry in units:
        if not isinstance(entry, UnitsOf):
            raise ValueError(f"units= must be a list of UnitsOf(map, activation, readers), not {entry!r}")
        own = _named(module, entry.map, MAPS, "map")
        size = int(own.weight.shape[1 if isinstance(own, TRANSPOSED) else 0])
        activation = activation_named(entry.activation)
        nonlinearity = Nonlinearity(entry.activation, activation.function)
        layer = Layer(entry.map, own, size, nonlinearity, entry.norms[-1] if entry.norms else entry.map)
        layer.copies, layer.hidden = activation.copies, True
        for name in entry.norms:
            layer.norms += norm_slices(name, _named(module, name, NORMS, "normalisation layer"), size)
        layer.consumers = [_reader(module, entry, reader, size, activation.copies) for reader in entry.readers]
        layers[entry.map] = layer
    exclude_foreign(layers, module, trained)
    heads = {reader for entry in units for reader in entry.readers} - layers.keys()
    return Found.of(layers, [*layers, *sorted(heads)])


def _reader(module: nn.Module, entry: UnitsOf, name: str, units: int, copies: int) -> Consumer:
    own = _named(module, name, MAPS, "map")
    axis = 0 if isinstance(own, TRANSPOSED) else 1
    width, length = units * entry.positions, int(own.weight.shape[axis])
    if entry.offset + copies * width > length:
        raise ValueError(
            f"units=: {name} has {length} inputs, and {entry.map} has {units} units x {copies} x positions={entry.positions} "
            f"from offset={entry.offset} on"
        )
    offsets = tuple(entry.offset + copy * width for copy in range(copies))
    return Consumer(
        UnitSlice(f"{name}.weight", axis, units, offsets, entry.positions),
        None if own.bias is None or axis == 0 else f"{name}.bias",
    )


def _named(module: nn.Module, name: str, kinds: Any, what: str) -> Any:
    found = dict(module.named_modules()).get(name)
    if not isinstance(found, kinds):
        known = [path for path, each in module.named_modules() if isinstance(each, kinds)]
        raise ValueError(f"units=: {name} is no {what} of the module; it has {', '.join(known) or 'none'}")
    return found
