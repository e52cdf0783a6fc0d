"""Continual backpropagation: a steady trickle of resets of the least useful mature units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Final

import torch
from torch import Tensor

from interventions.base import Intervention, Logs, Update
from interventions.optimizer_state import POLICIES, require_restart
from interventions.redo import require_units
from interventions.registry import register
from interventions.surgery import ResetPolicy, reset_units
from networks.network import Network
from networks.spec import require_choice, require_range
from networks.units import UnitLayer, UnitSlice

Lookup = Callable[[str], Tensor]
_ROUNDING: Final = 1e-9  # five times 1.2 is to replace six units, though its sum in floating point falls short of 6
UTILITIES: Final = ("contribution", "zero_contribution", "adaptable_contribution")


def outgoing_magnitude(tensor: Lookup, layer: UnitLayer) -> Tensor:
    """Returns the mean |w| of everything that reads each unit, (U,); ``tensor`` gives a tensor of the network by name."""
    return _mean_magnitude(tensor, [consumer.weight for consumer in layer.consumers])


def incoming_magnitude(tensor: Lookup, layer: UnitLayer) -> Tensor:
    """Returns the mean |w| of each unit's incoming weights, (U,)."""
    return _mean_magnitude(tensor, [layer.weight])


def _mean_magnitude(tensor: Lookup, slices: list[UnitSlice]) -> Tensor:
    sums, entries = [], 0
    for slice_ in slices:
        values = tensor(slice_.tensor)
        sums.append(slice_.sums(values.abs()))
        entries += values.numel() // values.shape[slice_.axis] * slice_.span * len(slice_.offsets)
    return (sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)) / entries


def mean_deviation(post: Tensor, centre: Tensor | None, copies: int) -> Tensor:
    """Returns the mean |h - centre| of each unit over batch and positions, averaged over a CReLU unit's halves.

    Args:
        post: Post-activations (B, copies * U, ...).
        centre: (copies * U,), or None for 0.
        copies: Channels per unit.
    """
    if centre is not None:
        post = post - centre.view(1, -1, *[1] * (post.ndim - 2))
    deviation = post.abs().flatten(2).mean((0, 2)) if post.ndim > 2 else post.abs().mean(0)
    return deviation.view(copies, -1).mean(0) if copies > 1 else deviation


