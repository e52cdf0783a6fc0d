"""Sharpness-aware minimisation."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting

_EPSILON: Final = 1e-12


@intervention("sam")
@dataclass
class SAM(Intervention):
    """Steps along the gradient at the worst point nearby, which favours flat minima (sharpness-aware minimisation).

    Paper: Foret et al. 2021, "Sharpness-aware minimization for efficiently improving generalization", equations 2 and 3; with
    plasticity in Lee et al. 2023, "PLASTIC", at radius 0.1.
    Equation: e = radius * g / ||g||, with the gradient g of the whole loss; the step uses the gradient of the agent's loss at
    p + e plus, as it was at p, that of what other methods add to the loss.
    Deviations: layers with statistics of the batch or load balancing see the batch twice, and count it twice.
    State: none. Optimizer: untouched; it receives a different gradient. Costs a second forward and backward pass.
    Does not work with: agents that cannot compute their loss again (refused at the first update). Methods that add to gradients
    in ``after_backward``, such as l2 and l2_init, must come after it in the config.
    """

    radius: float = setting(0.05, "rho, in the units of the parameters; 0 for none.", low=0)

    needs_recompute: ClassVar[bool] = True
    no_effect: ClassVar = {"radius": 0.0}

    def after_backward(self, u: Update) -> Logs:
        """Replaces the gradient by that of the worst point nearby."""
        if self.radius == 0:
            return {}
        assert u.recompute is not None
        parameters: list[Tensor] = [parameter for parameter in u.network.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # What other methods added to the loss keeps its gradient: the difference of the agent's own is added to it.
        here = torch.autograd.grad(u.recompute(), parameters) if u.has_terms else gradients
        before = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            torch._foreach_add_(parameters, torch._foreach_mul(gradients, self.radius / (norm + _EPSILON)))
        there = torch.autograd.grad(u.recompute(), parameters)
        with torch.no_grad():
            torch._foreach_copy_(parameters, before)
            for gradient, near, far in zip(gradients, here, there, strict=True):
                gradient.copy_(gradient + (far - near) if u.has_terms else far)
        return {}
