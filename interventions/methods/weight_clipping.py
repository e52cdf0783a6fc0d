"""Weight clipping."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.networks.layers.initialisers import fan_in
from plasticity.networks.network import Network
from plasticity.settings.fields import setting


def maps_of(network: Network, with_head: bool = True) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Returns the weight and the bias, None if there is none, of every linear map, by the map's path.

    Args:
        network: The network.
        with_head: Whether the maps onto the outputs are included.
    """
    parameters = dict(network.named_parameters())
    head = set() if with_head else set(network.blocks[-1].parameters)
    paths = [name.removesuffix(".weight") for name in network.weights() if name not in head]
    return {path: (parameters[f"{path}.weight"].detach(), _detached(parameters.get(f"{path}.bias"))) for path in paths}


def clipping_bounds(network: Network, factor: float, clip_head: bool) -> tuple[list[Tensor], list[float]]:
    """Returns weights and biases, and the bound of each: factor / sqrt(fan_in), for a bias the fan-in of its weight."""
    tensors: list[Tensor] = []
    bounds: list[float] = []
    for weight, bias in maps_of(network, clip_head).values():
        own = [weight] if bias is None else [weight, bias]
        tensors += own
        bounds += [factor * fan_in(weight) ** -0.5] * len(own)
    return tensors, bounds


@torch.no_grad()
def clip_weights(tensors: list[Tensor], bounds: list[float]) -> None:
    """Keeps every entry between minus and plus the bound of its tensor, in place."""
    torch._foreach_clamp_max_(tensors, bounds)
    torch._foreach_clamp_min_(tensors, [-bound for bound in bounds])


@intervention("weight_clipping")
@dataclass
class WeightClipping(Intervention):
    """Keeps weights and biases within a multiple of their initial range, after every update.

    Paper: Elsayed et al. 2024, "Weight Clipping for Deep Continual and Reinforcement Learning", algorithm 1; the factor is swept
    from 1 to 5 in continual learning and is 3 in the code for PPO.
    Equation: w <- clip(w, -factor / sqrt(fan_in), factor / sqrt(fan_in)); a bias has the fan-in of its weight.
    Deviations: none; normalisation, noise deviations, learned shapes of activations and a policy's free deviation are exempt.
    State: none. Optimizer: untouched. An initial distribution wider than the bound, such as Kaiming's (2.45 / sqrt(fan_in) behind
    relu) with a factor of 1, is cut by the first update.
    """

    factor: float = setting(3.0, "kappa, above 0.", low=1e-06)
    clip_head: bool = setting(True, "Whether the maps onto the outputs are clipped as well.")

    no_effect: ClassVar = {"factor": 1e9}

    def attach(self, u: Update) -> None:
        """Finds the weights and computes their bounds."""
        self._tensors, self._bounds = clipping_bounds(u.network, self.factor, self.clip_head)

    def after_step(self, u: Update) -> Logs:
        """Clips."""
        if self._tensors:
            clip_weights(self._tensors, self._bounds)
        return {}


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
