"""Penalty on the norm of the loss's gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting


def squared_gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Returns the sum of squares of d loss / d parameters, with a graph; parameters that the loss does not reach count 0."""
    gradients = torch.autograd.grad(loss, list(parameters), create_graph=True, allow_unused=True)
    return torch.stack([gradient.square().sum() for gradient in gradients if gradient is not None]).sum()


@intervention("gradient_norm")
@dataclass
class GradientNorm(Intervention):
    """Penalises the squared norm of the loss's gradient.

    Paper: Barrett & Dherin 2021, "Implicit Gradient Regularization", section 3 (explicit form); as a remedy against loss of
    plasticity in "Towards perpetually trainable neural networks", alongside layer normalisation.
    Equation: loss + coefficient * ||d loss / d theta||^2, over all parameters of the part; other methods' terms are not part of
    that loss.
    Deviations: none known; no coefficient is given there, so this default is to be tuned.
    State: none. Optimizer: untouched. Cost: the gradient is differentiated again, two to three times the time of an update. The
    second derivative of a relu is taken as 0, as usual.
    Does not work with: ``compile`` (refused).
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)

    needs_graph: ClassVar = True
    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Lists the parameters, which stay the same objects."""
        self._parameters = list(u.network.parameters())

    def loss(self, u: Update) -> Tensor | None:
        """Returns the penalty."""
        if self.coefficient == 0:
            return None
        assert u.loss is not None
        return squared_gradient_norm(u.loss, self._parameters) * self.coefficient
