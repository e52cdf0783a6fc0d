"""Activation functions, with what the rest of the testbed must know about each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from networks.spec import require_choice


@dataclass(frozen=True)
class Activation:
    """A pointwise non-linearity.

    Attributes:
        function: Maps pre-activations (B, U, ...) to post-activations (B, copies * U, ...).
        copies: Output channels per unit: 2 for CReLU, whose second half holds the negated branch.
        threshold: Whether the function switches regime at 0, so that a firing rate means something.
        gain: Factor of the Kaiming and orthogonal initialisers (He et al. 2015).
    """

    function: Callable[[Tensor], Tensor]
    copies: int = 1
    threshold: bool = True
    gain: float = 2**0.5


def crelu(z: Tensor) -> Tensor:
    """Concatenates relu(z) and relu(-z) along the unit axis 1 (Abbas et al. 2023)."""
    return torch.cat([functional.relu(z), functional.relu(-z)], dim=1)


ACTIVATIONS: Final[dict[str, Activation]] = {
    "relu": Activation(functional.relu),
    "leaky_relu": Activation(functional.leaky_relu, gain=(2 / (1 + 0.01**2)) ** 0.5),
    "gelu": Activation(functional.gelu),
    "tanh": Activation(torch.tanh, threshold=False, gain=5 / 3),
    "abs": Activation(torch.abs, gain=1.0),
    "crelu": Activation(crelu, copies=2, gain=1.0),
    "identity": Activation(lambda z: z, threshold=False, gain=1.0),
}


def activation_named(name: str) -> Activation:
    """Looks an activation up.

    Raises:
        ValueError: If there is none of that name.
    """
    require_choice("network.activations", name, list(ACTIVATIONS))
    return ACTIVATIONS[name]
