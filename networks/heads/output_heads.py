"""Linear, categorical and Gaussian heads, two heads side by side, and the choice among them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from plasticity.networks.heads.head import Head, evenly_spaced, expected_value
from plasticity.networks.layers.calls import call_map
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.noisy import dense
from plasticity.networks.registry import HEADS, head
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps


@head("q", "classification", "policy", "regression", "value")
class LinearHead(Head):
    """One linear map, (B, features) to (B, outputs): action values, logits or regression outputs."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, spec, network)
        self.linear = dense(features, spec.outputs, spec.noise_deviation)
        self._map = (self.linear,)  # in a tuple, where it is found at once

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns (B, outputs)."""
        return call_map(self._map[0], features)

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the one map."""
        return {f"{prefix}.linear": (self.linear, self.spec.gain)}


@head("categorical")
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


@head("gaussian")
class GaussianHead(LinearHead):
    """Mean of a Gaussian from the features, and a log standard deviation that does not depend on them: (B, 2 * outputs)."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, spec, network)
        self.log_deviation = nn.Parameter(torch.zeros(spec.outputs))

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns means, then log standard deviations."""
        means = self.linear(features)
        return torch.cat([means, self.log_deviation.expand_as(means)], dim=1)

    @property
    def columns(self) -> int:
        """Means and log standard deviations."""
        return 2 * self.spec.outputs

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """The log standard deviation starts at 0."""
        return {**super().initialisers(prefix, kind), f"{prefix}.log_deviation": Initialiser("constant", 0.0)}


@head("squashed_gaussian")
class SquashedGaussianHead(LinearHead):
    """Mean and log standard deviation of a Gaussian before its squashing, both from the features: (B, 2 * outputs)."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, replace(spec, outputs=2 * spec.outputs), network)


@head("paired")
class PairedHead(Head):
    """Two heads that read the same features; outputs of both, flattened, side by side: (B, first + second)."""

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, spec, network)
        if spec.second is None:
            raise ValueError(f"head={spec.kind} is made of two; give the second one as second=")
        self.first = build_head(features, replace(spec, second=None), network)
        self.second = build_head(features, spec.second, network)

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns the first head's columns, then the second's."""
        return torch.cat([self.first(features).flatten(1), self.second(features).flatten(1)], dim=1)

    @property
    def columns(self) -> int:
        """Those of both."""
        return self.first.columns + self.second.columns

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Separates outputs (B, ...) into the first head's (B, columns) and the second's in its own shape."""
        columns, bins = self.first.columns, self.second.bins
        second = outputs[:, columns:]
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


def build_head(features: int, spec: HeadSpec, network: NetworkSpec) -> Head:
    """Builds the head that ``spec`` names, with hidden layers like those of ``network``.

    Raises:
        ValueError: If the kind is unknown or its sizes make no sense.
    """
    return HEADS.named(spec.form)(features, spec, network)
