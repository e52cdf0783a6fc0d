"""Perturbation in proportion to dormancy, as in DrM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.methods.l2 import included_parameters
from plasticity.interventions.methods.redo import dormant
from plasticity.interventions.methods.shrink_and_perturb import shrink_and_perturb
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled, copy_again, estimate_spectral_norms, restart_all
from plasticity.interventions.surgery.fresh_draws import FreshDraws
from plasticity.interventions.surgery.unit_statistics import mean_activity
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import require_range, setting


def dormant_share(activations: Sequence[Tensor], threshold: float) -> Tensor:
    """Returns the share of dormant units among those of all layers, 0-dim.

    Args:
        activations: Of each layer, (B, U) or (B, U, H, W).
        threshold: Share of the layer's mean |activation| up to which a unit is dormant.
    """
    return torch.cat([dormant(mean_activity(values, 1), threshold) for values in activations]).float().mean()


def kept_share(dormant_units: Tensor, rate: float, least: float, most: float) -> Tensor:
    """Returns the factor of the old weights, 1 - rate * dormant share, kept between ``least`` and ``most``; 0-dim."""
    return (1 - rate * dormant_units).clamp(least, most)


@intervention("perturb_by_dormancy")
@dataclass
class PerturbByDormancy(Scheduled):
    """Mixes weights with fresh ones, more strongly the more units are dormant.

    Paper: Xu et al. 2024, "DrM: Mastering Visual Reinforcement Learning through Dormant Ratio Minimization": every 1e5 steps,
    factor between 0.2 and 0.9, threshold 0.025.
    Equation: f = clip(1 - rate * dormant share, least, most); p <- f p + (1 - f) q with q drawn from the tensor's own initial
    distribution, for weights and biases of dense maps. A unit is dormant if E|z_i| <= threshold * mean over k of E|z_k|, with z
    the pre-activations, as in the authors' code.
    Deviations: the outputs are not counted among the units, unlike in the code; all hidden activations of the training forward
    just before the step are. At a task switch there is no batch, so that the factor there is that of the last measurement
    (``most`` before the first).
    State: the last measured share. Optimizer: reset by default, as in the code.
    """

    threshold: float = setting(0.025, "tau.", low=0)
    rate: float = setting(2.0, "Factor of the dormant share.", low=0)
    least: float = setting(0.2, "Smallest f.", low=0, high=1)
    most: float = setting(0.9, "Largest f.")
    convolutions: bool = setting(False, "Whether convolutions are mixed as well.")
    copies: bool = setting(False, "Whether target networks are copied from the network again afterwards.")
    optimizer_state: str = setting("restart", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    needs_taps: ClassVar = True
    no_effect: ClassVar = {"every_updates": 0, "at_task_switch": False}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("perturb_by_dormancy.most", self.most, self.least, 1)

    def attach(self, u: Update) -> None:
        """Chooses the parameters."""
        super().attach(u)
        require_restart(self.name, self.optimizer_state, u.optimizer)
        network = u.network
        if not (network.units.layers or network.units.excluded):
            raise ValueError("intervention perturb_by_dormancy measures hidden units, and this network has none; give widths")
        skipped = set() if self.convolutions else _of_convolutions(list(network.weights()), network.weights())
        chosen = {n: p for n, p in included_parameters(network, "weights_and_biases").items() if n not in skipped}
        if not chosen:
            raise ValueError("perturb_by_dormancy.convolutions=false leaves nothing of this network, which has no dense maps")
        self._parameters: list[Tensor] = list(chosen.values())
        self._fresh = FreshDraws(chosen, network.initialisers)
        self.state["dormant_share"] = torch.zeros((), device=u.generator.device)

    @torch.no_grad()
    def act(self, u: Update) -> Logs:
        """Measures, if there are activations, and mixes."""
        share = self.state["dormant_share"]
        if u.taps.pre:
            share.copy_(dormant_share(list(u.taps.pre.values()), self.threshold))
        kept = kept_share(share, self.rate, self.least, self.most)
        shrink_and_perturb(self._parameters, self._fresh.draw(u.generator), kept, 1 - kept)
        estimate_spectral_norms(u.network)
        if self.optimizer_state != "keep":
            restart_all(u.optimizer, u.network.parameters(), self.optimizer_state)
        if self.copies:
            copy_again(u.network, u.copies)
        return {"dormant_share": share.clone(), "kept": kept}


def _of_convolutions(names: Sequence[str], weights: dict[str, torch.nn.Parameter]) -> set[str]:
    """Returns the names of weights and biases of convolutions."""
    paths = {name.removesuffix(".weight") for name in names if weights[name].ndim > 2}
    return {f"{path}.{key}" for path in paths for key in ("weight", "bias")}
