"""Resets of units that duplicate another unit of their layer."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.interventions.surgery.unit_statistics import averaged_at, require_units
from plasticity.interventions.surgery.unit_transfer import compensate, transfer_outgoing
from plasticity.networks.network import Network
from plasticity.networks.units import UnitLayer
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import require_range, setting

_SWEEPS: Final = 32


def products(post: Tensor, copies: int) -> tuple[Tensor, Tensor, int]:
    """Returns sums over the examples and positions of one batch, and their number.

    Args:
        post: Post-activations (B, copies * U) or (B, copies * U, H, W).
        copies: Channels per unit.

    Returns:
        (U, U) sums of h_i h_j, over both halves of a CReLU; (copies * U,) sums of h, both float64, since subtracting a mean loses
        digits; B or B * H * W.
    """
    rows = post.double().movedim(1, -1).flatten(0, -2)
    halves = rows.unflatten(1, (copies, -1)).flatten(0, 1)
    return halves.T @ halves, rows.sum(0), rows.shape[0]


def centred(gram: Tensor, sums: Tensor, count: int, copies: int) -> Tensor:
    """Returns the sums of products of deviations from the mean of each channel: (U, U)."""
    halves = sums.view(copies, -1)
    return gram - halves.T @ halves / count


def cosines(gram: Tensor) -> Tensor:
    """Returns the cosines that belong to sums of products, (U, U); 0 for a unit whose own sum is 0, and within rounding of it."""
    squares = gram.diagonal().clamp(min=0)
    silent = squares <= 1e-6 * squares.mean()
    inverse = torch.where(silent, 0.0, squares.rsqrt())
    return gram * inverse.unsqueeze(0) * inverse.unsqueeze(1)


def colinear(cosine: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Chooses units to reset, one after the other: those whose |cosine| with an earlier unit that stays is above ``threshold``.

    All units are decided at once, and again until nothing changes; on an accelerator 32 times, which is enough unless 32 units
    form a chain in which each is colinear with the previous one alone.

    Args:
        cosine: (U, U).
        threshold: In [0, 1].

    Returns:
        Boolean (U,), the units to reset; int64 (U,), for each of them the most colinear unit that stays.
    """
    similar = (cosine.abs() > threshold).tril(-1)
    stays = torch.ones_like(similar[0])
    on_host = cosine.device.type == "cpu"
    for _ in range(stays.shape[0] if on_host else _SWEEPS):
        following = ~(similar & stays).any(1)
        if on_host and torch.equal(following, stays):
            break
        stays = following
    partner = (cosine.abs() * (similar & stays)).argmax(1)
    return ~stays, partner


@intervention("colinear_reset")
@dataclass
class ColinearReset(Intervention):
    """Resets units whose activation is a multiple of another unit's of their layer.

    Paper: a reconstruction. "Towards perpetually trainable neural networks" mentions resets of "dead or colinear features" and
    publishes no algorithm; dead ones are ReDo's.
    Equation: C_ij = cosine of the activations of units i and j over the training batch (and positions); in order of j, unit j is
    reset if |C_ij| > ``threshold`` for an i < j that is not reset: fresh incoming weights, outgoing weights 0.
    With ``hand_over`` unit i, the most colinear, first gets a = <h_i, h_j> / <h_i, h_i> times the outgoing weights of j, which
    leaves the function as it was if h_j = a h_i on every input. With ``centre``, C is the correlation, a the slope of the
    regression of h_j on h_i, and the readers' biases get its constant (at the border of a padded convolution, a little more).
    Deviations: none, since no algorithm is published. State: sums of products, (U, U) per layer, and sums, over the updates that
    are averaged.
    Optimizer: moments of every entry written for a reset unit are cleared and the step count kept.
    Does not work with: networks without hidden units (refused). With fewer examples than units, cosines are high by chance;
    average over updates. Behind a layer normalisation a reset changes the whole layer; max-pooling does not pass on a negative a.
    Target networks are left alone.
    """

    threshold: float = setting(0.99, "Bound of |C|.", low=0, high=1)
    every_updates: int = setting(1000, "Period in updates, 0 for never.", low=0)
    average_updates: int = setting(1, "Updates before the reset whose batches count.")
    smallest_count: int = setting(32, "A layer with fewer examples times positions than this is left alone.", low=2)
    centre: bool = setting(False, "Whether means are subtracted from the activations.")
    hand_over: bool = setting(False, "Whether the remaining unit takes over the outgoing weights of the reset one.")
    bias: str = setting("resample", "What happens to the unit's bias: ``resample`` or ``zero``.", choices=("resample", "zero"))
    optimizer_state: str = setting("zero", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    needs_taps: ClassVar = True
    no_effect: ClassVar = {"every_updates": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("colinear_reset.average_updates", self.average_updates, 1, max(1, self.every_updates))

    def attach(self, u: Update) -> None:
        """Makes the sums."""
        require_units(self.name, u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._policy = ResetPolicy(bias=self.bias, optimizer_state=self.optimizer_state)
        kind: dict[str, Any] = {"dtype": torch.float64, "device": u.generator.device}
        for layer in u.network.units.layers:
            self.state[f"{layer.name}/products"] = torch.zeros(layer.units, layer.units, **kind)
            self.state[f"{layer.name}/sums"] = torch.zeros(layer.units * layer.copies, **kind)
            self.state[f"{layer.name}/count"] = 0

    def acts_at(self, step: int) -> bool:
        """Tells whether the update is one of the last of a period."""
        return averaged_at(step, self.every_updates, self.average_updates)

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Sums over the last updates of a period, then resets."""
        if not self.acts_at(u.step):
            return {}
        for layer in u.network.units.layers:
            gram, sums, count = products(u.taps.post[layer.name], layer.copies)
            self.state[f"{layer.name}/products"] += gram
            self.state[f"{layer.name}/sums"] += sums
            self.state[f"{layer.name}/count"] += count
        return self._reset(u) if is_multiple(u.step, self.every_updates) else {}

    def _reset(self, u: Update) -> Logs:
        masks: dict[str, Tensor] = {}
        for layer in u.network.units.layers:
            gram, sums, count = (self.state[f"{layer.name}/{name}"] for name in ("products", "sums", "count"))
            if count >= self.smallest_count:
                shown = centred(gram, sums, count, layer.copies) if self.centre else gram.clone()
                masks[layer.name], partner = colinear(cosines(shown), self.threshold)
                if self.hand_over:
                    means = (sums / count).view(layer.copies, -1) * float(self.centre)
                    _transfer_outgoing(u.network, layer, shown, means, masks[layer.name], partner)
            gram.zero_()
            sums.zero_()
            self.state[f"{layer.name}/count"] = 0
        return {"units_reset": reset_units(u.network, u.optimizer, masks, self._policy, u.generator)}


def _transfer_outgoing(network: Network, layer: UnitLayer, shown: Tensor, means: Tensor, chosen: Tensor, partner: Tensor) -> None:
    """Gives partners what the chosen units contribute, from sums of products and the means subtracted before, (copies, U)."""
    row = partner.unsqueeze(0)
    slope = torch.where(chosen, shown.gather(0, row).squeeze(0) / shown.diagonal()[partner], 0.0)
    constant = torch.where(chosen, means - slope * means[:, partner], 0.0)
    compensate(network, layer, constant.flatten().float())
    shares = torch.zeros_like(shown, dtype=torch.float32)
    transfer_outgoing(network, layer, shares.scatter_(0, row, slope.unsqueeze(0).float()))
