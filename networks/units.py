"""The unit graph: for every hidden unit, which slices of which tensors feed it and which read it.

Worked examples, for a unit i of a layer of U units:

* dense -> dense: incoming row i of the weight (out, in); outgoing column i of the next weight.
* conv -> flatten -> dense on k = H x W positions: outgoing columns i*k ... (i+1)*k - 1, since (C, H, W) flattens channel first.
* CReLU: the consumer reads relu(z) at i and relu(-z) at U + i, so two runs of columns, at i*k and (U + i)*k.
* two heads, or a value and an advantage stream: one outgoing slice in each.
* a residual block's inner units have private incoming and outgoing slices and are listed; the units of the residual stream are
  the sum of several paths, have no incoming slice of their own, and are listed as excluded with that reason.
* the units between the two maps of a transformer's MLP are listed like dense -> dense.
* SAC's twin critics: two networks in one part, each with its own layers, prefixed by the critic's name.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class UnitSlice:
    """The entries of one tensor that belong to each unit of a layer.

    Unit i owns, along ``axis``, the indices ``offset + i * span ... offset + (i + 1) * span - 1`` for every offset.

    Attributes:
        tensor: Name of a parameter or buffer of the network.
        axis: Axis along which units lie.
        units: Units of the layer.
        offsets: First index of each run.
        span: Consecutive indices per unit, the positions of a flattened convolution.
    """

    tensor: str
    axis: int
    units: int
    offsets: tuple[int, ...] = (0,)
    span: int = 1

    def mask(self, units: Tensor, like: Tensor) -> Tensor:
        """Expands a boolean mask (U,) so that it broadcasts against ``like``: True on the entries of the chosen units."""
        along = units.repeat_interleave(self.span) if self.span > 1 else units
        length = like.shape[self.axis]
        if self.offsets != (0,) or along.shape[0] != length:
            full = torch.zeros(length, dtype=torch.bool, device=units.device)
            for offset in self.offsets:
                full[offset : offset + along.shape[0]] = along
            along = full
        return along.view([-1 if axis == self.axis else 1 for axis in range(like.ndim)])

    def per_unit(self, tensor: Tensor) -> Tensor:
        """Gathers each unit's entries into a row: (U, entries per unit). A view where the layout allows it."""
        runs = [tensor.narrow(self.axis, offset, self.units * self.span) for offset in self.offsets]
        rows = [run.movedim(self.axis, 0).reshape(self.units, -1) for run in runs]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def sums(self, tensor: Tensor) -> Tensor:
        """Sums each unit's entries, (U,), in one pass over the tensor."""
        along = tensor.sum([axis for axis in range(tensor.ndim) if axis != self.axis]) if tensor.ndim > 1 else tensor
        if self.offsets == (0,) and self.span == 1 and along.shape[0] == self.units:
            return along
        runs = [along.narrow(0, offset, self.units * self.span).reshape(self.units, -1).sum(1) for offset in self.offsets]
        return torch.stack(runs).sum(0)

    def reach(self, weight: Tensor) -> Tensor:
        """Sums a consumer's weight over the entries of each channel it reads: (out, channels), channels = units x offsets.

        A channel that is constant over batch and positions shifts the consumer's outputs by its column times that constant (at
        the border of a zero-padded convolution, by less).
        """
        runs = [weight.narrow(self.axis, offset, self.units * self.span) for offset in self.offsets]
        return torch.cat([run.reshape(weight.shape[0], self.units, -1).sum(2) for run in runs], dim=1)


@dataclass(frozen=True)
class Consumer:
    """One reader of a layer's activations.

    Attributes:
        weight: The columns of its weight.
        bias: Name of its bias, None when it has none, or when a constant activation does not move its outputs by a constant.
        deviation: The columns of its noise's deviation, if it is a noisy map.
        companions: The columns of frozen maps that read the units alongside it, see ``plasticity.networks.layers.injection``.
    """

    weight: UnitSlice
    bias: str | None
    deviation: UnitSlice | None = None
    companions: tuple[UnitSlice, ...] = ()

    @property
    def slices(self) -> tuple[UnitSlice, ...]:
        """All columns that read the units."""
        own = (self.weight,) if self.deviation is None else (self.weight, self.deviation)
        return own + self.companions


@dataclass(frozen=True)
class NormSlice:
    """A per-unit entry of a normalisation or load-balancing layer, with the value that a fresh unit has."""

    slice: UnitSlice
    fresh: float


@dataclass(frozen=True)
class UnitLayer:
    """A hidden layer whose units can be reset one by one.

    Attributes:
        name: The layer's name, also the key of its taps.
        units: Units (dense) or channels (convolution).
        activation: Name of its activation.
        copies: Post-activation channels per unit (2 for CReLU).
        weight: Incoming weight rows.
        bias: Incoming bias entries, or None.
        norms: Per-unit entries of normalisation and load-balancing layers.
        consumers: Everything that reads the activations.
        weight_deviation: Rows of the incoming noise's deviation, if the map is noisy.
        bias_deviation: Entries of that of the bias.
    """

    name: str
    units: int
    activation: str
    copies: int
    weight: UnitSlice
    bias: UnitSlice | None
    norms: tuple[NormSlice, ...]
    consumers: tuple[Consumer, ...]
    weight_deviation: UnitSlice | None = None
    bias_deviation: UnitSlice | None = None

    @property
    def weights(self) -> tuple[UnitSlice, ...]:
        """Rows of the incoming weight, and of its deviation if the map is noisy."""
        return tuple(slice_ for slice_ in (self.weight, self.weight_deviation) if slice_ is not None)

    @property
    def biases(self) -> tuple[UnitSlice, ...]:
        """Entries of the bias, if there is one, and of its deviation if the map is noisy."""
        return tuple(slice_ for slice_ in (self.bias, self.bias_deviation) if slice_ is not None)


@dataclass(frozen=True)
class ExcludedUnits:
    """Tapped activations whose units cannot be reset one by one, and why.

    Attributes:
        name: The key of their taps.
        units: Units or channels.
        reason: Why they are excluded.
        activation: Name of the non-linearity between pre- and post-activations.
    """

    name: str
    units: int
    reason: str
    activation: str = "identity"


@dataclass(frozen=True)
class UnitGraph:
    """All hidden units of a network, in forward order."""

    layers: tuple[UnitLayer, ...]
    excluded: tuple[ExcludedUnits, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the resettable layers, in forward order."""
        return tuple(layer.name for layer in self.layers)

    def __getitem__(self, name: str) -> UnitLayer:
        """Returns the layer of that name.

        Raises:
            KeyError: If there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no unit layer {name}; there are {', '.join(self.names) or 'none'}")
