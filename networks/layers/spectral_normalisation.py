"""Linear maps divided by their largest singular value (Miyato et al. 2018, "Spectral normalization")."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.layers.convolution import convolve
from plasticity.networks.layers.noisy import NoisyLinear

_ITERATIONS: Final = 20
_EPSILON: Final = 1e-12


class SpectralNormalisation(nn.Module):
    """Computes a map with W / sigma instead of W, sigma being estimated by a power iteration that continues during training.

    A training forward makes one iteration; evaluation makes none. The gradient passes through sigma = u^T W v with u and v held
    fixed. A convolution's weight counts as a matrix (out, in * height * width). The parameter keeps its own scale, so resets and
    metrics see and write W itself.

    Args:
        linear: The map; it stays where it is, and is only read.

    Attributes:
        left: (out,) estimate u of the first left singular vector.
        right: (in * height * width,) estimate v of the first right one.
    """

    left: Tensor
    right: Tensor

    def __init__(self, linear: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self._linear = (linear,)  # in a tuple, so that its parameters are not registered a second time
        rows, columns = linear.weight.flatten(1).shape
        generator = torch.Generator().manual_seed(0)  # any start that is not orthogonal to the answer will do
        self.register_buffer("left", functional.normalize(torch.randn(rows, generator=generator), dim=0))
        self.register_buffer("right", functional.normalize(torch.randn(columns, generator=generator), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in, ...) as the linear map would with W / sigma; neither the bias nor noise is scaled."""
        linear = self._linear[0]
        if self.training:
            self._iterate()
        left, right = self.left.clone(), self.right.clone()  # the next iteration writes in place
        with torch.autocast(x.device.type, enabled=False):  # u and v belong to the weight as it is
            sigma = torch.dot(left, linear.weight.flatten(1) @ right)
        # A weight that is 0 everywhere, as after a reset of all that it reads, has no singular value to divide by.
        weight = linear.weight / torch.where(sigma.abs() > _EPSILON, sigma, 1.0)
        if isinstance(linear, nn.Conv2d):
            return convolve(x, weight, linear.bias, linear.stride, linear.padding, linear.groups)
        z = functional.linear(x, weight, linear.bias)
        return linear.with_noise(z, x) if isinstance(linear, NoisyLinear) else z

    def estimate(self) -> None:
        """Makes enough iterations for the estimate to fit the weight as it is."""
        for _ in range(_ITERATIONS):
            self._iterate()

    @torch.no_grad()
    def _iterate(self) -> None:
        matrix = self._linear[0].weight.flatten(1)
        functional.normalize(matrix.t() @ self.left, dim=0, eps=_EPSILON, out=self.right)
        functional.normalize(matrix @ self.right, dim=0, eps=_EPSILON, out=self.left)
