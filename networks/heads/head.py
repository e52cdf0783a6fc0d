"""Heads: the map from features to what an agent reads."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.noisy import map_initialisers
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.units import Consumer, UnitLayer

Readers = Callable[[HiddenLayer, int], tuple[Consumer, ...]]


class Head(nn.Module):
    """What all heads offer to a network: outputs, the scalars they stand for, initial values, their part of the unit graph.

    Args:
        features: Length of the feature vector.
        spec: The output.
        network: The torso, which a head's own hidden layers resemble.

    Attributes:
        bins: Atoms of each output, the last axis of the outputs; 0 for outputs (B, columns).
    """

    bins: int = 0

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def columns(self) -> int:
        """Numbers that stand for one input, atoms counted singly."""
        return sum(linear.out_features for linear, _ in self.maps("").values())

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps features (B, features) to outputs; activations of hidden layers go to ``taps`` if there are any."""
        raise NotImplementedError

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the scalars that outputs stand for."""
        return outputs

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the maps onto the outputs by path in the network, each with its initial gain."""
        raise NotImplementedError

    def hidden(self, prefix: str) -> dict[str, HiddenLayer]:
        """Returns the head's own hidden layers by path in the network."""
        return {}

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Returns the initial distributions of all parameters by name; ``kind`` is that of the linear maps."""
        chosen: dict[str, Initialiser] = {}
        for path, layer in self.hidden(prefix).items():
            chosen |= layer.initialisers(path, kind)
        for path, (linear, gain) in self.maps(prefix).items():
            chosen |= map_initialisers(path, linear, kind, gain)
        return chosen

    def readers(self, prefix: str) -> Readers:
        """Describes who reads the features, for the unit graph."""
        maps = self.maps(prefix)
        return lambda layer, positions: tuple(layer.read_by(path, linear, positions) for path, (linear, _) in maps.items())

    def unit_layers(self, prefix: str) -> list[UnitLayer]:
        """Describes the units of the head's own hidden layers."""
        return []

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """Returns the paths of what is reset together, by name, in forward order."""
        return {"head": (prefix,)}


def evenly_spaced(spec: HeadSpec) -> Tensor:
    """Returns the atoms of a categorical head, (bins,).

    Raises:
        ValueError: If there are none, or they do not increase.
    """
    if spec.bins < 2 or spec.low >= spec.high:
        raise ValueError(f"categorical head needs at least 2 bins and low < high, not {spec.bins} on [{spec.low}, {spec.high}]")
    return torch.linspace(spec.low, spec.high, spec.bins)


def expected_value(logits: Tensor, atoms: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the value that each categorical stands for.

    Without smoothing that is its mean. A categorical that was trained on targets (1 - s) p + s / Z has the mean
    (1 - s) v + s * mean(atoms), from which v follows; it is clamped to the support, since a sharper categorical than any such
    target would stand for a value beyond it.

    Args:
        logits: (..., Z); those of lower precision than float32 are taken as float32.
        atoms: (Z,).
        label_smoothing: s, in [0, 1).

    Returns:
        (...).
    """
    mean = (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1) @ atoms
    if not label_smoothing:
        return mean
    return ((mean - label_smoothing * atoms.mean()) / (1 - label_smoothing)).clamp(atoms[0], atoms[-1])
