"""ReGraMa: resets of units whose weights hardly receive a gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.interventions.surgery.unit_statistics import averaged_at, require_units
from plasticity.networks.units import UnitSlice
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import require_range, setting


def gradient_magnitude(gradient: Tensor, rows: UnitSlice) -> Tensor:
    """Returns the mean |g| over each unit's incoming weights, (U,).

    Args:
        gradient: Of the weight.
        rows: The units' rows in it.
    """
    return rows.sums(gradient.abs()) * (rows.units / gradient.numel())


def inactive(magnitude: Tensor, threshold: float, smallest: float = 1e-12) -> Tensor:
    """Marks units whose gradient is at most ``threshold`` times the layer's mean.

    Args:
        magnitude: Mean |g| per unit, (U,).
        threshold: tau, at least 0.
        smallest: Layers whose mean is not above this are left alone: a gradient of 0 everywhere says nothing about single units.

    Returns:
        Boolean (U,).
    """
    mean = magnitude.mean()
    return (magnitude <= threshold * mean) & (mean > smallest)


@intervention("regrama")
@dataclass
class ReGraMa(Intervention):
    """Resets units whose incoming weights hardly receive a gradient: incoming weights are drawn again, outgoing weights 0.

    Paper: "GraMa", gradient magnitude as a measure of learning capacity, and ReGraMa, resets guided by it; tau 0.01, every 1,000
    updates.
    Equation: G_i = mean over j of |dL/dW_ij| / mean over k of the same of unit k; unit i is reset if G_i <= tau.
    Deviations: units are chosen right after the backward pass, on the gradient before clipping, and reset after the optimizer's
    step, which therefore cannot undo a reset; published code resets before the step and zeroes the gradients of the rows, which
    leaves the same weights unless the optimizer decays them. That code keeps outgoing weights (``outgoing: keep``). A layer whose
    mean gradient is 0 is left alone. The gradient is that of the whole loss, including the terms of methods earlier in the order.
    State: running sums of |g| while an average over several updates is made. Optimizer: moments of every entry written are
    cleared and the step count kept; ``restart`` also clears the count.
    Does not work with: networks without hidden units (refused). Behind a layer normalisation a reset changes the whole layer.
    Target networks are left alone.
    """

    threshold: float = setting(0.01, "tau.", low=0)
    every_updates: int = setting(1000, "Period in updates, 0 for never.", low=0)
    average_updates: int = setting(1, "Updates before the reset whose gradients are averaged, for small batches; 1 in the paper.")
    bias: str = setting("resample", "What happens to the unit's bias: ``resample`` or ``zero``.", choices=("resample", "zero"))
    outgoing: str = setting(
        "zero", "What happens to the weights that read the unit: ``zero`` or ``keep``.", choices=("zero", "keep")
    )
    optimizer_state: str = setting("zero", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"every_updates": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("regrama.average_updates", self.average_updates, 1, max(1, self.every_updates))

    def attach(self, u: Update) -> None:
        """Makes the sums."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._policy = ResetPolicy(bias=self.bias, outgoing=self.outgoing, optimizer_state=self.optimizer_state)
        for layer in u.network.units.layers:
            self.state[layer.name] = torch.zeros(layer.units, device=u.generator.device)

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Sums gradients over the last updates of a period."""
        if averaged_at(u.step, self.every_updates, self.average_updates):
            for layer in u.network.units.layers:
                gradient = u.network.tensor(layer.weight.tensor).grad
                if gradient is not None:
                    self.state[layer.name] += gradient_magnitude(gradient, layer.weight)
        return {}

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Resets the inactive units at the end of a period."""
        if not is_multiple(u.step, self.every_updates):
            return {}
        masks = {layer.name: inactive(self.state[layer.name], self.threshold) for layer in u.network.units.layers}
        for layer in u.network.units.layers:
            self.state[layer.name].zero_()
        return {"units_reset": reset_units(u.network, u.optimizer, masks, self._policy, u.generator)}
