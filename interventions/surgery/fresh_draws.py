"""Fresh values of many parameters at once."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from plasticity.networks.layers.initialisers import Initialiser

NOISE: Final = ("initial", "scaled", "gaussian")


class FreshDraws:
    """Draws new values for parameters, all uniform ones in one operation and all normal ones in another.

    Orthogonal tensors have to be drawn one by one, by a decomposition that costs more than the rest of a small update; ``scaled``
    uses normal numbers of the same variance instead.

    Args:
        parameters: By name; only shape, layout and device are read.
        initialisers: The initial distribution of each, by name.
        noise: ``initial``: a draw from the tensor's own initial distribution. ``scaled``: normal numbers with the mean and the
            deviation of its entries; of a distribution of absolute values, a draw from it. ``gaussian``: N(0, 1) for all.
    """

    def __init__(self, parameters: Mapping[str, Tensor], initialisers: Mapping[str, Initialiser], noise: str = "initial") -> None:
        self._like = list(parameters.values())
        kinds = [_as_noise(initialisers[name], value, noise) for name, value in parameters.items()]
        self._kinds = kinds
        self._many = {kind: [i for i, own in enumerate(kinds) if own.kind == kind] for kind in ("uniform", "normal")}
        self._still: dict[int, Tensor] = {}  # those that are the same in every draw

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Returns one tensor for each parameter, not to be changed, from a generator on its device."""
        drawn: dict[int, Tensor] = {}
        for kind, places in self._many.items():
            if places:
                tensors = self._together(kind, places, generator)
                torch._foreach_mul_(tensors, [self._kinds[place].scale for place in places])
                drawn |= dict(zip(places, tensors, strict=True))
        drawn |= {place: self._one(place, generator) for place in range(len(self._like)) if place not in drawn}
        return [drawn[place] for place in range(len(self._like))]

    def _one(self, place: int, generator: torch.Generator) -> Tensor:
        if place in self._still:
            return self._still[place]
        drawn = self._kinds[place].sample(self._like[place].shape, generator)
        if self._kinds[place].kind in ("constant", "values"):
            self._still[place] = drawn
        return drawn

    def _together(self, kind: str, places: list[int], generator: torch.Generator) -> list[Tensor]:
        """Returns parts of one long vector of numbers of scale 1, each in the layout of its parameter."""
        like = [self._like[place] for place in places]
        sizes = [value.numel() for value in like]
        flat = torch.empty(sum(sizes), device=generator.device)
        flat = flat.uniform_(-1, 1, generator=generator) if kind == "uniform" else flat.normal_(generator=generator)
        starts = accumulate([0, *sizes[:-1]])
        return [flat.as_strided(value.shape, value.stride(), start) for value, start in zip(like, starts, strict=True)]


def deviation(initialiser: Initialiser, value: Tensor) -> float:
    """Returns the standard deviation of an entry of a tensor with this initial distribution."""
    if initialiser.kind == "uniform":
        root: float = 3**0.5
        return initialiser.scale / root
    if initialiser.kind == "orthogonal":  # rows or columns of norm gain, whichever are fewer
        longer_root: float = max(value.shape[0], value[0].numel()) ** 0.5
        return initialiser.scale / longer_root
    return initialiser.scale if initialiser.kind == "normal" else 0.0


def _as_noise(initialiser: Initialiser, value: Tensor, noise: str) -> Initialiser:
    if noise == "gaussian":
        return Initialiser("normal", 1.0)
    if noise == "scaled" and initialiser.kind in ("uniform", "orthogonal"):
        return Initialiser("normal", deviation(initialiser, value))
    return initialiser
