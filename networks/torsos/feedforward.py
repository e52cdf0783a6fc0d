"""Torsos by name, and those that are chains of hidden layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, TypeVar

from torch import Tensor, nn

from plasticity.networks.heads.head import Readers
from plasticity.networks.layers.convolution import Convolution
from plasticity.networks.layers.noisy import dense
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.hyperspherical import simba_v2
from plasticity.networks.torsos.residual import bro, simba
from plasticity.networks.torsos.resnet import resnet18
from plasticity.networks.torsos.torso import Torso
from plasticity.networks.torsos.transformer import gpt, vit
from plasticity.networks.units import UnitLayer
from plasticity.settings.fields import require_choice

Value = TypeVar("Value")


@dataclass(frozen=True)
class ConvolutionSizes:
    """Sizes of one convolution, in channels and pixels."""

    channels: int
    kernel: int
    stride: int
    padding: int
    pool: int


class Chain(Torso):
    """Convolutions, then dense layers: (B, C, H, W) or (B, D) to features (B, ``features``).

    Attributes:
        layers: Hidden layers by name (``conv_1`` ..., ``dense_1`` ...), in forward order.
        hidden: The same, as a tuple.
        features: Length of the feature vector, the last layer's post-activations, or the flattened input without any layer.
    """

    def __init__(
        self, convolutions: Sequence[ConvolutionSizes], spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec
    ) -> None:
        super().__init__()
        names = [f"conv_{i + 1}" for i in range(len(convolutions))] + [f"dense_{i + 1}" for i in range(len(spec.widths))]
        activations = dict(zip(names, _one_for_each("network.activations", spec.activations, len(names)), strict=True))
        specs = dict(zip(names, _spec_of_each(spec, len(names)), strict=True))
        self.layers = nn.ModuleDict()
        shape = tuple(input_shape)
        for name, convolution in zip(names, convolutions, strict=False):
            layer = _convolution(name, convolution, specs[name], activations[name], shape)
            shape = _shape_after(name, convolution, shape, layer.activation.copies, input_shape)
            self.layers[name] = layer
        self.positions = shape[1] * shape[2] if len(shape) == 3 else 1
        self.features = _product(shape)
        for name, width in zip(names[len(convolutions) :], spec.widths, strict=True):
            linear = dense(self.features, width, head.noise_deviation)
            layer = HiddenLayer(name, linear, specs[name], activations[name])
            self.layers[name] = layer
            self.features = width * layer.activation.copies

        self.hidden = tuple(layer for layer in self.layers.values() if isinstance(layer, HiddenLayer))

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps inputs (B, *input_shape) to features (B, features); activations go to ``taps`` if there are any."""
        for layer in self.hidden:
            if x.ndim > 2 and isinstance(layer.linear, nn.Linear):
                x = x.flatten(1)
            x = layer(x, taps)
        return x.flatten(1) if x.ndim > 2 else x

    def unit_layers(self, prefix: str, readers: Readers) -> list[UnitLayer]:
        """Describes all units; each layer is read by the next, the last one by ``readers``."""
        described = []
        for layer, reader in pairwise(self.hidden):
            flattens = isinstance(layer.linear, nn.Conv2d) and isinstance(reader.linear, nn.Linear)
            path = f"{prefix}.layers.{reader.name}.linear"
            consumer = layer.read_by(path, reader.linear, self.positions if flattens else 1)
            described.append(layer.unit_layer(f"{prefix}.layers.{layer.name}", (consumer,)))
        if self.hidden:
            last = self.hidden[-1]
            positions = self.positions if isinstance(last.linear, nn.Conv2d) else 1
            described.append(last.unit_layer(f"{prefix}.layers.{last.name}", readers(last, positions)))
        return described


