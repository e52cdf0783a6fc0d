"""Torsos that are chains of hidden layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import ClassVar, Final, TypeVar

from torch import Tensor, nn

from plasticity.networks.layers.calls import call
from plasticity.networks.layers.convolution import Convolution
from plasticity.networks.layers.noisy import dense
from plasticity.networks.registry import torso
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.torso import Stage, Torso
from plasticity.settings.fields import setting

Value = TypeVar("Value")


@dataclass(frozen=True)
class ConvolutionSizes:
    """Sizes of one convolution, in channels and pixels."""

    channels: int
    kernel: int
    stride: int
    padding: int
    pool: int


_NATURE: Final = (ConvolutionSizes(32, 8, 4, 0, 1), ConvolutionSizes(64, 4, 2, 0, 1), ConvolutionSizes(64, 3, 1, 0, 1))


class Chain(Torso):
    """Convolutions, then dense layers: (B, C, H, W) or (B, D) to the last layer's post-activations, or to the flattened input.

    Attributes:
        layers: Hidden layers by name (``conv_1`` ..., ``dense_1`` ...), in forward order.
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
        positions, features = shape[1] * shape[2] if len(shape) == 3 else 1, prod(shape)
        for name, width in zip(names[len(convolutions) :], spec.widths, strict=True):
            linear = dense(features, width, head.noise_deviation)
            layer = HiddenLayer(name, linear, specs[name], activations[name])
            self.layers[name] = layer
            features = width * layer.activation.copies
        hidden = [layer for layer in self.layers.values() if isinstance(layer, HiddenLayer)]
        readers = [*(layer.linear for layer in hidden[1:]), None]
        self.declare(features, [_stage(*pair, positions) for pair in zip(hidden, readers, strict=bool(hidden))])

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps inputs (B, *input_shape) to features (B, features); activations go to ``taps`` if there are any."""
        for layer in self.hidden:
            if x.ndim > 2 and isinstance(layer.linear, nn.Linear):
                x = x.flatten(1)
            x = call(layer, x, taps)
        return self.finish(x)


@torso("mlp")
@dataclass(frozen=True, kw_only=True)
class MLPSpec(NetworkSpec):
    """Flattens the input, then dense layers of ``widths``."""

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> Chain:
        """Builds the dense layers."""
        return Chain([], self, (prod(input_shape),), head)

    def least_weights(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Counts all weights but those of the head."""
        return sum(map(prod, pairwise([prod(input_shape), *self.widths]))), len(self.widths)


@torso("conv")
@dataclass(frozen=True, kw_only=True)
class ConvSpec(NetworkSpec):
    """Convolutions of ``channels``, each with its activation and max-pooling, then dense layers of ``widths``."""

    sizes: ClassVar[tuple[str, ...]] = ("widths", "channels")

    channels: list[int] = setting([], "Output channels of each convolution.", low=1)
    kernel_sizes: list[int] = setting(
        [3], "Kernel side of each convolution, in pixels; a single entry serves all of them.", low=1
    )
    strides: list[int] = setting([1], "Stride of each convolution, in pixels; a single entry serves all of them.", low=1)
    paddings: list[int] = setting([0], "Zero padding of each convolution, in pixels; a single entry serves all of them.", low=0)
    pools: list[int] = setting(
        [1], "Side of the max-pooling after each convolution's activation, 1 for none; a single entry serves all of them.", low=1
    )

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> Chain:
        """Builds the convolutions and the dense layers."""
        count = len(self.channels)
        if count == 0:
            raise ValueError("network.channels=[] must have an entry for each convolution of network.torso=conv")
        columns = [
            _one_for_each(f"network.{name}", getattr(self, name), count)
            for name in ("kernel_sizes", "strides", "paddings", "pools")
        ]
        return Chain(list(map(ConvolutionSizes, self.channels, *columns)), self, input_shape, head)

    def least_weights(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Leaves out the first convolution, and what lies between the last and the dense layers."""
        weights, layers = super().least_weights(input_shape)
        kernels = [self.kernel_sizes[min(index, len(self.kernel_sizes) - 1)] for index in range(len(self.channels) - 1)]
        between = zip(pairwise(self.channels), kernels, strict=False)
        return weights + sum(before * after * side**2 for (before, after), side in between), layers + len(self.channels)


@torso("nature_cnn")
@dataclass(frozen=True, kw_only=True)
class NatureCNNSpec(NetworkSpec):
    """The network of Mnih et al. 2015: 32 8x8/4, 64 4x4/2, 64 3x3/1, then dense layers of ``widths`` (512 in the paper)."""

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> Chain:
        """Builds the three convolutions and the dense layers."""
        return Chain(_NATURE, self, input_shape, head)


def _stage(layer: HiddenLayer, reader: nn.Linear | nn.Conv2d | None, positions: int) -> Stage:
    flattened = isinstance(layer.linear, nn.Conv2d) and not isinstance(reader, nn.Conv2d)
    return Stage(layer.name, (layer,), layer, reader, positions if flattened else 1)


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
    """Returns the spec of each layer, with its rate of dropout; those not chosen have no normalisation, or no spectral one."""
    normalised = _chosen("network.normalised_layers", spec.normalised_layers, count) or set(range(1, count + 1))
    spectral = _chosen("network.spectral_layers", spec.spectral_layers, count)
    rates = _one_for_each("network.dropout_rates", spec.dropout_rates or [0.0], count)
    return [
        replace(
            spec,
            normalisation=spec.normalisation if number in normalised else [],
            spectral_layers=[number] if number in spectral else [],
            dropout_rates=[rates[number - 1]],
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
