"""Several networks of one shape over the same inputs, such as SAC's twin critics."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from plasticity.networks.layers.calls import call
from plasticity.networks.network import Block, Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.torso_network import TorsoNetwork, new_torso_network
from plasticity.networks.units import Consumer, NormSlice, UnitGraph, UnitLayer, UnitSlice
from plasticity.settings.seeding import derive_seed


class Ensemble(Network):
    """Members side by side: outputs (B, members) of one output each, or (B, members, bins) of categorical ones.

    Its unit layers are those of every member, named ``<member>.<layer>``; a block holds the same layer of all members, so that
    the last k layers of an ensemble are the last k of each.
    """

    def __init__(self, members: Sequence[TorsoNetwork]) -> None:
        first = members[0]
        super().__init__(first.spec, first.input_shape, first.input_dtype, first.head_spec)
        self.members = nn.ModuleList(members)
        self.networks = tuple(members)
        named = [(f"members.{index}", member) for index, member in enumerate(members)]
        layers = [_moved(layer, path, index) for index, (path, member) in enumerate(named) for layer in member.units.layers]
        excluded = [
            replace(units, name=f"{index}.{units.name}") for index, (_, m) in enumerate(named) for units in m.units.excluded
        ]
        self.units = UnitGraph(tuple(layers), tuple(excluded))
        self.initialisers = {f"{path}.{name}": kind for path, member in named for name, kind in member.initialisers.items()}
        self.blocks = tuple(
            Block(
                block.name,
                tuple(f"{path}.{name}" for path, _ in named for name in block.parameters),
                tuple(f"{path}.{name}" for path, _ in named for name in block.buffers),
            )
            for block in first.blocks
        )

    def forward(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, *input_shape) to the members' outputs, side by side on axis 1."""
        if taps is None and self.taps.recording:
            taps = self.taps
        outputs = []
        for index, member in enumerate(self.networks):
            own = None if taps is None else Taps(taps.keeps_graph)
            outputs.append(call(member, inputs, own))
            if taps is not None and own is not None:
                for name in own.pre:
                    taps.store(f"{index}.{name}", own.pre[name], own.live.get(name, own.post[name]))
        return torch.cat(outputs, dim=1)

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the scalars that outputs stand for, (B, members)."""
        return self.networks[0].decode(outputs)

    def fresh(self, seed: int) -> "Ensemble":
        """Builds an ensemble of the same shape with new initial values, on the same device."""
        other = new_ensemble(self.spec, self.input_shape, self.input_dtype, self.head_spec, seed, len(self.networks))
        return other.to(next(self.parameters()).device)


def new_ensemble(
    spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec, seed: int, members: int
) -> Ensemble:
    """Builds an ensemble on the CPU, each member with its own initial values."""
    seeds = [derive_seed(seed, "member", index) for index in range(members)]
    return Ensemble([new_torso_network(spec, input_shape, input_dtype, head, own) for own in seeds])


def _moved(layer: UnitLayer, path: str, member: int) -> UnitLayer:
    """Returns a member's unit layer as it is named in the ensemble."""

    def moved(entries: UnitSlice) -> UnitSlice:
        return replace(entries, tensor=f"{path}.{entries.tensor}")

    return replace(
        layer,
        name=f"{member}.{layer.name}",
        weight=moved(layer.weight),
        bias=layer.bias and moved(layer.bias),
        norms=tuple(NormSlice(moved(norm.slice), norm.fresh) for norm in layer.norms),
        consumers=tuple(
            Consumer(
                moved(reader.weight),
                reader.bias and f"{path}.{reader.bias}",
                reader.deviation and moved(reader.deviation),
                tuple(moved(columns) for columns in reader.companions),
            )
            for reader in layer.consumers
        ),
        weight_deviation=layer.weight_deviation and moved(layer.weight_deviation),
        bias_deviation=layer.bias_deviation and moved(layer.bias_deviation),
    )
