"""Heads: the map from features to what an agent reads."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from networks.hidden import HiddenLayer
from networks.spec import HeadSpec, require_choice
from networks.units import Consumer


class LinearHead(nn.Module):
    """One linear map, (B, features) to (B, outputs): action values, logits or regression outputs."""

    def __init__(self, features: int, spec: HeadSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(features, spec.outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Returns (B, outputs)."""
        return self.linear(features)

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the predictions themselves."""
        return outputs

    def readers(self, prefix: str) -> Callable[[HiddenLayer, int], tuple[Consumer, ...]]:
        """Describes who reads the features, for the unit graph."""
        path = f"{prefix}.linear"
        return lambda layer, positions: (layer.read_by(f"{path}.weight", f"{path}.bias", positions),)


class TwoHotHead(LinearHead):
    """A categorical value for each output: logits (B, outputs, bins) over fixed atoms.

    Attributes:
        atoms: (bins,) evenly spaced values from ``low`` to ``high``.
    """

    atoms: Tensor

    def __init__(self, features: int, spec: HeadSpec) -> None:
        if spec.bins < 2 or spec.low >= spec.high:
            raise ValueError(f"two_hot head needs at least 2 bins and low < high, not {spec.bins} on [{spec.low}, {spec.high}]")
        super().__init__(features, HeadSpec(spec.kind, spec.outputs * spec.bins))
        self.bins = spec.bins
        self.register_buffer("atoms", torch.linspace(spec.low, spec.high, spec.bins))

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits (B, outputs, bins)."""
        return self.linear(features).unflatten(1, (-1, self.bins))

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the expected value of each categorical, (B, outputs)."""
        return outputs.float().softmax(-1) @ self.atoms


HEADS: Final[dict[str, type[LinearHead]]] = {
    "q": LinearHead,
    "two_hot": TwoHotHead,
    "classification": LinearHead,
    "regression": LinearHead,
}


def build_head(features: int, spec: HeadSpec) -> LinearHead:
    """Builds the head that ``spec`` names.

    Raises:
        ValueError: If the kind is unknown or its sizes make no sense.
    """
    require_choice("head", spec.kind, list(HEADS))
    return HEADS[spec.kind](features, spec)
