"""Optimizers by name."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch.optim import Optimizer

from plasticity.networks.network import Network
from plasticity.optimizers.library_optimizers import LIBRARY, build_library_optimizer
from plasticity.optimizers.paired_optimizer import PairedOptimizer
from plasticity.optimizers.unit_adam import UnitAdam
from plasticity.settings.fields import Settings, setting

OPTIMIZERS: Final = ("adam", "sgd", "rmsprop", "muon", *LIBRARY)


@dataclass
class OptimizerSettings(Settings):
    """Settings of one optimizer.

    Weight decay is not among them: it is the intervention ``l2``, with a choice of parameters and of the decoupled form.
    """

    section: ClassVar[str] = "optimizer"

    name: str = setting(
        "adam", "``adam``, ``sgd``, ``rmsprop``, ``muon``, or of a library ``soap``, ``shampoo`` or ``kron``.", choices=OPTIMIZERS
    )
    learning_rate: float = setting(
        1e-3, "Step size; Muon's are scaled to the size of Adam's, so that the same numbers serve both.", low=0
    )
    betas: list[float] = setting([0.9, 0.999], "Decay rates of Adam and SOAP; Kron uses the first.")
    epsilon: float = setting(1e-8, "Added to the denominator of Adam, SOAP and RMSProp.", low=0)
    momentum: float = setting(0.0, "Of SGD, RMSProp and Muon.", low=0, high=1)
    smoothing: float = setting(0.95, "Decay of RMSProp's average.", low=0, high=1)
    centered: bool = setting(True, "Whether RMSProp divides by the standard deviation rather than the root mean square.")
    max_gradient_norm: float | None = setting(None, "Bound of the joint gradient norm; None for no clipping.", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas={list(self.betas)} must be two numbers in [0, 1)")


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
