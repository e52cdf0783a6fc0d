"""Heads by kind: linear, categorical, Gaussian, and two side by side."""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from plasticity.networks.heads.dueling import DuelingHead
from plasticity.networks.heads.head import Head, evenly_spaced, expected_value
from plasticity.networks.heads.pop_art import PopArtHead
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.noisy import dense
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.settings.fields import require_choice


class LinearHead(Head):
    """One linear map, (B, features) to (B, outputs): action values, logits or regression outputs."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.linear = dense(features, spec.outputs, spec.noise_deviation)

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns (B, outputs)."""
        outputs: Tensor = self.linear(features)
        return outputs

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the one map."""
        return {f"{prefix}.linear": (self.linear, self.spec.gain)}


class CategoricalHead(LinearHead):
    """A categorical value for each output: logits (B, outputs, bins) over fixed atoms.

    Attributes:
        atoms: (bins,) evenly spaced values from ``low`` to ``high``.
    """

    atoms: Tensor

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, replace(spec, outputs=spec.outputs * spec.bins), network)
        self.bins = spec.bins
        self.register_buffer("atoms", evenly_spaced(spec))

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns logits (B, outputs, bins)."""
        logits: Tensor = self.linear(features).unflatten(1, (-1, self.bins))
        return logits

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the value that each categorical stands for, (B, outputs)."""
        return expected_value(outputs, self.atoms, self.spec.label_smoothing)


class GaussianHead(LinearHead):
    """Mean of a Gaussian from the features, and a log standard deviation that does not depend on them: (B, 2 * outputs)."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, spec, network)
        self.log_deviation = nn.Parameter(torch.zeros(spec.outputs))

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns means, then log standard deviations."""
        means = self.linear(features)
        return torch.cat([means, self.log_deviation.expand_as(means)], dim=1)

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """The log standard deviation starts at 0."""
        return {**super().initialisers(prefix, kind), f"{prefix}.log_deviation": Initialiser("constant", 0.0)}


class SquashedGaussianHead(LinearHead):
    """Mean and log standard deviation of a Gaussian before its squashing, both from the features: (B, 2 * outputs)."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, replace(spec, outputs=2 * spec.outputs), network)


class PairedHead(Head):
    """Two heads that read the same features; outputs of both, flattened, side by side: (B, first + second)."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__()
        assert spec.beside is not None
        self.first = build_head(features, replace(spec, beside=None), network)
        self.second = build_head(features, spec.beside, network)

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns the first head's columns, then the second's."""
        return torch.cat([self.first(features).flatten(1), self.second(features).flatten(1)], dim=1)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Separates outputs (B, ...) into the first head's (B, columns) and the second's in its own shape."""
        columns = _columns(self.first)
        second = outputs[:, columns:]
        bins = self.second.bins if isinstance(self.second, CategoricalHead) else 0
        return outputs[:, :columns], second.unflatten(1, (-1, bins)) if bins else second

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the maps of both."""
        return {**self.first.maps(f"{prefix}.first"), **self.second.maps(f"{prefix}.second")}

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Returns those of both."""
        return {**self.first.initialisers(f"{prefix}.first", kind), **self.second.initialisers(f"{prefix}.second", kind)}

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """Returns both together."""
        both = self.first.blocks(f"{prefix}.first"), self.second.blocks(f"{prefix}.second")
        return {"head": tuple(path for blocks in both for paths in blocks.values() for path in paths)}


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


def build_head(features: int, spec: HeadSpec, network: NetworkSpec) -> Head:
    """Builds the head that ``spec`` names, with hidden layers like those of ``network``.

    Raises:
        ValueError: If the kind is unknown or its sizes make no sense.
    """
    require_choice("head", spec.kind, list(HEADS))
    if spec.beside is not None:
        return PairedHead(features, spec, network)
    if spec.pop_art and (spec.dueling or spec.kind not in ("q", "value")):
        raise ValueError(f"pop_art normalises the outputs of a plain q or value head, not {'dueling ' * spec.dueling}{spec.kind}")
    if spec.pop_art:
        return PopArtHead(features, spec, network)
    if spec.dueling:
        require_choice("dueling head", spec.kind, ["q", "categorical"])
        return DuelingHead(features, spec, network)
    return HEADS[spec.kind](features, spec, network)


def _columns(head: Head) -> int:
    if isinstance(head, PairedHead):
        return _columns(head.first) + _columns(head.second)
    assert isinstance(head, LinearHead | PopArtHead)
    return 2 * head.spec.outputs if isinstance(head, GaussianHead) else head.spec.outputs
