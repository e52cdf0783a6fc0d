"""Values made of a value and an advantage stream."""

from dataclasses import replace

from torch import Tensor, nn

from plasticity.networks.heads.head import Head, Readers, evenly_spaced, expected_value
from plasticity.networks.layers.noisy import dense
from plasticity.networks.registry import head
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.units import UnitLayer
from plasticity.settings.fields import require_choice


@head("dueling")
class DuelingHead(Head):
    """Values made of a value and an advantage stream (Wang et al. 2016): V + A - mean of A over actions, equation 9.

    Each stream has hidden layers of its own, ``value_1`` ... and ``advantage_1`` ..., which are normalised, balanced and reset
    like any other. For categorical values the sum is that of logits, atom by atom (Hessel et al. 2018).

    Attributes:
        atoms: (bins,) evenly spaced values, if values are categorical.
    """

    atoms: Tensor

    def __init__(self, features: int, spec: HeadSpec, network: NetworkSpec) -> None:
        super().__init__(features, spec, network)
        require_choice("dueling head", spec.kind, ["q", "categorical"])
        self.bins = spec.bins if spec.kind == "categorical" else 0
        if self.bins:
            self.register_buffer("atoms", evenly_spaced(spec))
        self.layers = nn.ModuleDict()
        last = {}
        for stream in ("value", "advantage"):
            width = features
            for number, units in enumerate(spec.stream_widths, start=1):
                name = f"{stream}_{number}"
                linear = dense(width, units, spec.noise_deviation)
                layer = HiddenLayer(name, linear, replace(network, spectral_layers=[]), network.activations[-1])
                self.layers[name], width = layer, units * layer.activation.copies
            last[stream] = width
        self.value = dense(last["value"], self.bins or 1, spec.noise_deviation)
        self.advantage = dense(last["advantage"], spec.outputs * (self.bins or 1), spec.noise_deviation)

    def forward(self, features: Tensor, taps: Taps | None = None) -> Tensor:
        """Returns values (B, outputs), or logits (B, outputs, bins)."""
        value = self.value(self._run_stream("value", features, taps)).unflatten(1, (1, -1))
        advantage = self.advantage(self._run_stream("advantage", features, taps)).unflatten(1, (self.spec.outputs, -1))
        outputs: Tensor = value + (advantage - advantage.mean(1, keepdim=True))
        return outputs if self.bins else outputs.squeeze(2)

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the (expected) value of each output, (B, outputs)."""
        return expected_value(outputs, self.atoms, self.spec.label_smoothing) if self.bins else outputs

    @property
    def columns(self) -> int:
        """One for each output, or for each of its atoms."""
        return self.advantage.out_features

    def maps(self, prefix: str) -> dict[str, tuple[nn.Linear, float]]:
        """Returns the last map of each stream."""
        return {f"{prefix}.value": (self.value, self.spec.gain), f"{prefix}.advantage": (self.advantage, self.spec.gain)}

    def hidden(self, prefix: str) -> dict[str, HiddenLayer]:
        """Returns the hidden layers of both streams."""
        return {f"{prefix}.layers.{layer.name}": layer for stream in ("value", "advantage") for layer in self._stream(stream)}

    def readers(self, prefix: str) -> Readers:
        """The first map of each stream reads the features."""
        first = self._first_maps(prefix)
        return lambda layer, positions: tuple(layer.read_by(path, linear, positions) for path, linear in first.items())

    def unit_layers(self, prefix: str) -> list[UnitLayer]:
        """Describes the hidden units of both streams; each layer is read by the next of its own stream."""
        described = []
        for stream in ("value", "advantage"):
            layers = self._stream(stream)
            paths = [f"{prefix}.layers.{layer.name}" for layer in layers]
            following = [(f"{path}.linear", layer.linear) for path, layer in zip(paths[1:], layers[1:], strict=True)]
            readers = [*following, (f"{prefix}.{stream}", self.get_submodule(stream))]
            for path, layer, (reader, linear) in zip(paths, layers, readers, strict=False):
                assert isinstance(linear, nn.Linear | nn.Conv2d)
                described.append(layer.unit_layer(path, (layer.read_by(reader, linear),)))
        return described

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """A block holds the same layer of both streams."""
        numbers = range(1, len(self.spec.stream_widths) + 1)
        streams = {f"streams_{n}": (f"{prefix}.layers.value_{n}", f"{prefix}.layers.advantage_{n}") for n in numbers}
        return {**streams, "head": (f"{prefix}.value", f"{prefix}.advantage")}

    def _stream(self, stream: str) -> list[HiddenLayer]:
        layers = [self.layers[f"{stream}_{number}"] for number in range(1, len(self.spec.stream_widths) + 1)]
        return [layer for layer in layers if isinstance(layer, HiddenLayer)]

    def _run_stream(self, stream: str, features: Tensor, taps: Taps | None) -> Tensor:
        for layer in self._stream(stream):
            features = layer(features, taps)
        return features

    def _first_maps(self, prefix: str) -> dict[str, nn.Linear | nn.Conv2d]:
        if not self.spec.stream_widths:
            return {path: linear for path, (linear, _) in self.maps(prefix).items()}
        first = (self._stream(stream)[0] for stream in ("value", "advantage"))
        return {f"{prefix}.layers.{layer.name}.linear": layer.linear for layer in first}
