"""Initial distributions, kept beside every tensor so that a unit can be redrawn from its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from plasticity.settings.fields import require_choice


@dataclass(frozen=True)
class Initialiser:
    """The distribution that one tensor's initial value is drawn from.

    Attributes:
        kind: ``constant``, ``uniform`` on [-scale, scale], ``absolute_uniform`` with the absolute values of that, ``normal`` with
            deviation ``scale``, ``orthogonal`` with gain ``scale``, ``orthogonal_rows`` of length ``scale`` (of which no more are
            orthogonal than there are columns), or ``values`` given one by one.
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

    def sample(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Draws a whole float32 tensor on the generator's device; a constant draws nothing from the generator."""
        tensor = torch.empty(shape, device=generator.device)
        if self.kind == "constant":
            return tensor.fill_(self.scale)
        if self.kind == "values":
            return tensor.copy_(torch.tensor(self.values, device=generator.device).view(shape))
        if self.kind == "normal":
            return tensor.normal_(0.0, self.scale, generator=generator)
        if self.kind == "uniform":
            return tensor.uniform_(-self.scale, self.scale, generator=generator)
        if self.kind == "absolute_uniform":
            return tensor.uniform_(-self.scale, self.scale, generator=generator).abs_()
        if self.kind == "orthogonal_rows":
            drawn = nn.init.orthogonal_(tensor, generator=generator)
            return drawn.mul_(self.scale / drawn.norm(dim=1, keepdim=True))
        return nn.init.orthogonal_(tensor, gain=self.scale, generator=generator)


def fan_in(weight: Tensor) -> int:
    """Returns the inputs that one output unit sees: in_features, or in_channels x kernel height x kernel width."""
    return weight[0].numel()


def _default(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    bound = Initialiser("uniform", fan**-0.5)
    return bound, bound


def _absolute(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    bound = Initialiser("absolute_uniform", fan**-0.5)
    return bound, bound


def _kaiming_uniform(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    return Initialiser("uniform", gain * (3 / fan) ** 0.5), Initialiser("constant", 0.0)


def _kaiming_normal(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    return Initialiser("normal", gain * fan**-0.5), Initialiser("constant", 0.0)


def _orthogonal(fan: int, gain: float) -> tuple[Initialiser, Initialiser]:
    return Initialiser("orthogonal", gain), Initialiser("constant", 0.0)


_BY_FAN_IN: Final[dict[str, Callable[[int, float], tuple[Initialiser, Initialiser]]]] = {
    "default": _default,
    "absolute": _absolute,
    "kaiming_uniform": _kaiming_uniform,
    "kaiming_normal": _kaiming_normal,
    "orthogonal": _orthogonal,
}


def initialisers_for(name: str, weight: Tensor, gain: float) -> tuple[Initialiser, Initialiser]:
    """Returns the distributions of a layer's weight and bias.

    Args:
        name: ``default`` (PyTorch's: weight and bias uniform on +-1/sqrt(fan_in)), ``absolute`` (the absolute values of these
            draws, Lyle et al. 2024, D.7), ``kaiming_uniform``, ``kaiming_normal``, ``xavier_uniform`` or ``orthogonal``, the last
            four with a bias of 0.
        weight: The weight, (out, in) or (out, in, height, width).
        gain: The factor of the activation that follows; 1 for an output layer.

    Raises:
        ValueError: If ``name`` is unknown.
    """
    require_choice("network.initialiser", name, [*_BY_FAN_IN, "xavier_uniform"])
    if name == "xavier_uniform":
        fan_out = weight.shape[0] * weight[0, 0].numel()
        return Initialiser("uniform", (6 / (fan_in(weight) + fan_out)) ** 0.5), Initialiser("constant", 0.0)
    return _BY_FAN_IN[name](fan_in(weight), gain)
