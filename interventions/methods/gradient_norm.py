"""Penalty on the norm of the loss's gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting


class _SquaredNorm(torch.autograd.Function):
    """The sum of squares of all entries of some tensors, in a few operations for all of them together."""

    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return torch.stack([tensor.square().sum() for tensor in tensors]).sum()  # the kept compiled form has no _foreach_norm

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, ...]:
        factor = 2 * outer[0]
        return tuple(tensor * factor for tensor in ctx.saved_tensors)


def squared_gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Returns the sum of squares of d loss / d parameters, with a graph; parameters that the loss does not reach count 0."""
    gradients = torch.autograd.grad(loss, list(parameters), create_graph=True, allow_unused=True)
    norm: Tensor = _SquaredNorm.apply(*[gradient for gradient in gradients if gradient is not None])  # type: ignore[no-untyped-call]
    return norm


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
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)

    no_effect: ClassVar = {"coefficient": 0.0}

    def term(self, loss: Tensor, parameters: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Tensor | None:
        """Returns the penalty."""
        if self.coefficient == 0:
            return None
        return squared_gradient_norm(loss, list(parameters.values())) * self.coefficient
