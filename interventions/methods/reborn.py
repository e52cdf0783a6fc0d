"""ReBorn: dormant units become parts of over-active ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.methods.redo import dormant
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.interventions.surgery.unit_statistics import averaged_at, mean_activity, require_units
from plasticity.interventions.surgery.unit_transfer import can_scale, copy_incoming, split_outgoing
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.units import UnitLayer
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import require_range, setting


def sources(dormant_units: Tensor, overactive: Tensor, sharers: int, generator: torch.Generator) -> Tensor:
    """Assigns dormant units, in random order, to over-active ones with room, at random.

    Args:
        dormant_units: Boolean (U,).
        overactive: Boolean (U,), of other units.
        sharers: Maximum number of dormant units per over-active one.
        generator: On the masks' device.

    Returns:
        (U,) int64: the over-active unit that a dormant one is to copy; itself for all others and where there is no room.
    """
    units, device = dormant_units.shape[0], dormant_units.device
    order = torch.rand(units, generator=generator, device=device).masked_fill(~dormant_units, torch.inf).argsort().argsort()
    room = torch.rand(units, sharers, generator=generator, device=device).masked_fill(~overactive.unsqueeze(1), torch.inf)
    places = room.flatten().argsort()  # first those of over-active units
    placed = dormant_units & (order < overactive.sum() * sharers)
    return torch.where(placed, places[order] // sharers, torch.arange(units, device=device))


@intervention("reborn")
@dataclass
class ReBorn(Intervention):
    """Shares the weights of over-active units with dormant ones, without a change of the function.

    Paper: Qin et al. 2024, "The Dormant Neuron Phenomenon in Multi-Agent Reinforcement Learning Value Factorization"; dormant at
    0.1 or less of the layer's mean activity, over-active above 3 times, every second evaluation in the paper.
    Equation: an over-active unit o gets up to 5 dormant partners k; w_in,k <- c_k w_in,o, c_k ~ U(0.3, 0.8), bias alike, so that
    h_k = c_k h_o where the activation is positively homogeneous; w_out,k <- s_k w_out,o / c_k and w_out,o <- s_o w_out,o, with
    the shares s of o and its partners the softmax of normal draws, for each entry. Dormant units without a partner have fresh
    incoming weights and outgoing weights 0. What the dormant units contributed is lost: nothing, if they were silent.
    Deviations: activity is the mean |h|, where the code takes the mean h, which is the same behind relu; partners are drawn from
    the free places, where the code draws from the units that have any; a gain behind the weights is scaled in their place.
    State: running sums of activity while an average over several updates is made. Optimizer: moments of the dormant units'
    entries are cleared and the step count kept; published code keeps both (``optimizer_state: keep``).
    Does not work with: networks without hidden units; activations that are not positively homogeneous, such as tanh, gelu, or
    any with an offset (refused). Behind a layer normalisation the function changes. With noisy layers it is the mean of the
    weights that is shared exactly. Target networks are left alone.
    """

    dormant_threshold: float = setting(0.1, "Share of the layer's mean activity up to which a unit is dormant.", low=0, high=1)
    overactive_threshold: float = setting(3.0, "Multiple of it above which a unit is over-active.", low=1)
    sharers: int = setting(5, "Maximum number of dormant partners of a unit.", low=1)
    smallest_scale: float = setting(0.3, "Lower bound of c, above 0.", low=0.001)
    largest_scale: float = setting(0.8, "Upper bound of c.")
    every_updates: int = setting(1000, "Period in updates, 0 for never.", low=0)
    average_updates: int = setting(1, "Updates before the reset whose batches are averaged, for small batches.")
    bias: str = setting(
        "resample",
        "What happens to the bias of dormant units without a partner: ``resample`` or ``zero``.",
        choices=("resample", "zero"),
    )
    optimizer_state: str = setting("zero", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    needs_taps: ClassVar = True
    no_effect: ClassVar = {"every_updates": 0}
    conflicts: ClassVar = {"activation": "reborn needs positively homogeneous activations; set network.activations instead"}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("reborn.largest_scale", self.largest_scale, self.smallest_scale)
        require_range("reborn.average_updates", self.average_updates, 1, max(1, self.every_updates))

    def attach(self, u: Update) -> None:
        """Makes the sums, and refuses activations that a factor does not pass through."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._policy = ResetPolicy(bias=self.bias, optimizer_state=self.optimizer_state)
        offset = u.network.spec.activation_offset
        for layer in u.network.units.layers:
            if not (activation_named(layer.activation).kinked or layer.activation == "identity") or offset:
                what = f"activation {layer.activation}" if not offset else f"network.activation_offset={offset}"
                raise ValueError(
                    f"intervention reborn needs activations with h(c z) = c h(z) for c > 0, which {what} is not; choose relu, "
                    "leaky_relu, abs or crelu, without an offset"
                )
            self.state[layer.name] = torch.zeros(layer.units, device=u.generator.device)

    def acts_at(self, step: int) -> bool:
        """Tells whether the update is one of the last of a period."""
        return averaged_at(step, self.every_updates, self.average_updates)

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Sums activities over the last updates of a period, then shares."""
        if not self.acts_at(u.step):
            return {}
        for layer in u.network.units.layers:
            self.state[layer.name] += mean_activity(u.taps.post[layer.name], layer.copies)
        return self._share(u, u.network.units.layers) if is_multiple(u.step, self.every_updates) else {}

    def _share(self, u: Update, layers: tuple[UnitLayer, ...]) -> Logs:
        masks = {layer.name: dormant(self.state[layer.name], self.dormant_threshold) for layer in layers}
        logs: Logs = {"units_reset": reset_units(u.network, u.optimizer, masks, self._policy, u.generator)}
        copied, shared = [], []
        for layer in layers:
            activity, silent = self.state[layer.name], masks[layer.name]
            overactive = (activity > self.overactive_threshold * activity.mean()) & ~silent
            source = sources(silent, overactive, self.sharers, u.generator)
            copies = source != torch.arange(layer.units, device=source.device)
            copied.append((layer, source, self._scales(layer, copies, u.generator)))
            shared.append(copies.sum())
            activity.zero_()
        for layer, source, scale in copied:
            copy_incoming(u.network, layer, source, scale)
        for layer, source, scale in copied:
            split_outgoing(u.network, layer, source, scale, u.generator)
        return {**logs, "units_shared": torch.stack(shared).sum()}

    def _scales(self, layer: UnitLayer, copies: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(layer.units, generator=generator, device=generator.device)
        scale = self.smallest_scale + (self.largest_scale - self.smallest_scale) * drawn
        return torch.where(copies, scale, 1.0) if can_scale(layer) else torch.ones_like(scale)
