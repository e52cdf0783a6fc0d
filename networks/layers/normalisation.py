"""Normalisation layers between a linear map and its activation."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from plasticity.networks.layers.diagonal import Diagonal
from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import require_choice

_EPSILON: Final = 1e-5
_MOMENTUM: Final = 0.1


class LayerMean(nn.Module):
    """z - mean(z), over the units (and positions) of one example."""

    def forward(self, z: Tensor) -> Tensor:
        """Maps (B, U, ...) to the same shape."""
        return z - z.mean(_features(z), keepdim=True)


class LayerDeviation(nn.Module):
    """z / sqrt(var(z) + 1e-5), the variance over the units (and positions) of one example; z is not centred."""

    def forward(self, z: Tensor) -> Tensor:
        """Maps (B, U, ...) to the same shape."""
        return z * torch.rsqrt(z.var(_features(z), correction=0, keepdim=True) + _EPSILON)


class BatchMoment(nn.Module):
    """What normalisation by one moment over the batch shares: a running average (U,), momentum 0.1, that evaluation uses."""

    def __init__(self, name: str, units: int, start: float) -> None:
        super().__init__()
        self._name = name
        self.register_buffer(name, torch.full((units,), start))

    @property
    def running(self) -> Tensor:
        """The average."""
        return self.get_buffer(self._name)

    def average(self, measured: Tensor) -> None:
        """Adds the (U,) moment of a batch to the running average."""
        self.running.lerp_(measured.detach().to(self.running.dtype), _MOMENTUM)

    @staticmethod
    def along(z: Tensor) -> list[int]:
        """Axes of batch and positions."""
        return [axis for axis in range(z.ndim) if axis != 1]

    @staticmethod
    def per_unit(moment: Tensor, z: Tensor) -> Tensor:
        """Shapes (U,) so that it broadcasts against ``z``."""
        return moment.to(z.dtype).view(1, -1, *[1] * (z.ndim - 2))


class BatchMean(BatchMoment):
    """z - mean(z), over batch and positions of each unit."""

    def __init__(self, units: int) -> None:
        super().__init__("running_mean", units, 0.0)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (B, U, ...) to the same shape."""
        if not self.training:
            return z - self.per_unit(self.running, z)
        mean = z.mean(self.along(z))
        self.average(mean)
        return z - self.per_unit(mean, z)


class BatchDeviation(BatchMoment):
    """z / sqrt(var(z) + 1e-5), the variance over batch and positions of each unit; z is not centred."""

    def __init__(self, units: int) -> None:
        super().__init__("running_var", units, 1.0)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (B, U, ...) to the same shape."""
        if not self.training:
            return z * self.per_unit(torch.rsqrt(self.running + _EPSILON), z)
        variance = z.var(self.along(z), correction=0)
        self.average(variance)
        return z * self.per_unit(torch.rsqrt(variance + _EPSILON), z)


_MAKERS: Final[dict[str, Callable[[int, bool], nn.Module]]] = {
    "layer": lambda units, spatial: nn.GroupNorm(1, units) if spatial else nn.LayerNorm(units),
    "layer_non_affine": lambda units, spatial: (
        nn.GroupNorm(1, units, affine=False) if spatial else nn.LayerNorm(units, elementwise_affine=False)
    ),
    "layer_mean": lambda units, spatial: LayerMean(),
    "layer_std": lambda units, spatial: LayerDeviation(),
    "batch": lambda units, spatial: (nn.BatchNorm2d if spatial else nn.BatchNorm1d)(units),
    "batch_non_affine": lambda units, spatial: (nn.BatchNorm2d if spatial else nn.BatchNorm1d)(units, affine=False),
    "batch_mean": lambda units, spatial: BatchMean(units),
    "batch_std": lambda units, spatial: BatchDeviation(units),
}
NORMALISATIONS: Final = tuple(_MAKERS)
BATCH_STATISTICS: Final = (nn.modules.batchnorm._BatchNorm, BatchMoment)
# Modules with a gain and an offset for each unit, which are not weights of the network.
NORMS: Final = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, Diagonal)


def build_normalisation(name: str, units: int, spatial: bool) -> nn.Module:
    """Builds one normalisation layer.

    Layer normalisation of a convolution takes its statistics over (C, H, W) of one example and has one gain and offset per
    channel. Batch normalisation has one statistic per unit or channel; running averages have momentum 0.1. Two in sequence
    combine axes: ``batch_mean`` then ``layer_std`` centres each unit over the batch and divides by the deviation over the layer
    ("Towards perpetually trainable neural networks", appendix D.8).

    Args:
        name: One of ``NORMALISATIONS``; ``non_affine`` means without gain and offset, ``mean`` and ``std`` only that moment.
        units: Units of a dense layer, or channels of a convolution.
        spatial: Whether inputs are (B, C, H, W) rather than (B, U).

    Raises:
        ValueError: If ``name`` is unknown.
    """
    require_choice("network.normalisation", name, NORMALISATIONS)
    return _MAKERS[name](units, spatial)


def require_no_batch_norm_in_resnet(method: str, spec: NetworkSpec) -> None:
    """Raises ValueError if ``method`` would put another normalisation in front of or behind the batch normalisation of a ResNet.

    "Towards perpetually trainable neural networks" has layer normalisation in place of batch normalisation (4.2, appendix B.1).
    """
    if spec.torso == "resnet18" and any(name.startswith("batch") for name in spec.normalisation):
        raise ValueError(
            f"intervention {method} would be added to network.normalisation={list(spec.normalisation)} of a ResNet; choose "
            f"network=resnet18_plain to have it instead, or, for both, network=resnet18_plain intervention=[{method},batch_norm]"
        )


def _features(z: Tensor) -> list[int]:
    return list(range(1, z.ndim))
