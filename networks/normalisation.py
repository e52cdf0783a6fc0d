"""Normalisation layers between a linear map and its activation."""

from typing import Final

from torch import nn

from networks.spec import require_choice

NORMALISATIONS: Final = ("layer", "layer_non_affine", "batch", "batch_non_affine")


def build_normalisation(name: str, units: int, spatial: bool) -> nn.Module:
    """Builds one normalisation layer.

    Layer normalisation of a convolution takes its statistics over (C, H, W) of one example and has one gain and offset per
    channel. Batch normalisation has one statistic per unit or channel; running averages have momentum 0.1.

    Args:
        name: One of ``NORMALISATIONS``; ``non_affine`` means without gain and offset.
        units: Units of a dense layer, or channels of a convolution.
        spatial: Whether inputs are (B, C, H, W) rather than (B, U).

    Raises:
        ValueError: If ``name`` is unknown.
    """
    require_choice("network.normalisation", name, NORMALISATIONS)
    affine = not name.endswith("non_affine")
    if name.startswith("batch"):
        return (nn.BatchNorm2d if spatial else nn.BatchNorm1d)(units, affine=affine)
    return nn.GroupNorm(1, units, affine=affine) if spatial else nn.LayerNorm(units, elementwise_affine=affine)
