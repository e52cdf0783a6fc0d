"""Optimizers of one step size and running averages: Adam, SGD, RMSProp, Muon."""

import torch
from torch.optim import Optimizer

from plasticity.networks.network import Network
from plasticity.optimizers.factory import OptimizerSettings, optimizer
from plasticity.optimizers.paired_optimizer import PairedOptimizer
from plasticity.optimizers.unit_adam import UnitAdam


@optimizer("adam")
def _adam(settings: OptimizerSettings, network: Network, seed: int) -> Optimizer:
    """Adam (Kingma and Ba 2015), which can restart single units."""
    betas, epsilon = settings.adam_betas, settings.epsilon
    return UnitAdam(list(network.parameters()), lr=settings.learning_rate, betas=betas, eps=epsilon, fused=True)


@optimizer("sgd")
def _sgd(settings: OptimizerSettings, network: Network, seed: int) -> Optimizer:
    """Stochastic gradient descent, with momentum if there is any."""
    return torch.optim.SGD(list(network.parameters()), lr=settings.learning_rate, momentum=settings.momentum, fused=True)


@optimizer("rmsprop")
def _rmsprop(settings: OptimizerSettings, network: Network, seed: int) -> Optimizer:
    """RMSProp, centred or not."""
    return torch.optim.RMSprop(
        list(network.parameters()),
        lr=settings.learning_rate,
        alpha=settings.smoothing,
        eps=settings.epsilon,
        momentum=settings.momentum,
        centered=settings.centered,
    )


@optimizer("muon")
def _muon(settings: OptimizerSettings, network: Network, seed: int) -> Optimizer:
    """Muon for the matrices of hidden dense layers, Adam for all others: biases, convolutions, output (K. Jordan 2024)."""
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
    betas, epsilon = settings.adam_betas, settings.epsilon
    return PairedOptimizer(muon, UnitAdam(rest, lr=settings.learning_rate, betas=betas, eps=epsilon, fused=True))
