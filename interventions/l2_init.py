"""L2 Init: regularisation towards the initial parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interventions.base import Intervention, Logs, Update
from interventions.l2 import INCLUDE, included_parameters, trained_parameters
from interventions.registry import register
from networks.spec import require_choice, require_range


def l2_init_penalty(parameters: Mapping[str, Tensor], initial: Mapping[str, Tensor], coefficient: float) -> Tensor:
    """Returns coefficient / 2 * sum (p - p0)^2; its gradient is coefficient * (p - p0)."""
    return torch.stack([(value - initial[name]).square().sum() for name, value in parameters.items()]).sum() * (coefficient / 2)


@register("l2_init")
@dataclass
class L2Init(Intervention):
    """Pulls parameters towards their initial values (regenerative regularisation).

    Paper: Kumar et al. 2023, "Maintaining Plasticity in Continual Learning via Regenerative Regularization", equation 1; the
    coefficient is swept over 1e-2 ... 1e-5 there.
    Equation: loss + coefficient / 2 * sum (p - p0)^2 over all parameters but those of normalisation, added as its gradient.
    Deviations: the paper writes the sum without the factor 1/2, so its coefficient is half of this one.
    State: a copy of the initial parameters. Optimizer: untouched.

    Attributes:
        coefficient: Strength, at least 0.
        include: ``weights``, ``weights_and_biases`` or ``all``.
    """

    coefficient: float = 1e-3
    include: str = "weights_and_biases"

    no_effect: ClassVar = {"coefficient": 0.0}

    def __post_init__(self) -> None:
        require_range("l2_init.coefficient", self.coefficient, 0)
        require_choice("l2_init.include", self.include, INCLUDE)

    def attach(self, u: Update) -> None:
        """Copies the initial parameters."""
        self._parameters = included_parameters(u.network, self.include)
        for name, parameter in self._parameters.items():
            self.state[name] = parameter.detach().clone()

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Adds the penalty's gradient."""
        if self.coefficient > 0:
            names, trained, gradients = trained_parameters(self._parameters)
            displacement = torch._foreach_sub(trained, [self.state[name] for name in names])
            torch._foreach_add_(gradients, displacement, alpha=self.coefficient)
        return {}
