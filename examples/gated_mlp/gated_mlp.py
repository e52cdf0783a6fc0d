"""A torso of one's own, in one file: dense layers of which every unit is multiplied by a gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from plasticity.networks.layers.activations import activation_named
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.registry import torso
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.torso import Stage, Torso
from plasticity.networks.units import ExcludedUnits
from plasticity.settings.fields import setting


class Gated(nn.Module):
    """outer(sigmoid(gate(x)) * inner(x)): the inner units have rows and columns of their own, so they can be reset one by one.

    Activations are measured before they are multiplied: a unit is dormant if its own activation is, whatever its gate does. A
    reset draws a unit's row and sets its column to 0; its gate stays.
    """

    def __init__(self, name: str, width: int, units: int, spec: NetworkSpec) -> None:
        super().__init__()
        self.inner = HiddenLayer(name, nn.Linear(width, units), spec, spec.activations[0])
        self.gate = nn.Linear(width, units)
        self.outer = nn.Linear(units, width)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, width) to the same shape."""
        gated: Tensor = self.outer(self.gate(x).sigmoid() * self.inner(x, taps))
        return gated


class GatedMLP(Torso):
    """A map onto a stream, and gated layers that add to it.

    Args:
        inputs: Length of the flattened input.
        spec: Its settings.
    """

    def __init__(self, inputs: int, spec: "GatedMLPSpec") -> None:
        super().__init__()
        width = spec.widths[0]
        self.embed = nn.Linear(inputs, width)
        gated = [Gated(f"gated_{number}", width, spec.gated_units, spec) for number in range(1, spec.gated_layers + 1)]
        self.layers = nn.ModuleDict({layer.inner.name: layer for layer in gated})
        self._gated, self._open = tuple(gated), spec.open_gates
        # Stages say what is reset together, and which units are the layer's own, with the map that reads them.
        stages = [Stage(layer.inner.name, (layer,), layer.inner, layer.outer) for layer in gated]
        self.declare(width, [Stage("embed", (self.embed,)), *stages])

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, ...) to (B, width)."""
        x = self.embed(x.flatten(1))
        for layer in self._gated:
            x = x + layer(x, taps)
        if taps is not None:
            taps.store("stream", x, x)
        return x

    def excluded(self) -> list[ExcludedUnits]:
        """The stream, whose units have no rows of their own."""
        return [ExcludedUnits("stream", self.features, "a unit of the stream is the sum of all layers")]

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """The maps by ``kind``, and the gates' offsets at ``open_gates``."""
        offsets = {f"{prefix}.layers.{name}.gate.bias": Initialiser("constant", self._open) for name in self.layers}
        return super().initialisers(prefix, kind) | offsets


@torso("gated_mlp")
@dataclass(frozen=True, kw_only=True)
class GatedMLPSpec(NetworkSpec):
    """Dense layers of which every unit is multiplied by a gate, added to a stream.

    After the gated linear units of Dauphin et al. 2017, "Language Modeling with Gated Convolutional Networks".
    """

    sizes = ("widths", "gated_layers", "gated_units")

    widths: list[int] = setting([64], "One number, the width of the stream.", low=1)
    gated_layers: int = setting(2, "Layers.", low=1)
    gated_units: int = setting(64, "Units of each layer.", low=1)
    open_gates: float = setting(1.0, "Offset of the gates at the start; 0 lets half of each unit through.", low=-10, high=10)

    def least_weights(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Counts the weights of all maps, so that a network larger than the machine is refused before it is built."""
        inputs, width = prod(input_shape), self.widths[0]
        return inputs * width + 3 * self.gated_layers * width * self.gated_units, 3 * self.gated_layers

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> GatedMLP:
        """Builds it; ValueError for what it does not do."""
        if len(self.widths) != 1 or len(self.activations) != 1 or activation_named(self.activations[0]).copies > 1:
            raise ValueError(
                "network.torso=gated_mlp has one width and one activation of one output per unit, "
                f"not widths={list(self.widths)} and activations={list(self.activations)}"
            )
        if self.spectral_layers or self.normalised_layers or head.noise_deviation:
            raise ValueError("network.torso=gated_mlp does not work with spectral_layers, normalised_layers or noisy layers")
        return GatedMLP(prod(input_shape), self)
