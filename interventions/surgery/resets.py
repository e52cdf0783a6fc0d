"""The one primitive that resets units, for every method: which units x what comes in x what goes out x optimizer state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.networks.layers.initialisers import Initialiser, initialisers_for
from plasticity.networks.network import Network
from plasticity.networks.units import UnitLayer, UnitSlice
from plasticity.optimizers.optimizer_state import POLICIES, expect_resets, reset_entries
from plasticity.settings.fields import require_choice

INCOMING: Final = ("keep", "resample", "restore", "scale", "xavier", "zero")
OUTGOING: Final = ("keep", "resample", "zero")


@dataclass(frozen=True)
class ResetPolicy:
    """What a reset does to the chosen units.

    Attributes:
        incoming: Weights that feed the unit: ``keep``, ``resample`` from that tensor's own initial distribution, ``restore``
            the initial values, ``scale`` by ``factor``, ``xavier`` for a draw from Xavier's uniform distribution, or ``zero``.
        bias: The unit's bias: the same choices; Xavier's is 0.
        outgoing: Weights that read the unit: ``keep``, ``resample`` or ``zero``.
        norm: Whether the unit's gain, offset, running statistics and load-balancing state become fresh.
        optimizer_state: ``keep``, ``zero`` or ``restart`` for every entry touched; see ``plasticity.optimizers.optimizer_state``.
        factor: Multiplier of ``scale``.
    """

    incoming: str = "resample"
    bias: str = "resample"
    outgoing: str = "zero"
    norm: bool = True
    optimizer_state: str = "zero"
    factor: float = 1.0

    def __post_init__(self) -> None:
        require_choice("incoming", self.incoming, INCOMING)
        require_choice("bias", self.bias, INCOMING)
        require_choice("outgoing", self.outgoing, OUTGOING)
        require_choice("optimizer_state", self.optimizer_state, POLICIES)


@torch.no_grad()
def reset_units(
    network: Network,
    optimizer: Optimizer,
    masks: Mapping[str, Tensor],
    policy: ResetPolicy,
    generator: torch.Generator,
    initial: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Resets units of a network in place.

    All incoming slices are written before any outgoing one, so a weight between two reset units ends as the outgoing policy
    requires, and resetting units that are exactly dead, with outgoing ``zero``, leaves the network's function unchanged. Layer
    normalisation is the exception: it ties the units of its layer together.

    Args:
        network: Its parameters and per-unit buffers are changed in place.
        optimizer: Its state is changed according to the policy.
        masks: Boolean (units,) by name of unit layer; True for the units to reset.
        policy: What to do.
        generator: Source of fresh values, on the network's device.
        initial: Initial parameter values by name, needed by ``restore``.

    Returns:
        The number of units reset, a 0-dim tensor on the network's device.

    Raises:
        KeyError: If a name is not a unit layer of the network.
        ValueError: If ``restore`` is requested without ``initial``, or a mask is not boolean with one entry for each unit.
    """
    if "restore" in (policy.incoming, policy.bias) and initial is None:
        raise ValueError("incoming=restore needs the initial parameter values")
    chosen = [_checked(network.units[name], mask) for name, mask in masks.items()]
    write = _Writer(network, optimizer, policy, generator, initial or {})
    write.announce()
    for layer, mask in chosen:
        for rows in layer.weights:
            write.entries(rows, mask, policy.incoming)
        for entries in layer.biases:
            write.entries(entries, mask, policy.bias)
        if policy.norm:
            write.norms(layer, mask)
    for layer, mask in chosen:
        for consumer in layer.consumers:
            for columns in consumer.slices:
                write.entries(columns, mask, policy.outgoing)
    counts = [mask.sum() for _, mask in chosen]
    return torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.int64, device=generator.device)


def _checked(layer: UnitLayer, mask: Tensor) -> tuple[UnitLayer, Tensor]:
    if mask.dtype != torch.bool or mask.shape != (layer.units,):
        kind = f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
        raise ValueError(f"mask of {layer.name} is {kind}; give a bool mask of shape ({layer.units},), one entry for each unit")
    return layer, mask


