"""Optimizers by name."""

from dataclasses import dataclass, field
from typing import Final

import torch
from torch.optim import Optimizer

from interventions.unit_adam import UnitAdam
from networks.network import Network
from networks.spec import require_choice, require_range

OPTIMIZERS: Final = ("adam", "sgd", "rmsprop")


@dataclass
class OptimizerSettings:
    """Settings of one optimizer.

    Weight decay is not among them: it is the intervention ``l2``, with a choice of parameters and of the decoupled form.

    Attributes:
        name: ``adam``, ``sgd`` or ``rmsprop``.
        learning_rate: Step size.
        betas: Adam's decay rates.
        epsilon: Added to the denominator of Adam and RMSProp.
        momentum: Of SGD and RMSProp.
        smoothing: Decay of RMSProp's average.
        centered: Whether RMSProp divides by the standard deviation rather than the root mean square.
        max_gradient_norm: Bound of the joint gradient norm; None for no clipping.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    epsilon: float = 1e-8
    momentum: float = 0.0
    smoothing: float = 0.95
    centered: bool = True
    max_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        require_choice("optimizer", self.name, OPTIMIZERS)
        require_range("optimizer.learning_rate", self.learning_rate, 0)
        require_range("optimizer.epsilon", self.epsilon, 0)
        require_range("optimizer.momentum", self.momentum, 0, 1)
        require_range("optimizer.smoothing", self.smoothing, 0, 1)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas={list(self.betas)} must be two numbers in [0, 1)")
        if self.max_gradient_norm is not None:
            require_range("optimizer.max_gradient_norm", self.max_gradient_norm, 0)


def build_optimizer(settings: OptimizerSettings, network: Network) -> Optimizer:
    """Builds an optimizer over all parameters of a network, fused where PyTorch has a fused kernel."""
    parameters = list(network.parameters())
    if settings.name == "adam":
        betas = (settings.betas[0], settings.betas[1])
        return UnitAdam(parameters, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True)
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    return torch.optim.RMSprop(
        parameters,
        lr=settings.learning_rate,
        alpha=settings.smoothing,
        eps=settings.epsilon,
        momentum=settings.momentum,
        centered=settings.centered,
    )
