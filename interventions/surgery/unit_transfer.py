"""Moves what units do to other units: their outgoing weights, their incoming rows, or their mean to the readers' biases."""

import torch
from torch import Tensor

from plasticity.networks.network import Network
from plasticity.networks.units import UnitLayer, UnitSlice


def compensate(network: Network, layer: UnitLayer, lost: Tensor) -> None:
    """Adds what constant activations contribute to the biases of everything that reads them.

    Args:
        network: Biases of the layer's consumers are changed in place.
        layer: The layer.
        lost: One activation per channel, (copies * U,).
    """
    for consumer in layer.consumers:
        if consumer.bias is not None:
            weight = network.tensor(consumer.weight.tensor)
            network.tensor(consumer.bias).add_(consumer.weight.reach(weight) @ lost.to(weight.dtype))


def write_rows(slice_: UnitSlice, tensor: Tensor, rows: Tensor) -> None:
    """Writes each unit's entries, (U, entries per unit), in place: the inverse of ``UnitSlice.per_unit``."""
    length = slice_.units * slice_.span
    parts = rows.chunk(len(slice_.offsets), 1)
    for offset, part in zip(slice_.offsets, parts, strict=True):
        run = tensor.narrow(slice_.axis, offset, length).movedim(slice_.axis, 0)
        run.copy_(part.reshape(run.shape))


def transfer_outgoing(network: Network, layer: UnitLayer, shares: Tensor) -> None:
    """Adds shares of some units' outgoing weights to those of others, in place.

    If h_j = a h_i on every input, giving i the share a of the weights of j lets j be silenced without a change of the function.

    Args:
        network: Weights that read the layer are changed.
        layer: The layer.
        shares: (U, U), entry (i, j) the share of unit j's outgoing weights that unit i gets; 0 on the diagonal.
    """
    takes = (shares != 0).any(1, keepdim=True)
    for consumer in layer.consumers:
        for slice_ in consumer.slices:
            weight = network.tensor(slice_.tensor)
            rows = slice_.per_unit(weight)
            write_rows(slice_, weight, torch.where(takes, rows + shares @ rows, rows))


def split_outgoing(network: Network, layer: UnitLayer, source: Tensor, scale: Tensor, generator: torch.Generator) -> None:
    """Divides every source's outgoing weights among itself and the units that copy it, in place.

    Each entry has its own shares: the softmax of normal draws, one for each sharer. A copy's share is divided by its scale, so
    that copies whose activations are ``scale`` times the source's leave the readers' sums as they were.

    Args:
        network: Weights that read the layer are changed.
        layer: The layer.
        source: (U,) int64, the unit that each unit copies; itself for units that copy no other.
        scale: (U,) activation of each unit over that of its source, above 0; 1 for sources.
        generator: Source of the draws, on the network's device.
    """
    same = (source.unsqueeze(0) == source.unsqueeze(1)).float()  # the units of one source
    shared = (same.sum(1) > 1).unsqueeze(1)
    for consumer in layer.consumers:
        for slice_ in consumer.slices:
            weight = network.tensor(slice_.tensor)
            rows = slice_.per_unit(weight)
            draws = torch.randn(rows.shape, generator=generator, device=generator.device).exp()
            shares = draws / (same @ draws) / scale.unsqueeze(1)
            write_rows(slice_, weight, torch.where(shared, rows[source] * shares, rows))


def can_scale(layer: UnitLayer) -> bool:
    """Tells whether a unit's pre-activation has a factor: its weights, or the gain of a normalisation behind them."""
    names = [norm.slice.tensor for norm in layer.norms]
    return not any(".norms." in name for name in names) or any(_is_gain(name) for name in names)


def _is_gain(name: str) -> bool:
    return ".norms." in name and name.endswith(".weight")


def copy_incoming(network: Network, layer: UnitLayer, source: Tensor, scale: Tensor) -> None:
    """Gives units the incoming weights of others, in place: their pre-activations are those of the others times ``scale``.

    Where a normalisation with a gain follows, the scale goes to the last gain and offset, since the normalisation would undo it
    on the weights. The statistics of one that ties units together, such as layer normalisation, still change with the copies.

    Args:
        network: Weights, biases, normalisation and load-balancing entries of the layer are changed.
        layer: The layer.
        source: (U,) int64, the unit that each unit copies; itself for units that copy no other.
        scale: (U,), 1 for units that copy no other, and for all where ``can_scale`` is False.
    """
    names = [norm.slice.tensor for norm in layer.norms]
    gains = [name.rpartition(".")[0] for name in names if _is_gain(name)]
    scaled = {slice_.tensor for slice_ in (*layer.weights, *layer.biases)}
    scaled |= {name for name in names if name.endswith(".diagonal.bias")}
    if any(".norms." in name for name in names):
        scaled = {f"{gains[-1]}.{entry}" for entry in ("weight", "bias")} if gains else set()
    scaled |= {name for name in names if name.endswith(".balance.offset")}
    for slice_ in (*layer.weights, *layer.biases, *(norm.slice for norm in layer.norms)):
        tensor = network.tensor(slice_.tensor)
        copied = slice_.per_unit(tensor)[source]
        write_rows(slice_, tensor, copied * scale.unsqueeze(1) if slice_.tensor in scaled else copied)