@dataclass(frozen=True)
class _Writer:
    """Writes fresh values for chosen units.

    On an accelerator with ``torch.where``, so that no mask has to be read by the host. On the CPU reading a mask costs nothing,
    and only the rows or columns of the chosen units are drawn and written.
    """

    network: Network
    optimizer: Optimizer
    policy: ResetPolicy
    generator: torch.Generator
    initial: Mapping[str, Tensor]

    def announce(self) -> None:
        """Tells the optimizer which slices may be reset, of any layer: methods reset one layer now and another later."""
        if self.policy.optimizer_state != "restart":
            return
        for layer in self.network.units.layers:
            slices = [(rows, self.policy.incoming) for rows in layer.weights]
            slices += [(entries, self.policy.bias) for entries in layer.biases]
            slices += [(columns, self.policy.outgoing) for consumer in layer.consumers for columns in consumer.slices]
            slices += [(norm.slice, "fresh" if self.policy.norm else "keep") for norm in layer.norms]
            for slice_, how in slices:
                if how != "keep":
                    expect_resets(self.optimizer, self.network.tensor(slice_.tensor), slice_.axis, "restart")

    def entries(self, slice_: UnitSlice, units: Tensor, how: str) -> None:
        if how == "keep":
            return
        parameter = self.network.tensor(slice_.tensor)
        mask = slice_.mask(units, parameter)
        if mask.device.type == "cpu":
            rows = mask.flatten().nonzero().flatten()
            parameter.index_copy_(slice_.axis, rows, self._fresh(slice_, parameter, how, rows).to(parameter.dtype))
        else:
            parameter.copy_(torch.where(mask, self._fresh(slice_, parameter, how, None), parameter))
        reset_entries(self.optimizer, parameter, mask, self.policy.optimizer_state)

    def norms(self, layer: UnitLayer, units: Tensor) -> None:
        for norm in layer.norms:
            tensor = self.network.tensor(norm.slice.tensor)
            mask = norm.slice.mask(units, tensor)
            tensor.masked_fill_(mask, norm.fresh)
            reset_entries(self.optimizer, tensor, mask, self.policy.optimizer_state)

    def _fresh(self, slice_: UnitSlice, parameter: Tensor, how: str, rows: Tensor | None) -> Tensor:
        """Returns new values for ``rows`` along the slice's axis, or for the whole tensor."""

        def part(tensor: Tensor) -> Tensor:
            return tensor if rows is None else tensor.index_select(slice_.axis, rows)

        if how == "restore":
            return part(self.initial[slice_.tensor])
        if how == "scale":
            return part(parameter) * self.policy.factor
        if how == "zero":
            return torch.zeros_like(part(parameter))
        initialiser = self.network.initialisers[slice_.tensor]
        if how == "xavier":
            initialiser = (
                initialisers_for("xavier_uniform", parameter, 1.0)[0] if parameter.ndim > 1 else Initialiser("constant", 0.0)
            )
        if initialiser.independent:
            return initialiser.sample(part(parameter).shape, self.generator)
        return part(initialiser.sample(parameter.shape, self.generator))


@torch.no_grad()
def reset_blocks(network: Network, optimizer: Optimizer, names: tuple[str, ...], seed: int, optimizer_state: str) -> None:
    """Writes freshly drawn values into whole layers, in place.

    Args:
        network: Parameters and buffers of the named blocks are changed.
        optimizer: Its state for these parameters is changed according to the policy.
        names: Names of ``network.blocks``.
        seed: Seed of the fresh values; a new one for each reset, or every reset would give the same weights.
        optimizer_state: ``keep``, ``zero`` or ``restart``.
    """
    fresh = network.fresh(seed)
    for block in network.blocks:
        if block.name in names:
            for name in (*block.parameters, *block.buffers):
                tensor = network.tensor(name)
                tensor.copy_(fresh.tensor(name))
                reset_entries(optimizer, tensor, None, optimizer_state)
