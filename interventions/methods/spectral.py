"""Spectral regularisation."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting

_WARMUP = 15  # steps of the power iteration before the first update, so that it does not start from a random direction


class Leading(NamedTuple):
    """The leading singular triple of a matrix, as far as the power iteration has found it.

    Attributes:
        left: u, (out,), of norm 1.
        value: sigma = u^T W v, 0-dim.
        right: v, (in,), of norm 1, or 0 if W is.
    """

    left: Tensor
    value: Tensor
    right: Tensor


def power_iteration(weight: Tensor, left: Tensor, iterations: int) -> Leading:
    """Improves an estimate of the leading left singular vector: v <- W^T u / ||.||, u <- W v / ||.||.

    Args:
        weight: (out, in) or (out, in, height, width), flattened to (out, in * height * width).
        left: The estimate so far, (out,), of norm 1; kept where W v is 0.
        iterations: Steps, at least 1.
    """
    matrix = weight.flatten(1)
    for _ in range(iterations):
        right = _normalised(left @ matrix)
        image = matrix @ right
        left = torch.where(image.norm() > 0, _normalised(image), left)
    return Leading(left, left @ image, right)


def spectral_gradient(leading: Leading, power: int) -> Tensor:
    """Returns the gradient of (sigma^power - 1)^2 for the flattened weight, (out, in): 2 p sigma^(p-1) (sigma^p - 1) u v^T."""
    sigma = leading.value
    slope = 2 * power * sigma ** (power - 1) * (sigma**power - 1)
    return torch.outer(slope * leading.left, leading.right)


def bias_gradient(bias: Tensor, power: int) -> Tensor:
    """Returns the gradient of ||b||^(2 power): 2 p ||b||^(2p-2) b."""
    return 2 * power * bias.square().sum() ** (power - 1) * bias


@intervention("spectral")
@dataclass
class Spectral(Intervention):
    """Keeps the largest singular value of every weight near 1.

    Paper: Lewandowski et al. 2025, "Learning Continually by Spectral Regularization", section 4: k = 2, one step of the power
    iteration for each update; coefficients 1e-3 to 1e-5.
    Equation: loss + coefficient * sum over layers of (sigma_max(W)^k - 1)^2 + ||b||^(2k) + ||gain - 1||^2, added as its gradient,
    with sigma = u^T W v and u, v held fixed; a convolution's weight is flattened to (out, in * height * width), and offsets of a
    normalisation count as biases.
    Deviations: u takes 15 steps before the first update, since from a random start sigma would be too small and the weights
    would be pushed up. Other vectors than biases and offsets, such as a policy's log deviation, are left alone.
    State: u of every weight. Optimizer: untouched. Cost: two products of a matrix and a vector for each weight.
    """

    coefficient: float = setting(1e-4, "Strength.", low=0)
    power: int = setting(2, "k.", low=1)
    iterations: int = setting(1, "Steps of the power iteration for each update.", low=1)

    no_effect: ClassVar = {"coefficient": 0.0}

    @torch.no_grad()
    def attach(self, u: Update) -> None:
        """Finds the first singular vectors."""
        network = u.network
        self._weights = network.weights()
        named = {name: value for name, value in network.named_parameters() if value.ndim == 1}
        self._biases = [value for name, value in named.items() if name.endswith(".bias")]
        norms = network.norm_parameters
        self._gains = [value for name, value in named.items() if name in norms and name.endswith(".weight")]
        for name, weight in self._weights.items():
            start = torch.empty(weight.shape[0], device=weight.device).normal_(generator=u.generator)
            self.state[name] = power_iteration(weight, _normalised(start), _WARMUP).left

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Adds the penalty's gradient."""
        if self.coefficient == 0:
            return {}
        largest = []
        for name, weight in self._weights.items():
            leading = power_iteration(weight, self.state[name], self.iterations)
            self.state[name].copy_(leading.left)
            largest.append(leading.value)
            _add_gradient(weight, spectral_gradient(leading, self.power).view(weight.shape), self.coefficient)
        for bias in self._biases:
            _add_gradient(bias, bias_gradient(bias, self.power), self.coefficient)
        for gain in self._gains:
            _add_gradient(gain, gain - 1, 2 * self.coefficient)
        return {"largest_singular_value": torch.stack(largest).max()}


def _normalised(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return vector / torch.where(norm > 0, norm, 1.0)


def _add_gradient(parameter: torch.nn.Parameter, gradient: Tensor, strength: float) -> None:
    if parameter.grad is not None:
        parameter.grad.add_(gradient, alpha=strength)
