"""The load-balancing layer: shifts each unit's pre-activation so that its firing rate stays within bounds."""

import torch
from torch import Tensor, nn

from plasticity.networks.spec import LoadBalancingSpec


class LoadBalance(nn.Module):
    """Adds a per-unit offset that a controller, not a gradient, moves.

    In training mode each forward measures the rate r = mean 1[z + offset > 0] over the batch and all positions, averages it,
    and moves the offset up by ``step_size`` where the average is below ``low``, and down where it is above ``high``. The
    measured value is the shifted one, which is what the activation receives. In evaluation mode nothing moves. Source:
    "Load Balancing Neurons", equations 4 and 5 and appendix E.

    Attributes:
        firing_rate: (U,) running average of the rate, initially 0.5.
        offset: (U,) shift, initially 0. Both are buffers: no gradient, no weight decay, saved with the weights.
    """

    firing_rate: Tensor
    offset: Tensor

    def __init__(self, units: int, spec: LoadBalancingSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("firing_rate", torch.full((units,), 0.5))
        self.register_buffer("offset", torch.zeros(units))

    def forward(self, z: Tensor) -> Tensor:
        """Shifts pre-activations (B, U, ...)."""
        shifted = z + self.offset.view(1, -1, *[1] * (z.ndim - 2)).to(z.dtype)
        if self.training:
            self._balance(shifted.detach())
        return shifted

    @torch.no_grad()
    def _balance(self, shifted: Tensor) -> None:
        axes = [axis for axis in range(shifted.ndim) if axis != 1]
        rate = (shifted > 0).float().mean(axes)
        # Buffers are replaced in value only: the offset added above must not be a view of what is moved here.
        self.firing_rate.mul_(self.spec.decay).add_(rate, alpha=1 - self.spec.decay)
        direction = (self.firing_rate < self.spec.low).float() - (self.firing_rate > self.spec.high).float()
        self.offset.add_(direction, alpha=self.spec.step_size)
