"""Frozen companions of a network's last layers, for plasticity injection."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plasticity.networks.heads.head import Head
from plasticity.networks.layers.dropout import WORDS
from plasticity.networks.layers.spectral_normalisation import SpectralNormalisation
from plasticity.networks.torsos.torso import Torso
from plasticity.networks.units import Consumer, UnitLayer


class Tail(nn.Module):
    """The last layers of a network as a function of their input: the last layers or blocks of its torso, and its head.

    Its modules are those of the network itself, under other names.

    Args:
        torso: The torso, whose ``layers`` are hidden layers or blocks by name.
        head: The head.
        layers: How many layers, counted from the output as ``Network.blocks`` counts them.

    Raises:
        ValueError: If there are fewer than that, if the head has more, or if none has hidden units.
    """

    def __init__(self, torso: Torso, head: Head, layers: int) -> None:
        super().__init__()
        available, own = list(_layers(torso)), len(head.blocks("head"))
        least, most = max(2, own), len(available) + own
        if not least <= layers <= most:
            raise ValueError(
                f"injected layers={layers} must be from {least}, the head and a hidden layer, to {most}, all there are"
            )
        self.layers = nn.ModuleList(available[len(available) - (layers - own) :])
        self.final = getattr(torso, "final", nn.Identity())
        self.head = head
        self._torso = (torso,)  # in a tuple, so that its other modules are not the tail's
        if any(isinstance(module, SpectralNormalisation) for module in self.modules()):
            raise ValueError("injected layers cannot have spectral normalisation; choose other network.spectral_layers")

    def forward(self, x: Tensor) -> Tensor:
        """Maps the input of the first of these layers to outputs."""
        for layer in self.layers:
            dense = isinstance(getattr(layer, "linear", None), nn.Linear)
            x = layer(x.flatten(1) if dense and x.ndim > 2 else x)
        if len(self.layers):
            x = self._torso[0].finish(x)
        outputs: Tensor = self.head(x)
        return outputs


class Switch:
    """A switch that a network and all copies of it share.

    Attributes:
        on: Whether it is on.
    """

    def __init__(self) -> None:
        self.on = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Switch":
        """Copies of a network share the original's."""
        return self


class Injection(nn.Module):
    """Adds frozen(x) - fresh(x) to a tail's outputs, frozen and fresh being the tail with other values.

    Both are held as buffers and start at 0, where nothing is added. ``inject`` moves the tail's values to ``frozen`` and gives
    both the tail and ``fresh`` the same new ones: frozen(x) + (tail(x) - fresh(x)) is what the tail was.
    Noise and the masks of dropout are shared by all three. Normalisation by batches keeps statistics of its own in each.

    Attributes:
        active: On from the first injection into the network or one of its copies; off while there is nothing to compute. It is
            not among the buffers: a caller that loads those of an injected network must turn it on.
    """

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self._tail = (tail,)  # in a tuple, so that it is not registered a second time
        self.active = Switch()
        self._names = [name for name, _ in _values(tail)]
        self._parameters_named = frozenset(name for name, _ in tail.named_parameters())
        for name, value in _values(tail):
            for kind in ("frozen", "fresh"):
                self.register_buffer(buffer_name(kind, name), torch.zeros_like(value))

    def forward(self, x: Tensor, live: Tensor) -> Tensor:
        """Returns frozen(x) + (live - fresh(x)).

        Args:
            x: What enters the tail.
            live: The tail's output for it.
        """
        return self._with("frozen", x) + (live - self._with("fresh", x))

    @contextmanager
    def entering(self) -> Iterator[list[Tensor]]:
        """Gives a list that holds what entered the tail's layers in the torso, if there are any, after a forward of the torso."""
        entered: list[Tensor] = []
        layers = self._tail[0].layers
        handles = [layer.register_forward_pre_hook(lambda _, args: entered.append(args[0])) for layer in layers[:1]]
        try:
            yield entered
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def inject(self, other: "Injection") -> None:
        """Freezes the tail as it is, and gives it the values of another network's tail to start again from.

        Args:
            other: That of a network of the same shape; parameters and buffers of its tail are copied.
        """
        tail, fresh = dict(_values(self._tail[0])), dict(_values(other._tail[0]))
        for name, value in tail.items():
            self.get_buffer(buffer_name("frozen", name)).copy_(value)
            self.get_buffer(buffer_name("fresh", name)).copy_(fresh[name])
            value.copy_(fresh[name])
        self.active.on = True

    def _with(self, kind: str, x: Tensor) -> Tensor:
        # Parameters, since dense maps choose their kernel by the type, and the difference of live and fresh is to be exactly 0.
        values = {}
        for name in self._names:
            value = self.get_buffer(buffer_name(kind, name))
            values[name] = nn.Parameter(value, requires_grad=False) if name in self._parameters_named else value
        outputs: Tensor = functional_call(self._tail[0], values, (x,))
        return outputs

    def trained(self) -> list[nn.Parameter]:
        """Returns the parameters of the tail."""
        return list(self._tail[0].parameters())

    def names(self, prefixes: Mapping[int, str]) -> dict[str, str]:
        """Returns the name within the tail of each of its tensors by its name in the network.

        Args:
            prefixes: Names in the network by the id of the tensor.
        """
        return {prefixes[id(value)]: name for name, value in _values(self._tail[0])}


def injections(network: nn.Module) -> list[Injection]:
    """Returns those of a network: one, or one for each member of an ensemble."""
    return [module for module in network.modules() if isinstance(module, Injection)]


def buffer_name(kind: str, name: str) -> str:
    """Returns the name of the buffer that holds a ``frozen`` or ``fresh`` value of the tail's tensor ``name``."""
    return f"{kind}_{name.replace('.', '_')}"


def with_companions(layers: Sequence[UnitLayer], names: Mapping[str, str], prefix: str) -> list[UnitLayer]:
    """Adds the frozen companions to the readers of the units that enter a tail.

    Args:
        layers: Of the network without companions.
        names: ``Injection.names``.
        prefix: Path of the injection in the network.
    """
    described = []
    for layer in layers:
        inside = layer.weight.tensor in names
        readers = layer.consumers if inside else tuple(_accompanied(reader, names, prefix) for reader in layer.consumers)
        described.append(replace(layer, consumers=readers))
    return described


def _accompanied(reader: Consumer, names: Mapping[str, str], prefix: str) -> Consumer:
    if reader.weight.tensor not in names:
        return reader
    kinds = [(kind, columns) for kind in ("frozen", "fresh") for columns in reader.slices]
    moved = (replace(columns, tensor=f"{prefix}.{buffer_name(kind, names[columns.tensor])}") for kind, columns in kinds)
    return replace(reader, companions=tuple(moved))


def _layers(torso: Torso) -> Iterator[nn.Module]:
    layers = getattr(torso, "layers", None)
    assert isinstance(layers, nn.ModuleDict)
    yield from layers.values()


def _values(tail: Tail) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters, and the buffers that belong to layers rather than to the meaning of the outputs, or to the run."""
    yield from tail.named_parameters()
    for name, buffer in tail.named_buffers():
        if not name.endswith(("atoms", f".{WORDS}")):
            yield name, buffer
