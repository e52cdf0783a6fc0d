"""Activation functions, with the facts about each that the rest of the testbed needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.networks.layers.learned_activations import PELU, LearnedActivation, Rational
from plasticity.settings.fields import require_choice


@dataclass(frozen=True)
class Activation:
    """A pointwise non-linearity.

    Attributes:
        function: Maps pre-activations (B, U, ...) to post-activations (B, copies * U, ...).
        copies: Output channels per unit: 2 for CReLU, whose second half holds the negated branch.
        threshold: Whether the sign of z shows that the unit is on, so that a firing rate is meaningful.
        kinked: Whether it is linear on either side of z = 0 and not across it.
        sided: Whether it bends about z = 0 and is a line where z > 0, so that a unit can be linearised: exactly (those that are
            kinked; elu and pelu), or in the limit (gelu and swish, whose slope is 1 from z = 4 on up to 0.0005 and 0.06).
        both_sides: Whether the unit also passes z on, scaled or negated, where z <= 0; there a relu is dead instead, and elu,
            pelu, gelu and swish saturate.
        saturation: A unit with |h| above this on every input is dead; None where only h = 0 on every input is.
        gain: Factor of the Kaiming and orthogonal initialisers (He et al. 2015).
        learned: Makes the module that takes the place of ``function`` for a layer of a given number of units, if its shape is
            learned.
    """

    function: Callable[[Tensor], Tensor]
    copies: int = 1
    gain: float = 2**0.5
    threshold: bool = True
    kinked: bool = True
    sided: bool = True
    both_sides: bool = False
    saturation: float | None = None
    learned: Callable[[int], LearnedActivation] | None = None


def crelu(z: Tensor) -> Tensor:
    """Concatenates relu(z) and relu(-z) along the unit axis 1 (Abbas et al. 2023)."""
    return torch.cat([functional.relu(z), functional.relu(-z)], dim=1)


def fourier(z: Tensor) -> Tensor:
    """Concatenates sin(z) and cos(z) along the unit axis 1 ("Plastic learning with deep Fourier features", Lewandowski 2024)."""
    return torch.cat([torch.sin(z), torch.cos(z)], dim=1)


def _replaced(z: Tensor) -> Tensor:
    raise TypeError("this activation is a module with parameters; see Activation.learned")


ACTIVATIONS: Final[Mapping[str, Activation]] = MappingProxyType(
    {
        "relu": Activation(torch.relu),
        "leaky_relu": Activation(functional.leaky_relu, gain=(2 / (1 + 0.01**2)) ** 0.5, both_sides=True),
        "elu": Activation(functional.elu, kinked=False),
        "gelu": Activation(functional.gelu, kinked=False),
        "swish": Activation(functional.silu, kinked=False),
        "sigmoid": Activation(torch.sigmoid, gain=1.0, threshold=False, kinked=False, sided=False),
        "tanh": Activation(torch.tanh, gain=5 / 3, threshold=False, kinked=False, sided=False, saturation=0.99),
        "abs": Activation(torch.abs, gain=1.0, both_sides=True),
        "crelu": Activation(crelu, copies=2, gain=1.0, both_sides=True),
        "fourier": Activation(fourier, copies=2, gain=1.0, threshold=False, kinked=False, sided=False),
        "pelu": Activation(_replaced, kinked=False, learned=PELU),
        "rational": Activation(_replaced, gain=(2 / (1 + 0.01**2)) ** 0.5, kinked=False, sided=False, learned=Rational),
        "identity": Activation(lambda z: z, gain=1.0, threshold=False, kinked=False, sided=False),
    }
)


def activation_named(name: str) -> Activation:
    """Looks an activation up.

    Raises:
        ValueError: If there is none of that name.
    """
    require_choice("network.activations", name, list(ACTIVATIONS))
    return ACTIVATIONS[name]
