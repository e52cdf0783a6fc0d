"""A residual torso on the unit sphere: SimbaV2."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.heads.head import Readers
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.registry import torso
from plasticity.networks.spec import HeadSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.torsos.residual import BlocksSpec, ResidualBlock, ResidualTorso, stream_width
from plasticity.networks.units import NormSlice, UnitLayer, UnitSlice

_SHIFT = 3.0
_TINY = 1e-8


def unit_length(x: Tensor) -> Tensor:
    """Scales every row of (..., D) to length 1; one of zeros stays one."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / lengths.clamp(min=_TINY)


class SphereDense(nn.Linear):
    """s * (W x), without a bias; the rows of W start at length 1, and the intervention ``hyperspherical`` holds them there.

    Attributes:
        scaler: (out,) kept as s / ``start`` * ``size``, or None for s = 1. With Adam, whose steps do not depend on the size of a
            gradient, the smaller the number that is kept, the faster s moves.
        size: What ``scaler`` starts at.
    """

    def __init__(self, inputs: int, outputs: int, start: float | None = None, size: float | None = None) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.size = start if size is None else size
        self.scaler: nn.Parameter | None = None
        if start is not None and self.size is not None:
            self.scaler = nn.Parameter(torch.full((outputs,), self.size))
            self._factor = start / self.size

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, in) to (B, out)."""
        mapped = functional.linear(input, self.weight)
        return mapped if self.scaler is None else mapped * (self.scaler * self._factor)

    def initialisers(self, prefix: str) -> dict[str, Initialiser]:
        """Returns the initial distributions of its parameters by name."""
        chosen = {f"{prefix}.weight": Initialiser("orthogonal_rows", 1.0)}
        return chosen if self.size is None else {**chosen, f"{prefix}.scaler": Initialiser("constant", self.size)}


class SphereEmbedding(SphereDense):
    """Puts inputs onto the sphere: a constant appended, which keeps their length known, length 1, map, length 1."""

    def __init__(self, inputs: int, width: int, start: float) -> None:
        super().__init__(inputs + 1, width, start)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, D) to (B, width) of length 1."""
        shifted = torch.cat([input, input.new_full((input.shape[0], 1), _SHIFT)], dim=1)
        return unit_length(super().forward(unit_length(shifted)))


class SphereBlock(ResidualBlock):
    """A step along the sphere from x towards y = outer(inner(x)) of length 1: x + alpha * (y - x), of length 1.

    Attributes:
        alpha: (width,) learned, kept as alpha / ``start`` * ``size``.
        size: What ``alpha`` starts at, width^-1/2.
    """

    def __init__(self, width: int, inner: HiddenLayer, outer: SphereDense, start: float) -> None:
        super().__init__(width, inner, outer, before=False, after=False)
        self.size = width**-0.5
        self.alpha = nn.Parameter(torch.full((width,), self.size))
        self._factor = start / self.size

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, width) of length 1 to the same."""
        aim = unit_length(self.outer(self.inner(x, taps)))
        return unit_length(x + self.alpha * self._factor * (aim - x))


class SphereTorso(ResidualTorso):
    """An embedding, blocks along the sphere, and finally a map s * (W x)."""

    def unit_layers(self, prefix: str, readers: Readers) -> list[UnitLayer]:
        """Describes the inner units, each block's read by its outer map; a unit's entry of the scaler is its gain."""
        described = []
        for layer, hidden in zip(super().unit_layers(prefix, readers), self.hidden, strict=True):
            assert isinstance(hidden.linear, SphereDense)
            assert hidden.linear.size is not None
            scaler = UnitSlice(f"{prefix}.layers.{hidden.name}.inner.linear.scaler", 0, hidden.units)
            described.append(replace(layer, norms=(NormSlice(scaler, hidden.linear.size), *layer.norms)))
        return described

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Rows that are orthogonal if there are no more of them than columns, of length 1; ``kind`` does not matter."""
        chosen = super().initialisers(prefix, kind)
        for path, module in self.named_modules():
            if isinstance(module, SphereDense):
                chosen |= module.initialisers(f"{prefix}.{path}")
            if isinstance(module, SphereBlock):
                chosen[f"{prefix}.{path}.alpha"] = Initialiser("constant", module.size)
        return chosen


@torso("simba_v2")
@dataclass(frozen=True, kw_only=True)
class SimbaV2Spec(BlocksSpec):
    """SimbaV2 (Lee et al. 2025, "Hyperspherical Normalization for Scalable Deep Reinforcement Learning"), sections 4.1 to 4.3.

    With n(.) for scaling to length 1, d the width, L blocks and e the expansion: x = n(s * W n([input, 3])), s at sqrt(2 / d);
    each block x <- n(x + alpha * (n(W_2 relu(s * W_1 x)) - x)), s at sqrt(2 / (d e)), alpha at 1 / (L + 1); finally s * W x, s
    at 1. Inputs should be normalised, and the intervention ``hyperspherical`` holds the rows of all W at length 1. Different from
    the paper: the output s * W x is shared by all outputs of a network; activations get no 1e-8 against vectors of 0, which here
    stay 0.
    """

    def build(self, input_shape: Sequence[int], head: HeadSpec) -> SphereTorso:
        """Builds the torso on the sphere; ValueError if there is more than one width or activation, or noise."""
        width = stream_width(self)
        if head.noise_deviation:
            raise ValueError("network.torso=simba_v2 does not work with noisy layers: rows of length 1 have no deviations")
        copies, units = activation_named(self.activations[0]).copies, width * self.expansion
        scale = (2 / width) ** 0.5
        blocks = []
        for number in range(1, self.residual_blocks + 1):
            inner = SphereDense(width, units, scale * self.expansion**-0.5)
            layer = HiddenLayer(f"block_{number}", inner, self, self.activations[0])
            blocks.append(SphereBlock(width, layer, SphereDense(units * copies, width), 1 / (self.residual_blocks + 1)))
        embed = nn.Sequential(SphereEmbedding(prod(input_shape), width, scale))
        return SphereTorso(embed, blocks, SphereDense(width, width, 1.0), lambda weight: Initialiser("orthogonal_rows", 1.0))
