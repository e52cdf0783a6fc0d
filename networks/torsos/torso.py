"""Torsos: what lies between an input and a feature vector."""

from typing import ClassVar

from torch import Tensor, nn

from plasticity.networks.heads.head import Readers
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.units import ExcludedUnits, UnitLayer


class Torso(nn.Module):
    """What all torsos offer to a network: features, initial values, their part of the unit graph, what is reset together.

    Attributes:
        hidden: Hidden layers whose units are in the graph or excluded from it, in forward order.
        features: Length of the feature vector.
        reads_tokens: Whether inputs are numbers of tokens, to be looked up.
    """

    reads_tokens: ClassVar[bool] = False
    hidden: tuple[HiddenLayer, ...]
    features: int

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps inputs (B, *input_shape) to features (B, features); activations go to ``taps`` if there are any."""
        raise NotImplementedError

    def unit_layers(self, prefix: str, readers: Readers) -> list[UnitLayer]:
        """Describes all units that can be reset one by one.

        Args:
            prefix: Module path of the torso in the network.
            readers: Called with a layer whose post-activations are the features, and its positions per channel; returns what
                reads them.
        """
        raise NotImplementedError

    def excluded(self) -> list[ExcludedUnits]:
        """Describes the tapped activations whose units cannot be reset one by one."""
        return []

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Returns the initial distributions of all parameters by name; ``kind`` is that of the linear maps."""
        chosen: dict[str, Initialiser] = {}
        for layer in self.hidden:
            chosen |= layer.initialisers(f"{prefix}.layers.{layer.name}", kind)
        return chosen

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """Returns the paths of what is reset together, by name, in forward order."""
        return {layer.name: (f"{prefix}.layers.{layer.name}",) for layer in self.hidden}
