"""TRAC: how far to move from a reference point, tuned while training."""

from dataclasses import dataclass
from functools import cache
from math import pi, sqrt
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.settings.fields import setting

_NODES: Final = 64
_ERFI_OF_ROOT_HALF: Final = 0.9534382692512609
_LARGEST: Final = 6.0  # erfi(6) is 4e14: beyond any scale that a sum of them could need


def erfi(x: Tensor) -> Tensor:
    """Returns the imaginary error function 2 / sqrt(pi) * integral of exp(t^2) from 0 to x, for |x| up to 6 and as at 6 beyond.

    By Gauss-Legendre quadrature with 64 nodes, exact to the last digits of a float64.
    """
    nodes, weights = _quadrature(x.device)
    x = x.double().clamp(-_LARGEST, _LARGEST)
    return (2 / sqrt(pi)) * x * (torch.exp((x.unsqueeze(-1) * nodes) ** 2) @ weights)


@cache
def _quadrature(device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.as_tensor((nodes + 1) / 2, device=device), torch.as_tensor(weights / 2, device=device)


def tuned_scale(variance: Tensor, total: Tensor, first: float, epsilon: float) -> Tensor:
    """Returns max(sum over decay rates of first / erfi(1/sqrt(2)) * erfi(total / (sqrt(2 variance) + epsilon)), 0), 0-dim.

    Args:
        variance: (K,) discounted sums of h^2.
        total: (K,) discounted sums of -h.
        first: s_prev, the initial scale.
        epsilon: Added to the denominator.
    """
    normal = first / _ERFI_OF_ROOT_HALF
    return (normal * erfi(total / ((2 * variance).sqrt() + epsilon))).sum().clamp(min=0)


@intervention("trac")
@dataclass
class TRAC(Intervention):
    """Scales the displacement from the initial weights by a factor that a parameter-free rule tunes.

    Paper: Muppidi et al. 2024, "Fast TRAC: A Parameter-Free Optimizer for Lifelong Reinforcement Learning", algorithms 1 and 2.
    Equation: p = p_ref + S d, where d adds up the steps of the base optimizer; h = <d, g>; for every decay rate b
    v <- b^2 v + h^2, z <- b z - h; S = max(sum of s / erfi(1/sqrt 2) * erfi(z / (sqrt(2 v) + e)), 0).
    Deviations: one factor for all parameters of a part; p_ref are the weights at the start.
    Published code, from which the paper's figures come, computes the same equations in another way, which is not offered: it
    starts z at 1e-8 instead of 0, so that S is above 0 in the first update; it does not keep d but recovers it at each update as
    (p - p_ref) / (S + e), with S the sum before it is cut off at 0, so that what the base optimizer had added up starts again
    from 0 when S <= 0 has put p back at p_ref; and in float32 p_ref + S d is p_ref as long as S d is below the rounding of
    p_ref, so that d is lost: from PyTorch's default weights it does not learn at all. Here d is kept, and sums are float64.
    State: p_ref, d, v and z. Optimizer: any; its own steps are added up in d. The first steps hardly move the weights: S starts
    near 1e-8.
    Does not work with: methods that write weights after the step, resets among them: with the next update d undoes what they
    wrote (those that come before it in the config are taken for steps).
    """

    decay_rates: list[float] = setting([0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999], "b of each tuner.")
    first_scale: float = setting(1e-8, "s, the initial scale.", low=0)
    epsilon: float = setting(1e-8, "e.", low=0)

    no_effect: ClassVar = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decay_rates or not all(0 < rate < 1 for rate in self.decay_rates):
            raise ValueError(f"trac.decay_rates={list(self.decay_rates)} must be numbers between 0 and 1, at least one")

    def attach(self, u: Update) -> None:
        """Takes the initial weights as the reference."""
        device = next(u.network.parameters()).device
        for name, parameter in u.network.named_parameters():
            self.state[f"reference {name}"] = parameter.detach().clone()
            self.state[f"way {name}"] = torch.zeros_like(parameter, requires_grad=False)
        named = list(u.network.named_parameters())
        self._parameters: list[Tensor] = [parameter.detach() for _, parameter in named]
        self._ways = [self.state[f"way {name}"] for name, _ in named]
        self._references = [self.state[f"reference {name}"] for name, _ in named]
        for name in ("variance", "total"):
            self.state[name] = torch.zeros(len(self.decay_rates), dtype=torch.float64, device=device)
        self._rates = torch.tensor(self.decay_rates, dtype=torch.float64, device=device)

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Updates the sums with the gradient, and remembers where the step starts."""
        self._before = [parameter.clone() for parameter in self._parameters]
        pairs = [(way, p.grad) for way, p in zip(self._ways, u.network.parameters(), strict=True) if p.grad is not None]
        along = torch.stack([torch.dot(way.flatten(), gradient.flatten()) for way, gradient in pairs]).sum().double()
        self.state["variance"].mul_(self._rates**2).add_(along**2)
        self.state["total"].mul_(self._rates).sub_(along)
        return {}

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Adds the optimizer's step to the displacement, and puts the weights at the tuned distance."""
        scale = tuned_scale(self.state["variance"], self.state["total"], self.first_scale, self.epsilon)
        torch._foreach_add_(self._ways, torch._foreach_sub(self._parameters, self._before))
        torch._foreach_copy_(self._parameters, torch._foreach_mul(self._ways, scale.float()))
        torch._foreach_add_(self._parameters, self._references)
        return {"scale": scale.float()}
