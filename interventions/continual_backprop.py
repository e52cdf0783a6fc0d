"""Continual backpropagation: a steady trickle of resets of the least useful mature units."""

from dataclasses import dataclass
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
from networks.units import UnitLayer

UTILITIES: Final = ("contribution", "zero_contribution", "adaptable_contribution")


def outgoing_magnitude(network: Network, layer: UnitLayer) -> Tensor:
    """Returns the mean |w| of everything that reads each unit, (U,)."""
    columns = [consumer.weight.per_unit(network.tensor(consumer.weight.tensor)) for consumer in layer.consumers]
    entries = columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)
    return entries.abs().mean(1)


def incoming_magnitude(network: Network, layer: UnitLayer) -> Tensor:
    """Returns the mean |w| of each unit's incoming weights, (U,)."""
    return layer.weight.per_unit(network.tensor(layer.weight.tensor)).abs().mean(1)


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
    division. Fresh weights come from the tensor's own initial distribution.
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

    needs_taps: ClassVar = True
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
        for layer in u.network.units.layers:
            sizes = {"utility": layer.units, "mean": layer.units * layer.copies, "age": layer.units}
            for key, size in sizes.items():
                self.state[f"{layer.name}/{key}"] = torch.zeros(size, device=u.generator.device)
            self.state[f"{layer.name}/carried"] = torch.zeros((), device=u.generator.device, dtype=torch.float64)

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Updates the utilities and replaces the units that are due."""
        masks = {layer.name: self._measure(u, layer) for layer in u.network.units.layers}
        on_host = u.generator.device.type == "cpu"
        # Reading a mask costs nothing on the CPU and writing through it costs more than the update itself.
        chosen = {name: mask for name, mask in masks.items() if not on_host or bool(mask.any())}
        if not chosen:
            return {"units_reset": 0.0}
        for name, mask in chosen.items():
            self._compensate(u.network, u.network.units[name], mask)
        reset = reset_units(u.network, u.optimizer, chosen, self._policy, u.generator)
        for name, mask in chosen.items():
            self._forget(u.network.units[name], mask)
        return {"units_reset": reset}

    def _measure(self, u: Update, layer: UnitLayer) -> Tensor:
        post = u.taps.post[layer.name].float()
        utility, mean, age = (self.state[f"{layer.name}/{key}"] for key in ("utility", "mean", "age"))
        age += 1
        batch_mean = post.flatten(2).mean((0, 2)) if post.ndim > 2 else post.mean(0)
        mean.lerp_(batch_mean, 1 - self.decay)
        centre = None if self.utility == "contribution" else self._mean_activation(layer)
        current = outgoing_magnitude(u.network, layer) * mean_deviation(post, centre, layer.copies)
        if self.utility == "adaptable_contribution":
            # 0 / 0, a unit whose inputs were all replaced, would stay in the average for ever.
            current = current / incoming_magnitude(u.network, layer).clamp_min(torch.finfo(torch.float32).eps)
        utility.lerp_(current, 1 - self.decay)
        return self._due(layer)

    def _due(self, layer: UnitLayer) -> Tensor:
        age, carried = self.state[f"{layer.name}/age"], self.state[f"{layer.name}/carried"]
        eligible = age > self.maturity_updates
        carried += eligible.sum().double() * self.replacement_rate
        count = (carried + 1e-9).floor()  # a hundred times 0.01 is one, whatever the rounding
        if count.device.type == "cpu" and count < 1:
            return torch.zeros_like(eligible)
        carried -= count
        return lowest(self.state[f"{layer.name}/utility"] / (1 - self.decay**age), eligible, count)

    def _mean_activation(self, layer: UnitLayer) -> Tensor:
        """Returns the bias-corrected mean activation of each post-activation channel, (copies * U,)."""
        age = self.state[f"{layer.name}/age"].repeat(layer.copies)
        return self.state[f"{layer.name}/mean"] / (1 - self.decay**age)

    def _compensate(self, network: Network, layer: UnitLayer, mask: Tensor) -> None:
        if not self.bias_compensation:
            return
        lost = torch.where(mask.repeat(layer.copies), self._mean_activation(layer), 0.0)
        for consumer in layer.consumers:
            if consumer.bias is not None:
                weight = network.tensor(consumer.weight.tensor)
                network.tensor(consumer.bias).add_(consumer.weight.reach(weight) @ lost)

    def _forget(self, layer: UnitLayer, mask: Tensor) -> None:
        for key, units in (("utility", mask), ("age", mask), ("mean", mask.repeat(layer.copies))):
            self.state[f"{layer.name}/{key}"].masked_fill_(units, 0.0)
