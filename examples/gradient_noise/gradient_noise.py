"""An intervention of one's own, in one file: annealed Gaussian noise on the gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import require_range


def noise_scale(step: int, scale: float, decay: float) -> float:
    """Returns the standard deviation sqrt(scale / step^decay) at update ``step`` = 1, 2, ..."""
    return float((scale / step**decay) ** 0.5)


@torch.no_grad()
def add_noise(gradients: Sequence[Tensor], standard_deviation: float, generator: torch.Generator) -> None:
    """Adds independent N(0, standard_deviation^2) noise to every entry, in place."""
    for gradient in gradients:
        gradient.add_(torch.empty_like(gradient).normal_(generator=generator), alpha=standard_deviation)


@intervention("gradient_noise")
@dataclass
class GradientNoise(Intervention):
    """Adds annealed Gaussian noise to the gradients.

    Paper: Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks", equation 1:
    scale 0.01, 0.3 or 1, decay 0.55.
    Equation: g <- g + N(0, scale / t^decay) at update t.
    Deviations: none; the paper counts (1 + t) from t = 0. State: none but the private generator. Optimizer: untouched.

    Attributes:
        scale: Variance of the noise at the first update, at least 0.
        decay: Exponent of its decay, at least 0.
    """

    scale: float = 0.01
    decay: float = 0.55

    no_effect: ClassVar = {"scale": 0.0}

    def __post_init__(self) -> None:
        require_range("gradient_noise.scale", self.scale, 0)
        require_range("gradient_noise.decay", self.decay, 0)

    def after_backward(self, u: Update) -> Logs:
        """Edits the gradients before they are clipped."""
        deviation = noise_scale(u.step, self.scale, self.decay)
        gradients = [parameter.grad for parameter in u.network.parameters() if parameter.grad is not None]
        add_noise(gradients, deviation, u.generator)
        return {"standard_deviation": deviation}
