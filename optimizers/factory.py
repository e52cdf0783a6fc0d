"""Optimizers by name."""

from dataclasses import dataclass, field
from typing import Final

import torch
from torch.optim import Optimizer

from plasticity.networks.network import Network
from plasticity.networks.spec import require_choice, require_range
from plasticity.optimizers.library_optimizers import LIBRARY, build_library_optimizer
from plasticity.optimizers.paired_optimizer import PairedOptimizer
from plasticity.optimizers.unit_adam import UnitAdam

OPTIMIZERS: Final = ("adam", "sgd", "rmsprop", "muon", *LIBRARY)


@dataclass
class OptimizerSettings:
    """Settings of one optimizer.

    Weight decay is not among them: it is the intervention ``l2``, with a choice of parameters and of the decoupled form.

    Attributes:
        name: ``adam``, ``sgd``, ``rmsprop``, ``muon``, or of a library ``soap``, ``shampoo`` or ``kron``.
        learning_rate: Step size; Muon's are scaled to the size of Adam's, so that the same numbers serve both.
        betas: Decay rates of Adam and SOAP; Kron uses the first.
        epsilon: Added to the denominator of Adam, SOAP and RMSProp.
        momentum: Of SGD, RMSProp and Muon.
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


def build_optimizer(settings: OptimizerSettings, network: Network, seed: int = 0) -> Optimizer:
    """Builds an optimizer over all parameters of a network, fused where PyTorch has a fused kernel.

    Args:
        settings: Which, and how.
        network: Its parameters are trained.
        seed: Of optimizers that draw numbers.
    """
    parameters = list(network.parameters())
    betas = (settings.betas[0], settings.betas[1])
    if settings.name == "adam":
        return UnitAdam(parameters, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True)
    if settings.name == "muon":
        return _muon(settings, network)
    if settings.name in LIBRARY:
        return build_library_optimizer(settings.name, parameters, settings.learning_rate, betas, settings.epsilon, seed)
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


def _muon(settings: OptimizerSettings, network: Network) -> Optimizer:
    """Muon for the matrices of hidden dense layers, Adam for all else: biases, convolutions, output (K. Jordan 2024)."""
    output = set(network.blocks[-1].parameters)
    matrices = {name for name, weight in network.weights().items() if weight.ndim == 2 and name not in output}
    if not matrices:
        raise ValueError("optimizer=muon orthogonalises steps of hidden dense layers, and this network has none; choose adam")
    named = dict(network.named_parameters())
    muon = torch.optim.Muon(
        [named[name] for name in named if name in matrices],
        lr=settings.learning_rate,
        weight_decay=0.0,
        momentum=settings.momentum or 0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = [parameter for name, parameter in named.items() if name not in matrices]
    betas = (settings.betas[0], settings.betas[1])
    return PairedOptimizer(muon, UnitAdam(rest, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True))
