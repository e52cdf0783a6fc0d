"""Weights held at their initial norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.interventions.reference import REFERENCE_DOC, REFERENCES, START, initial_values
from plasticity.interventions.registry import intervention
from plasticity.networks.network import Network
from plasticity.settings.fields import setting


@torch.no_grad()
def project_norms(weights: Sequence[Tensor], norms: Sequence[Tensor]) -> None:
    """Scales each tensor in place to its norm: W <- W * norm / ||W||; one that is 0 everywhere stays 0.

    Args:
        weights: Tensors of any shape.
        norms: 0-dim, one for each.
    """
    present = torch._foreach_norm(list(weights))
    scales = [torch.where(now > 0, norm / now, 1.0) for now, norm in zip(present, norms, strict=True)]
    torch._foreach_mul_(list(weights), scales)


def projected_names(network: Network, output: bool) -> list[str]:
    """Returns the names of the weights to project: all, or those of hidden layers alone."""
    if output:
        return list(network.weights())
    last = set(network.blocks[-1].parameters)
    return [name for name in network.weights() if name not in last]


@intervention("weight_projection")
@dataclass
class WeightProjection(Intervention):
    """Scales every weight matrix back to its initial norm after each update.

    Paper: "Towards perpetually trainable neural networks", section 4.1, as an alternative to L2; there it kept weights from
    growing and slowed optimisation.
    Equation: W <- W * ||W_0||_F / ||W||_F for each layer's weight; biases and normalisation stay.
    Deviations: the paper does not say how often, nor whether the output layer takes part; here after every update, and it does.
    State: the initial norms. Optimizer: its moments are kept and not scaled.
    Does not work with: a weight that is 0 everywhere has no direction, and stays 0. Not function-preserving unless a
    normalisation follows the layer.
    """

    every_updates: int = setting(1, "Updates between two projections; 0 for never.", low=0)
    output: bool = setting(True, "Whether the output layer's weight is projected too.")
    reference: str = setting(START, REFERENCE_DOC, choices=REFERENCES)

    no_effect: ClassVar = {"every_updates": 0}

    def attach(self, u: Update) -> None:
        """Notes the norms that the weights start with."""
        initial = initial_values(u, self.reference)
        for name in projected_names(u.network, self.output):
            self.state[name] = initial[name].detach().norm()

    def after_step(self, u: Update) -> Logs:
        """Projects if it is due."""
        if is_multiple(u.step, self.every_updates):
            project_norms([u.network.tensor(name) for name in self.state], list(self.state.values()))
        return {}
