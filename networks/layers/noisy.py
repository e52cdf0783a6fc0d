"""Linear maps with learned noise, by which a network explores (Fortunato et al. 2018, "Noisy networks for exploration")."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.layers.initialisers import Initialiser, initialisers_for


class NoisyLinear(nn.Linear):
    """y = W x + b + e_out * (S (e_in * x) + s): factorised Gaussian noise, the paper's equations 9 to 11.

    The noisy weight W + S * (e_out e_in^T) is never formed, which costs less than forming a second set of weights. Noise is drawn
    by ``fresh_noise``; without it the map is that of the means W and b.

    Attributes:
        weight_deviation: S, (out, in).
        bias_deviation: s, (out,).
        deviation: The paper's sigma_0; every entry of S and s starts at sigma_0 / sqrt(in).
        noise: e_in (in,) and e_out (out,), each f(x) = sign(x) sqrt(|x|) of standard normal x; or None.
    """

    def __init__(self, inputs: int, outputs: int, deviation: float) -> None:
        super().__init__(inputs, outputs)
        self.deviation = deviation
        self.weight_deviation = nn.Parameter(torch.empty(outputs, inputs))
        self.bias_deviation = nn.Parameter(torch.empty(outputs))
        self.noise: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in) to (B, out)."""
        return self.with_noise(super().forward(x), x)

    def with_noise(self, mean: Tensor, x: Tensor) -> Tensor:
        """Adds the noise at inputs (B, in) to (B, out), if there is any."""
        if self.noise is None:
            return mean
        incoming, outgoing = self.noise
        return mean + outgoing * functional.linear(x * incoming, self.weight_deviation, self.bias_deviation)


def dense(inputs: int, outputs: int, noise_deviation: float) -> nn.Linear:
    """Returns a linear map, noisy if the deviation is not 0."""
    return NoisyLinear(inputs, outputs, noise_deviation) if noise_deviation else nn.Linear(inputs, outputs)


def map_initialisers(path: str, linear: nn.Linear | nn.Conv2d, kind: str, gain: float) -> dict[str, Initialiser]:
    """Returns the initial distributions of a map's parameters by name; see ``initialisers_for``."""
    weight, bias = initialisers_for(kind, linear.weight, gain)
    chosen = {f"{path}.weight": weight, f"{path}.bias": bias}
    if isinstance(linear, NoisyLinear):
        start = Initialiser("constant", linear.deviation * linear.in_features**-0.5)
        chosen |= {f"{path}.weight_deviation": start, f"{path}.bias_deviation": start}
    return chosen


@contextmanager
def fresh_noise(layers: Sequence[NoisyLinear], generator: torch.Generator) -> Iterator[None]:
    """Draws noise for the layers, which stays the same for all forward passes inside the block.

    Args:
        layers: ``Network.noisy_layers``.
        generator: On their device.
    """
    sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
    normal = torch.empty(sum(sizes), device=generator.device).normal_(generator=generator)
    drawn = (normal.sign() * normal.abs().sqrt()).split(sizes)
    for layer, incoming, outgoing in zip(layers, drawn[::2], drawn[1::2], strict=True):
        layer.noise = (incoming, outgoing)
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None
