"""Values whose scale is learned separately from their dependence on the features (van Hasselt et al. 2016, PopArt)."""

import torch
from torch import Tensor, nn

from plasticity.networks.heads.head import Head
from plasticity.networks.layers.noisy import NoisyLinear, dense
from plasticity.networks.registry import head
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.settings.fields import require_range

_MOMENTS = ("mean", "second_moment", "deviation")


@head("pop_art")
class PopArtHead(Head):
    """A linear map onto normalised values, which stand for mean + deviation * output.

    The moments are those of the targets, one pair for all outputs. They are float64, since deviation^2 is the small difference
    of two large numbers where values are far from 0; they start at a mean of 0 and a deviation of 1. They are not part of the
    head's block: a head that is drawn again still knows the scale of its targets.

    Attributes:
        mean: mu, 0-dim.
        second_moment: nu, 0-dim.
        deviation: sigma = sqrt(nu - mu^2), at least ``spec.deviation_low``, 0-dim.
    """

    mean: Tensor
    second_moment: Tensor
    deviation: Tensor

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, spec, network)
        if spec.dueling or spec.kind not in ("q", "value"):
            made = f"{'dueling ' * spec.dueling}{spec.kind}"
            raise ValueError(f"pop_art normalises the outputs of a plain q or value head, not {made}")
        require_range("head.deviation_low", spec.deviation_low, 1e-30)
        if network.injected_layers:
            raise ValueError("plasticity_injection does not work with pop_art, which could not rescale its frozen companions")
        self.linear = dense(features, spec.outputs, spec.noise_deviation)
        for name, start in zip(_MOMENTS, (0.0, 1.0, 1.0), strict=True):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float64))

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns normalised values, (B, outputs)."""
        values: Tensor = self.linear(features)
        return values

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the values, (B, outputs)."""
        return outputs * self.deviation + self.mean

    def encode(self, values: Tensor) -> Tensor:
        """Returns normalised values; the inverse of ``decode``."""
        return (values - self.mean) / self.deviation

    @torch.no_grad()
    def update_moments(self, targets: Tensor, step_size: float) -> None:
        """Moves the moments towards those of ``targets``, and rescales the map so that its values stay (the paper's algorithm 1).

        mu <- (1 - step_size) mu + step_size mean(targets), nu likewise for their squares.

        Args:
            targets: Values of any shape.
            step_size: In [0, 1].
        """
        targets = targets.double()
        mean = torch.lerp(self.mean, targets.mean(), step_size)
        second_moment = torch.lerp(self.second_moment, targets.square().mean(), step_size)
        variance = (second_moment - mean.square()).clamp(min=self.spec.deviation_low**2)
        self._rescale(mean, second_moment, variance.sqrt())

    @torch.no_grad()
    def copy_moments(self, other: "PopArtHead") -> None:
        """Takes over the moments of another head, and rescales the map so that its own values stay."""
        self._rescale(other.mean, other.second_moment, other.deviation)

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the one map."""
        return {f"{prefix}.linear": (self.linear, self.spec.gain)}

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """Returns the map, without the moments."""
        return {"head": (f"{prefix}.linear",)}

    def _rescale(self, mean: Tensor, second_moment: Tensor, deviation: Tensor) -> None:
        """W <- sigma / sigma' W, b <- (sigma b + mu - mu') / sigma', the paper's proposition 1; then the moments are these."""
        factor = self.deviation / deviation
        self.linear.weight.mul_(factor)
        self.linear.bias.mul_(factor).add_((self.mean - mean) / deviation)
        if isinstance(self.linear, NoisyLinear):
            self.linear.weight_deviation.mul_(factor)
            self.linear.bias_deviation.mul_(factor)
        for name, value in zip(_MOMENTS, (mean, second_moment, deviation), strict=True):
            getattr(self, name).copy_(value)


def pop_art_heads(network: nn.Module) -> list[PopArtHead]:
    """Returns a network's heads of this kind, one for each member of an ensemble; none if its values are not normalised."""
    return [module for module in network.modules() if isinstance(module, PopArtHead)]
