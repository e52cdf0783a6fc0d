"""Initial distributions, kept with every tensor so that a unit can be redrawn from its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Final

import torch
from torch import Tensor, nn

from plasticity.settings.fields import require_choice

ABSOLUTE: Final = "absolute_"


@dataclass(frozen=True)
class Initialiser:
    """The distribution that one tensor's initial value is drawn from.

    Attributes:
        kind: ``constant``, ``uniform`` on [-scale, scale], ``normal`` with deviation ``scale``, ``orthogonal`` with gain
            ``scale``, ``orthogonal_rows`` of length ``scale`` (of which no more are orthogonal than there are columns),
            ``absolute_uniform`` or ``absolute_normal``, the absolute values of what those two draw, or ``values`` given one by
            one.
        scale: The constant, the bound, the deviation, the gain, or the length.
        values: The values of ``values``, in the order of memory.
    """

    kind: str
    scale: float
    values: tuple[float, ...] = ()

    @property
    def independent(self) -> bool:
        """Whether entries are drawn independently of each other, so that some of them can be drawn alone."""
        return self.kind not in ("orthogonal", "orthogonal_rows", "values")

    @property
    def mean(self) -> float:
        """The expectation of every entry; ``values`` have none in common, and it must not be read."""
        factors = {"constant": 1.0, "absolute_uniform": 0.5, "absolute_normal": sqrt(2 / pi)}
        return factors.get(self.kind, 0.0) * self.scale

    def sample(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Draws a whole float32 tensor on the generator's device; a constant draws nothing from the generator."""
        tensor = torch.empty(shape, device=generator.device)
        if self.kind == "constant":
            return tensor.fill_(self.scale)
        if self.kind == "values":
            return tensor.copy_(torch.tensor(self.values, device=generator.device).view(shape))
        if self.kind.startswith(ABSOLUTE):
            return replace(self, kind=self.kind.removeprefix(ABSOLUTE)).sample(shape, generator).abs_()
        if self.kind == "normal":
            return tensor.normal_(0.0, self.scale, generator=generator)
        if self.kind == "uniform":
            return tensor.uniform_(-self.scale, self.scale, generator=generator)
        if self.kind == "orthogonal_rows":
            drawn = nn.init.orthogonal_(tensor, generator=generator)
            return drawn.mul_(self.scale / drawn.norm(dim=1, keepdim=True))
        return nn.init.orthogonal_(tensor, gain=self.scale, generator=generator)


def _absolute(initialiser: Initialiser) -> Initialiser:
    if initialiser.kind == "constant":
        return replace(initialiser, scale=abs(initialiser.scale))
    return replace(initialiser, kind=f"{ABSOLUTE}{initialiser.kind}")


def fan_in(weight: Tensor) -> int:
    """Returns the number of inputs of one output unit: in_features, or in_channels x kernel height x kernel width."""
    return weight[0].numel()


def _default(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    bound = Initialiser("uniform", fan**-0.5)
    return bound, bound


def _kaiming_uniform(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    return Initialiser("uniform", gain * (3 / fan) ** 0.5), Initialiser("constant", 0.0)


def _kaiming_normal(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    return Initialiser("normal", gain * fan**-0.5), Initialiser("constant", 0.0)


def _orthogonal(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    return Initialiser("orthogonal", gain), Initialiser("constant", 0.0)


_BY_FAN_IN: Final[dict[str, Callable[[int, float], tuple[Initialiser, Initialiser]]]] = {
    "default": _default,
    "kaiming_uniform": _kaiming_uniform,
    "kaiming_normal": _kaiming_normal,
    "orthogonal": _orthogonal,
}
_NAMES: Final = [*_BY_FAN_IN, "xavier_uniform"]
# The absolute values of an orthogonal matrix are not orthogonal.
_WITH_ABSOLUTE: Final = [f"{ABSOLUTE}{name}" for name in _NAMES if name != "orthogonal"]


def initialisers_for(name: str, weight: Tensor, gain: float) -> tuple[Initialiser, Initialiser]:
    """Returns the distributions of a layer's weight and bias.

    Args:
        name: ``default`` (PyTorch's: weight and bias uniform on +-1/sqrt(fan_in)), ``kaiming_uniform``,
            ``kaiming_normal``, ``xavier_uniform`` or ``orthogonal``, these with a bias of 0. Behind ``absolute_`` any of them
            but the last, with the absolute value of every weight and bias: every output of a layer raises every unit behind it,
            so that with relu each of these starts on one side of its kink for all inputs ("Towards perpetually trainable neural
            networks", appendix D.7, figure 22, which does not name the distribution).
        weight: The weight, (out, in) or (out, in, height, width).
        gain: The factor of the activation that follows; 1 for an output layer.

    Raises:
        ValueError: If ``name`` is unknown.
    """
    require_choice("network.initialiser", name, [*_NAMES, *_WITH_ABSOLUTE])
    if name.startswith(ABSOLUTE):
        weights, biases = initialisers_for(name.removeprefix(ABSOLUTE), weight, gain)
        return _absolute(weights), _absolute(biases)
    if name == "xavier_uniform":
        fan_out = weight.shape[0] * weight[0, 0].numel()
        return Initialiser("uniform", (6 / (fan_in(weight) + fan_out)) ** 0.5), Initialiser("constant", 0.0)
    return _BY_FAN_IN[name](fan_in(weight), gain)
