"""Regularisation towards the distribution of the initial parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.methods.l2 import INCLUDE, included_parameters
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting


def wasserstein_penalty(parameters: Mapping[str, Tensor], initial: Mapping[str, Tensor], coefficient: float) -> Tensor:
    """Returns coefficient * sum over tensors of ||sort(p) - sort(p0)||^2.

    Args:
        parameters: Tensors by name.
        initial: Their initial entries, sorted, (entries,) each.
        coefficient: At least 0.
    """
    distances = [(value.flatten().sort().values - initial[name]).square().sum() for name, value in parameters.items()]
    return torch.stack(distances).sum() * coefficient


def sorted_displacement(value: Tensor, initial: Tensor) -> Tensor:
    """Returns how far each entry of ``value`` is from the initial entry of the same rank, in the shape of ``value``.

    Equal entries may trade ranks. Half the gradient of ||sort(p) - sort(p0)||^2.

    Args:
        value: Any shape.
        initial: Its initial entries, sorted, (entries,).
    """
    flat = value.flatten()
    # NumPy sorts by vector instructions, PyTorch does not: a million and a half entries take 0.1 s rather than 0.4.
    places = torch.from_numpy(np.argsort(flat.numpy())) if flat.device.type == "cpu" else flat.argsort()
    return torch.empty_like(flat).scatter_(0, places, flat[places] - initial).view(value.shape)


@intervention("wasserstein_init")
@dataclass
class WassersteinInit(Intervention):
    """Pulls each tensor's sorted entries towards the sorted initial ones, so that only their distribution is kept.

    Paper: Lewandowski et al. 2024, "Directions of Curvature as an Explanation for Loss of Plasticity": the squared 2-Wasserstein
    distance between the entries of a layer and its initial ones; coefficients 1e-2 to 1e-5.
    Equation: loss + coefficient * sum over tensors of ||sort(p) - sort(p0)||^2, added as its gradient. Unlike L2 Init it does not
    change when entries trade places.
    Deviations: weights and biases are separate tensors. Published code that averages over a tensor's entries, and includes
    normalisation, is ``average: mean`` with ``include: all``.
    State: the sorted initial parameters. Optimizer: untouched. Cost: a sort of every tensor at each update, which for large dense
    layers on a CPU takes as long as the update itself.
    """

    coefficient: float = setting(1e-3, "Strength.", low=0)
    average: str = setting("sum", "``sum`` over a tensor's entries, or ``mean``.", choices=("sum", "mean"))
    include: str = setting("weights_and_biases", "``weights``, ``weights_and_biases`` or ``all``.", choices=INCLUDE)
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    no_effect: ClassVar = {"coefficient": 0.0}

    def attach(self, u: Update) -> None:
        """Sorts the initial parameters."""
        self._parameters = included_parameters(u.network, self.include)
        initial = initial_values(u, self.reference)
        for name in self._parameters:
            self.state[name] = initial[name].detach().flatten().sort().values

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Adds the penalty's gradient."""
        if self.coefficient > 0:
            for name, value in self._parameters.items():
                if value.grad is not None:
                    strength = 2 * self.coefficient / (value.numel() if self.average == "mean" else 1)
                    value.grad.add_(sorted_displacement(value.detach(), self.state[name]), alpha=strength)
        return {}
