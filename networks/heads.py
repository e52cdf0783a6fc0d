"""Heads: the map from features to what an agent reads."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from networks.hidden import HiddenLayer
from networks.initialisers import Initialiser
from networks.spec import HeadSpec, require_choice
from networks.units import Consumer

Readers = Callable[[HiddenLayer, int], tuple[Consumer, ...]]


class LinearHead(nn.Module):
    """One linear map, (B, features) to (B, outputs): action values, logits or regression outputs."""

    def __init__(self, features: int, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.linear = nn.Linear(features, spec.outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Returns (B, outputs)."""
        return self.linear(features)

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the predictions themselves."""
        return outputs

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the linear maps by path in the network, each with its initial gain."""
        return {f"{prefix}.linear": (self.linear, self.spec.gain)}

    def others(self, prefix: str) -> dict[str, Initialiser]:
        """Returns the initial distributions of parameters that belong to no linear map."""
        return {}

    def readers(self, prefix: str) -> Readers:
        """Describes who reads the features, for the unit graph."""
        paths = list(self.maps(prefix))
        return lambda layer, positions: tuple(layer.read_by(f"{path}.weight", f"{path}.bias", positions) for path in paths)


class CategoricalHead(LinearHead):
    """A categorical value for each output: logits (B, outputs, bins) over fixed atoms.

    Attributes:
        atoms: (bins,) evenly spaced values from ``low`` to ``high``.
    """

    atoms: Tensor

    def __init__(self, features: int, spec: HeadSpec) -> None:
        if spec.bins < 2 or spec.low >= spec.high:
            raise ValueError(
                f"categorical head needs at least 2 bins and low < high, not {spec.bins} on [{spec.low}, {spec.high}]"
            )
        super().__init__(features, replace(spec, outputs=spec.outputs * spec.bins))
        self.bins = spec.bins
        self.register_buffer("atoms", torch.linspace(spec.low, spec.high, spec.bins))

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits (B, outputs, bins)."""
        return self.linear(features).unflatten(1, (-1, self.bins))

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the expected value of each categorical, (B, outputs)."""
        return outputs.float().softmax(-1) @ self.atoms


class GaussianHead(LinearHead):
    """Mean of a Gaussian from the features, and a log standard deviation that does not depend on them: (B, 2 * outputs)."""

    def __init__(self, features: int, spec: HeadSpec) -> None:
        super().__init__(features, spec)
        self.log_deviation = nn.Parameter(torch.zeros(spec.outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Returns means, then log standard deviations."""
        means = self.linear(features)
        return torch.cat([means, self.log_deviation.expand_as(means)], dim=1)

    def others(self, prefix: str) -> dict[str, Initialiser]:
        """The log standard deviation starts at 0."""
        return {f"{prefix}.log_deviation": Initialiser("constant", 0.0)}


class SquashedGaussianHead(LinearHead):
    """Mean and log standard deviation of a Gaussian before its squashing, both from the features: (B, 2 * outputs)."""

    def __init__(self, features: int, spec: HeadSpec) -> None:
        super().__init__(features, replace(spec, outputs=2 * spec.outputs))


class PairedHead(nn.Module):
    """Two heads that read the same features; outputs of both, flattened, side by side: (B, first + second)."""

    def __init__(self, features: int, spec: HeadSpec) -> None:
        super().__init__()
        assert spec.beside is not None
        self.first = build_head(features, replace(spec, beside=None))
        self.second = build_head(features, spec.beside)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the first head's columns, then the second's."""
        return torch.cat([self.first(features).flatten(1), self.second(features).flatten(1)], dim=1)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Separates outputs (B, ...) into the first head's (B, columns) and the second's in its own shape."""
        columns = _columns(self.first)
        second = outputs[:, columns:]
        bins = self.second.bins if isinstance(self.second, CategoricalHead) else 0
        return outputs[:, :columns], second.unflatten(1, (-1, bins)) if bins else second

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the outputs themselves; ask ``second.decode`` for values."""
        return outputs

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the maps of both."""
        return {**self.first.maps(f"{prefix}.first"), **self.second.maps(f"{prefix}.second")}

    def others(self, prefix: str) -> dict[str, Initialiser]:
        """Returns those of both."""
        return {**self.first.others(f"{prefix}.first"), **self.second.others(f"{prefix}.second")}

    def readers(self, prefix: str) -> Readers:
        """Both heads read the features."""
        paths = list(self.maps(prefix))
        return lambda layer, positions: tuple(layer.read_by(f"{path}.weight", f"{path}.bias", positions) for path in paths)


Head = LinearHead | PairedHead

HEADS: Final[dict[str, type[LinearHead]]] = {
    "q": LinearHead,
    "categorical": CategoricalHead,
    "classification": LinearHead,
    "policy": LinearHead,
    "regression": LinearHead,
    "value": LinearHead,
    "gaussian": GaussianHead,
    "squashed_gaussian": SquashedGaussianHead,
}


def build_head(features: int, spec: HeadSpec) -> Head:
    """Builds the head that ``spec`` names.

    Raises:
        ValueError: If the kind is unknown or its sizes make no sense.
    """
    require_choice("head", spec.kind, list(HEADS))
    return PairedHead(features, spec) if spec.beside is not None else HEADS[spec.kind](features, spec)


def _columns(head: Head) -> int:
    if isinstance(head, PairedHead):
        return _columns(head.first) + _columns(head.second)
    return 2 * head.spec.outputs if isinstance(head, GaussianHead) else head.spec.outputs