def mlp(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> Torso:
    """Flattens the input, then dense layers of ``spec.widths``."""
    return Chain([], spec, (_product(input_shape),), head)


def conv(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> Torso:
    """Convolutions of ``spec.channels``, each with its activation and max-pooling, then dense layers of ``spec.widths``."""
    count = len(spec.channels)
    if count == 0:
        raise ValueError("network.channels=[] must have an entry for each convolution of network.torso=conv")
    columns = [
        _one_for_each(f"network.{name}", getattr(spec, name), count) for name in ("kernel_sizes", "strides", "paddings", "pools")
    ]
    sizes = [ConvolutionSizes(*row) for row in zip(spec.channels, *columns, strict=True)]
    return Chain(sizes, spec, input_shape, head)


def nature_cnn(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> Torso:
    """The network of Mnih et al. 2015: 32 8x8/4, 64 4x4/2, 64 3x3/1, then dense layers of ``spec.widths`` (512 in the paper)."""
    sizes = replace(spec, channels=[32, 64, 64], kernel_sizes=[8, 4, 3], strides=[4, 2, 1], paddings=[0], pools=[1])
    return conv(sizes, input_shape, head)


TORSOS: Final[dict[str, Callable[[NetworkSpec, Sequence[int], HeadSpec], Torso]]] = {
    "mlp": mlp,
    "conv": conv,
    "nature_cnn": nature_cnn,
    "resnet18": resnet18,
    "simba": simba,
    "bro": bro,
    "simba_v2": simba_v2,
    "vit": vit,
    "gpt": gpt,
}


def build_torso(spec: NetworkSpec, input_shape: Sequence[int], head: HeadSpec) -> Torso:
    """Builds the torso that ``spec`` names, for a head that decides on noise and on how many kinds of tokens there are.

    Raises:
        ValueError: If a name is unknown or a size does not fit the input.
    """
    require_choice("network.torso", spec.torso, list(TORSOS))
    return TORSOS[spec.torso](spec, input_shape, head)


def _convolution(name: str, sizes: ConvolutionSizes, spec: NetworkSpec, activation: str, shape: Sequence[int]) -> HiddenLayer:
    if len(shape) != 3:
        raise ValueError(f"network.torso={spec.torso} needs images (channels, height, width), not inputs of shape {tuple(shape)}")
    linear = Convolution(shape[0], sizes.channels, sizes.kernel, sizes.stride, sizes.padding)
    return HiddenLayer(name, linear, spec, activation, sizes.pool)


def _shape_after(
    name: str, sizes: ConvolutionSizes, shape: Sequence[int], copies: int, input_shape: Sequence[int]
) -> tuple[int, ...]:
    sides = [((side + 2 * sizes.padding - sizes.kernel) // sizes.stride + 1) // sizes.pool for side in shape[1:]]
    if min(sides) < 1 or min(shape[1:]) + 2 * sizes.padding < sizes.kernel:
        raise ValueError(
            f"{name}: kernel {sizes.kernel}, stride {sizes.stride}, pool {sizes.pool} leave nothing of a "
            f"{shape[1]}x{shape[2]} input; images are (channels, height, width), here {tuple(input_shape)}"
        )
    return (sizes.channels * copies, *sides)


def _spec_of_each(spec: NetworkSpec, count: int) -> list[NetworkSpec]:
    """Returns the spec of each layer: those that are not chosen have no normalisation, or no spectral one."""
    normalised = _chosen("network.normalised_layers", spec.normalised_layers, count) or set(range(1, count + 1))
    spectral = _chosen("network.spectral_layers", spec.spectral_layers, count)
    return [
        replace(
            spec,
            normalisation=spec.normalisation if number in normalised else [],
            spectral_layers=[number] if number in spectral else [],
        )
        for number in range(1, count + 1)
    ]


def _chosen(name: str, numbers: Sequence[int], count: int) -> set[int]:
    """Returns numbers of layers counted from 1; negative ones count from the last."""
    if not all(1 <= abs(number) <= count for number in numbers):
        raise ValueError(f"{name}={list(numbers)} must be from 1 to {count}, or from -{count} to -1, the hidden layers")
    return {number if number > 0 else count + 1 + number for number in numbers}


def _one_for_each(name: str, values: Sequence[Value], count: int) -> list[Value]:
    if len(values) not in (1, count):
        raise ValueError(f"{name} has {len(values)} entries; give 1 or {count}, one for each layer")
    return list(values) * count if len(values) == 1 else list(values)


def _product(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
