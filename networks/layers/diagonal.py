"""A factor and an offset for each unit, behind a linear map whose weights are held at a fixed size."""

import torch
from torch import Tensor, nn


class Diagonal(nn.Module):
    """d * z + e for each unit: what a weight with orthogonal rows of one length cannot express (Chung et al. 2024).

    Attributes:
        weight: d, (U,), starts at 1.
        bias: e, (U,), starts at 0.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(units))
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, z: Tensor) -> Tensor:
        """Maps pre-activations (B, U, ...) to the same shape and type."""
        factor, offset = (value.to(z.dtype).view(1, -1, *[1] * (z.ndim - 2)) for value in (self.weight, self.bias))
        return torch.addcmul(offset, z, factor)