def lowest(utility: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Marks the ``count`` eligible units of lowest utility, without reading ``count`` on the host.

    Args:
        utility: (U,).
        eligible: Boolean (U,).
        count: 0-dim number of units.

    Returns:
        Boolean (U,).
    """
    rank = utility.masked_fill(~eligible, torch.inf).argsort(stable=True).argsort()
    return (rank < count) & eligible


@register("continual_backprop")
@dataclass
class ContinualBackprop(Intervention):
    """Resets, at a small steady rate, the mature units that contribute least.

    Paper: Dohare et al. 2024, "Loss of plasticity in deep continual learning", Nature 632, methods and algorithm 1.
    Equation, per update and layer, with h the unit's activation in the training forward:
    u <- decay u + (1 - decay) y, y = mean|w_out| mean|h|, u_hat = u / (1 - decay^age);
    of the units older than ``maturity_updates``, rate x their number are replaced, fractions carried over; the lowest u_hat go.
    A replaced unit has fresh incoming weights, bias 0, outgoing weights 0; its mean contribution is added to the biases it fed.
    Deviations: the paper sums |w_out| where this averages, the same order within a layer. The published code (1) moves no bias,
    since it zeroes the mean activation before using it (``bias_compensation: false`` here); (2) uses ``adaptable_contribution``
    for permuted MNIST and ImageNet: y = mean|w_out| mean|h - h_mean| / mean|w_in|. ``zero_contribution`` is that without the
    division. Fresh weights come from the tensor's own initial distribution. A CReLU unit's y takes means over both halves, and
    the mean contribution in front of a max-pooling is that before the pooling.
    State: utility, mean activation, age per unit, and the fraction carried per layer. Optimizer: entries written are restarted,
    moments and step count.
    Does not work with: networks without hidden units (refused). Behind a layer normalisation a reset changes the whole layer.

    Attributes:
        replacement_rate: Expected share of mature units replaced per update, in [0, 1].
        maturity_updates: Updates during which a new unit is safe.
        decay: Decay of the running averages, in [0, 1).
        utility: ``contribution``, ``zero_contribution`` or ``adaptable_contribution``.
        bias_compensation: Whether the consumers' biases take over the mean contribution of a replaced unit.
        optimizer_state: ``keep``, ``zero`` or ``restart``.
    """

    replacement_rate: float = 1e-4
    maturity_updates: int = 100
    decay: float = 0.99
    utility: str = "contribution"
    bias_compensation: bool = True
    optimizer_state: str = "restart"

    no_effect: ClassVar = {"replacement_rate": 0.0}

    def __post_init__(self) -> None:
        require_range("continual_backprop.replacement_rate", self.replacement_rate, 0, 1)
        require_range("continual_backprop.maturity_updates", self.maturity_updates, 0)
        require_range("continual_backprop.decay", self.decay, 0, 1 - 1e-9)
        require_choice("continual_backprop.utility", self.utility, UTILITIES)
        require_choice("continual_backprop.optimizer_state", self.optimizer_state, POLICIES)

    def attach(self, u: Update) -> None:
        """Makes the running averages."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._policy = ResetPolicy(bias="zero", optimizer_state=self.optimizer_state)
        self._layers = u.network.units.layers
        self._units = _Concatenated([layer.units for layer in self._layers], u.generator.device)
        self._channels = _Concatenated([layer.units * layer.copies for layer in self._layers], u.generator.device)
        self._utility, self._age, self._mean = self._units.zeros(), self._units.zeros(), self._channels.zeros()
        self._carried = torch.zeros(len(self._layers), device=u.generator.device, dtype=torch.float64)
        for index, layer in enumerate(self._layers):
            self.state[f"{layer.name}/utility"] = self._units.of(self._utility, index)
            self.state[f"{layer.name}/age"] = self._units.of(self._age, index)
            self.state[f"{layer.name}/mean"] = self._channels.of(self._mean, index)
            self.state[f"{layer.name}/carried"] = self._carried[index]

    def running(self) -> list[Tensor]:
        """Returns utilities, ages, mean activations, carried fractions, and which unit belongs to which layer."""
        return [self._utility, self._age, self._mean, self._carried, self._units.members]

    @torch.no_grad()
    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        """Brings the averages of all layers up to date, in few operations on all of them together."""
        utility, age, mean, carried, members = running
        posts = [post[layer.name].float() for layer in self._layers]
        age.add_(1)
        mean.lerp_(torch.cat([_mean_over_inputs(h) for h in posts]), 1 - self.decay)
        current = torch.cat([self._deviation(index, h, age, mean) for index, h in enumerate(posts)])
        current = current * torch.cat([outgoing_magnitude(parameters.__getitem__, layer) for layer in self._layers])
        if self.utility == "adaptable_contribution":
            incoming = torch.cat([incoming_magnitude(parameters.__getitem__, layer) for layer in self._layers])
            # 0 / 0, of a unit whose inputs were all replaced, would stay in the average for ever.
            current = current / incoming.clamp(min=torch.finfo(torch.float32).eps)
        utility.lerp_(current, 1 - self.decay)
        mature = (age > self.maturity_updates).float()
        carried.add_((members @ mature).double(), alpha=self.replacement_rate)

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Replaces the units that are due."""
        if u.generator.device.type == "cpu":
            # Reading a number costs nothing on the CPU, and writing through a mask costs more than the update itself.
            due = [index for index, carried in enumerate(self._carried.tolist()) if carried + _ROUNDING >= 1]
        else:
            due = list(range(len(self._layers)))
        return {"units_reset": self._replace(u, due)} if due else {"units_reset": 0.0}

    def _deviation(self, index: int, post: Tensor, age: Tensor, mean: Tensor) -> Tensor:
        centre = None if self.utility == "contribution" else self._mean_activation(index, age, mean)
        return mean_deviation(post, centre, self._layers[index].copies)

    def _replace(self, u: Update, due: list[int]) -> Tensor:
        eligible = self._age > self.maturity_updates
        counts = (self._carried + _ROUNDING).floor()
        self._carried.sub_(counts)
        corrected = self._utility / self._bias_correction(self._age)
        masks: dict[str, Tensor] = {}
        for index in due:
            layer = self._layers[index]
            mask = lowest(self._units.of(corrected, index), self._units.of(eligible, index), counts[index])
            masks[layer.name] = mask
            if self.bias_compensation:
                average = self._mean_activation(index, self._age, self._mean)
                lost = torch.where(mask.repeat(layer.copies), average, 0.0)
                _compensate(u.network, layer, lost)
        reset = reset_units(u.network, u.optimizer, masks, self._policy, u.generator)
        for index, mask in zip(due, masks.values(), strict=True):
            self._units.of(self._utility, index).masked_fill_(mask, 0.0)
            self._units.of(self._age, index).masked_fill_(mask, 0.0)
            self._channels.of(self._mean, index).masked_fill_(mask.repeat(self._layers[index].copies), 0.0)
        return reset

    def _bias_correction(self, age: Tensor) -> Tensor:
        return 1 - self.decay**age

    def _mean_activation(self, index: int, age: Tensor, mean: Tensor) -> Tensor:
        """Returns the bias-corrected mean activation of every post-activation channel of a layer."""
        ages = self._units.of(age, index).repeat(self._layers[index].copies)
        return self._channels.of(mean, index) / self._bias_correction(ages)


class _Concatenated:
    """One vector that holds a stretch for every layer, so that what is done to all layers is done at once.

    Args:
        sizes: Length of each layer's stretch.
        device: Where vectors are made.

    Attributes:
        members: (layers, length), 1 where an entry belongs to a layer; times a mask, it counts each layer's True entries.
    """

    def __init__(self, sizes: list[int], device: torch.device) -> None:
        ends = list(accumulate(sizes))
        self._stretches = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._device = device
        self.members = torch.zeros(len(sizes), ends[-1], device=device)
        for row, stretch in zip(self.members, self._stretches, strict=True):
            row[stretch] = 1.0

    def zeros(self) -> Tensor:
        return torch.zeros(self.members.shape[1], device=self._device)

    def of(self, vector: Tensor, index: int) -> Tensor:
        """Returns one layer's stretch, a view."""
        return vector[self._stretches[index]]


def _mean_over_inputs(post: Tensor) -> Tensor:
    return post.flatten(2).mean((0, 2)) if post.ndim > 2 else post.mean(0)


def _compensate(network: Network, layer: UnitLayer, lost: Tensor) -> None:
    """Adds what the replaced units contributed on average to the biases of everything that read them."""
    for consumer in layer.consumers:
        if consumer.bias is not None:
            weight = network.tensor(consumer.weight.tensor)
            network.tensor(consumer.bias).add_(consumer.weight.reach(weight) @ lost)
