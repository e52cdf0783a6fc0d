"""Shrink and perturb."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.methods.l2 import INCLUDE, included_parameters
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled, copy_again, estimate_spectral_norms, restart_all
from plasticity.interventions.surgery.fresh_draws import NOISE, FreshDraws
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import setting


@torch.no_grad()
def shrink_and_perturb(parameters: list[Tensor], noise: list[Tensor], shrink: float | Tensor, perturb: float | Tensor) -> None:
    """Sets every p to shrink * p + perturb * noise, in place.

    Args:
        parameters: Changed in place.
        noise: One tensor for each.
        shrink: Factor of the old values, a number or 0-dim.
        perturb: Factor of the noise, a number or 0-dim.
    """
    torch._foreach_mul_(parameters, shrink)
    if isinstance(perturb, Tensor):
        torch._foreach_add_(parameters, torch._foreach_mul(noise, perturb))
    else:
        torch._foreach_add_(parameters, noise, alpha=perturb)


@intervention("shrink_and_perturb")
@dataclass
class ShrinkAndPerturb(Scheduled):
    """Shrinks all parameters and adds a little of a fresh network, at task switches, periodically or at every update.

    Paper: Ash & Adams 2020, "On Warm-Starting Neural Network Training": p <- shrink * p + noise, shrink 0.6, noise scale 0.01.
    Equation: p <- shrink * p + perturb * q with q drawn from the tensor's own initial distribution, as the paper's code does, or
    from N(0, 1) (``noise: gaussian``), as its text says. Normalisation gains and offsets are left alone.
    Other published forms are settings:

    * convex (comparisons in Lee et al. 2024 and later): shrink 1 - perturb, perturb 0.2 to 0.8, ``optimizer_state: restart``;
    * Dohare et al. 2024: every_updates 1, shrink 1, perturb 1e-6 ... 1e-4, ``noise: gaussian``, together with ``l2`` (which is
      the shrinking there);
    * Kumar et al. 2023: every_updates 1, shrink 1 - p, perturb from 1e-5 to 1e-2;
    * soft (Juliani & Ash 2024): every_updates 1, perturb 1e-6, shrink 0.999999;
    * by dormancy (DrM): the method ``perturb_by_dormancy``.

    Deviations: none. State: none. Optimizer: kept by default; ``restart`` clears it as a new training round would.
    Cost at every update: one draw for all tensors; orthogonal initial values need a decomposition of each, which
    ``noise: scaled`` avoids. Learned shapes of activations and deviations of noise count as weights.
    """

    shrink: float = setting(0.6, "Factor of the old parameters.", low=0, high=1)
    perturb: float = setting(0.01, "Factor of the noise.", low=0)
    noise: str = setting(
        "initial",
        "``initial``, ``scaled`` (normal numbers of the variance of each tensor's initial values) or ``gaussian``.",
        choices=NOISE,
    )
    include: str = setting(
        "weights_and_biases",
        "``weights``, ``weights_and_biases`` or ``all`` (with normalisation, whose fresh gain is 1 and offset 0).",
        choices=INCLUDE,
    )
    copies: bool = setting(False, "Whether target networks are copied from the network again afterwards.")
    optimizer_state: str = setting("keep", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"shrink": 1.0, "perturb": 0.0, "every_updates": 3}

    def attach(self, u: Update) -> None:
        """Chooses the parameters."""
        require_restart(self.name, self.optimizer_state, u.optimizer)
        chosen = included_parameters(u.network, self.include)
        self._parameters: list[Tensor] = list(chosen.values())
        self._fresh = FreshDraws(chosen, u.network.initialisers, self.noise)

    def act(self, u: Update) -> Logs:
        """Shrinks and perturbs."""
        shrink_and_perturb(self._parameters, self._fresh.draw(u.generator), self.shrink, self.perturb)
        if self.every_updates != 1:
            estimate_spectral_norms(u.network)
        if self.optimizer_state != "keep":
            restart_all(u.optimizer, u.network.parameters(), self.optimizer_state)
        if self.copies:
            copy_again(u.network, u.copies)
        return {"applied": 1.0}
