"""ResNet-18 in the form for small images (He et al. 2016): no pooling at the start, a first convolution of 3x3 with stride 1."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from torch import Tensor, nn

from plasticity.networks.layers.activations import activation_named
from plasticity.networks.layers.convolution import Convolution
from plasticity.networks.layers.diagonal import Diagonal
from plasticity.networks.layers.load_balancing import LoadBalance
from plasticity.networks.layers.normalisation import build_normalisation
from plasticity.networks.registry import torso
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.torso import Stage, Torso
from plasticity.networks.units import ExcludedUnits
from plasticity.settings.fields import setting

_CHANNELS: Final = (64, 128, 256, 512)


@torso("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNetSpec(NetworkSpec):
    """ResNet-18 for small images (He et al. 2016): as many stages as there are channels, then the mean over positions."""

    sizes: ClassVar[tuple[str, ...]] = ("channels", "residual_blocks")

    widths: list[int] = setting([], "Not used: there are no dense layers.", low=1)
    channels: list[int] = setting([], "Output channels of the convolutions of each stage; empty for 64, 128, 256 and 512.", low=1)
    residual_blocks: int = setting(2, "Blocks of each stage.", low=1)
    normalised_skip: bool = setting(False, "Whether the skip path passes a batch normalisation without gain and offset.")
    convolution_biases: bool = setting(True, "Whether the convolutions have biases.")

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> "ResNet":
        """Builds a stage for each entry of ``channels``.

        Raises:
            ValueError: If inputs are not images, or settings do not fit.
        """
        if len(input_shape) != 3:
            raise ValueError(f"network.torso=resnet18 needs images (channels, height, width), not shape {tuple(input_shape)}")
        activation = activation_named(self.activations[0])
        if len(self.activations) != 1 or activation.copies > 1 or activation.learned:
            raise ValueError(f"network.torso=resnet18 takes one activation of one output per unit, not {list(self.activations)}")
        if len(self.dropout_rates) > 1:
            raise ValueError(f"network.torso=resnet18 takes one of network.dropout_rates, not {list(self.dropout_rates)}")
        if self.spectral_layers or self.normalised_layers:
            raise ValueError("network.torso=resnet18 does not work with spectral_layers or normalised_layers")
        if head.noise_deviation:
            raise ValueError("network.torso=resnet18 has no dense layers to be noisy")
        return ResNet(self, input_shape[0])

    def least_weights(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Leaves out the first convolution and those where the number of channels changes."""
        blocks = self.residual_blocks
        weights = sum(2 * blocks * 9 * channels**2 - 9 * channels**2 for channels in self.channels)
        return weights, blocks * max(1, len(self.channels))


class NormalisedMap(nn.Module):
    """A convolution, a diagonal map behind it if chosen, and its normalisation."""

    def __init__(self, convolution: Convolution, normalisation: Sequence[str], diagonal: bool) -> None:
        super().__init__()
        self.linear = convolution
        self.diagonal = Diagonal(convolution.out_channels) if diagonal else None
        self.norms = nn.ModuleList(build_normalisation(name, convolution.out_channels, True) for name in normalisation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W)."""
        x = self.linear(x)
        if self.diagonal is not None:
            x = self.diagonal(x)
        for norm in self.norms:
            x = norm(x)
        return x


class ConvolutionBlock(nn.Module):
    """activation(outer(inner(x)) + skip(x)): the inner channels are resettable units, those of the sum are not.

    Attributes:
        inner: The hidden layer.
        outer: The map back to the stream.
        skip: A 1x1 convolution where the shape changes, or nothing; then a batch normalisation without gain and offset if chosen,
            which keeps the non-negative stream from raising every sum ("Load Balancing Neurons").
        balance: The load-balancing layer before the activation of the sum, if there is one.
    """

    def __init__(self, name: str, spec: ResNetSpec, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        activation = spec.activations[0]
        bias = spec.convolution_biases
        self.inner = HiddenLayer(name, Convolution(inputs, channels, 3, stride, 1, bias=bias), spec, activation)
        width = channels * self.inner.activation.copies
        behind = (spec.normalisation, spec.diagonal)
        self.outer = NormalisedMap(Convolution(width, channels, 3, 1, 1, bias=bias), *behind)
        shape_changes = stride != 1 or inputs != channels
        shortcut = Convolution(inputs, channels, 1, stride, bias=bias) if shape_changes else None
        self.skip = None if shortcut is None else NormalisedMap(shortcut, *behind)
        self.skip_norm = build_normalisation("batch_non_affine", channels, True) if spec.normalised_skip else None
        self.balance = None if spec.load_balancing is None else LoadBalance(channels, spec.load_balancing)
        self.activation_name, self._activation = activation, activation_named(activation)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, inputs, H, W) to (B, channels, H / stride, W / stride)."""
        passed = x if self.skip is None else self.skip(x)
        if self.skip_norm is not None:
            passed = self.skip_norm(passed)
        z = self.outer(self.inner(x, taps)) + passed
        if self.balance is not None:
            z = self.balance(z)
        h = self._activation.function(z)
        if taps is not None:
            taps.store(f"{self.inner.name}_sum", z, h)
        return h


class ResNet(Torso):
    """A first convolution, stages of blocks that halve the image from the second on, and the mean over positions.

    The channels between the two convolutions of a block are units, ``block_1`` ...; those of the stream, ``stem`` and
    ``block_1_sum`` ..., have no incoming weights of their own and are excluded from the unit graph.
    """

    def __init__(self, spec: ResNetSpec, inputs: int) -> None:
        super().__init__()
        channels = spec.channels or list(_CHANNELS)
        stem = Convolution(inputs, channels[0], 3, 1, 1, bias=spec.convolution_biases)
        self.stem = HiddenLayer("stem", stem, replace(spec, dropout_rates=[]), spec.activations[0])  # it is the stream's
        self.layers = nn.ModuleDict()
        width = channels[0]
        for stage, count in enumerate(channels):
            for block in range(spec.residual_blocks):
                name = f"block_{len(self.layers) + 1}"
                self.layers[name] = ConvolutionBlock(name, spec, width, count, 2 if stage and not block else 1)
                width = count
        self._blocks = tuple(block for block in self.layers.values() if isinstance(block, ConvolutionBlock))
        stages = [Stage(block.inner.name, (block,), block.inner, block.outer.linear) for block in self._blocks]
        self.declare(width, [Stage("stem", (self.stem,)), *stages], self.stem.activation.gain)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, C, H, W) to (B, features)."""
        x = self.stem(x, taps)
        for block in self._blocks:
            x = block(x, taps)
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        """Takes the mean over positions."""
        return x.mean((2, 3))

    def excluded(self) -> list[ExcludedUnits]:
        """The stream behind the first convolution and behind each block."""
        reason = "a channel of the residual stream is the sum of the first convolution and of blocks"
        sums = [
            ExcludedUnits(f"{block.inner.name}_sum", block.outer.linear.out_channels, reason, block.activation_name)
            for block in self._blocks
        ]
        return [ExcludedUnits("stem", self.stem.units, reason, self.stem.activation_name), *sums]
