"""Activations whose shape is learned with the weights."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.layers.initialisers import Initialiser

_LEAST: Final = 0.1
# Least-squares fit on [-3, 3] to leaky relu with slope 0.01; largest error 0.034, at 0.
_NUMERATOR: Final = (0.033572, 0.504991, 1.652633, 2.008065, 0.930545, 0.152128)
_DENOMINATOR: Final = (-0.000083, 3.976481, -0.000061, 0.301253)


class LearnedActivation(nn.Module):
    """An activation with parameters of its own; their initial distributions by name."""

    def initialisers(self) -> dict[str, Initialiser]:
        """Returns the initial distribution of each parameter."""
        raise NotImplementedError


class PELU(LearnedActivation):
    """(a/b) z where z >= 0, a (exp(z/b) - 1) below, with a and b of each unit learned and at least 0.1 (Trottier et al. 2017).

    Attributes:
        height: a, (U,), initially 1.
        width: b, (U,), initially 1.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.height, self.width = nn.Parameter(torch.ones(units)), nn.Parameter(torch.ones(units))

    def forward(self, z: Tensor) -> Tensor:
        """Maps (B, U, ...) to the same shape."""
        shape = (1, -1, *[1] * (z.ndim - 2))
        a, b = (value.clamp(min=_LEAST).view(shape) for value in (self.height, self.width))
        return (a / b) * functional.relu(z) + a * torch.expm1(-functional.relu(-z) / b)

    def initialisers(self) -> dict[str, Initialiser]:
        """Both start at 1."""
        return dict.fromkeys(("height", "width"), Initialiser("constant", 1.0))


class Rational(LearnedActivation):
    """P(z) / (1 + |Q(z)|), P of degree 5 and Q of degree 4 without a constant, learned for a whole layer (Molina et al. 2020).

    Attributes:
        numerator: (6,) coefficients of P, from the constant up; initially those of a fit to a leaky relu.
        denominator: (4,) coefficients of Q, from z up.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.numerator, self.denominator = nn.Parameter(torch.tensor(_NUMERATOR)), nn.Parameter(torch.tensor(_DENOMINATOR))

    def forward(self, z: Tensor) -> Tensor:
        """Maps (B, U, ...) to the same shape, in float32."""
        z = z.float()
        numerator, denominator = torch.zeros_like(z), torch.zeros_like(z)
        for coefficient in self.numerator.flip(0):
            numerator = numerator * z + coefficient
        for coefficient in self.denominator.flip(0):
            denominator = (denominator + coefficient) * z
        return numerator / (1 + denominator.abs())

    def initialisers(self) -> dict[str, Initialiser]:
        """The fit's coefficients."""
        return {
            "numerator": Initialiser("values", 1.0, _NUMERATOR),
            "denominator": Initialiser("values", 1.0, _DENOMINATOR),
        }
