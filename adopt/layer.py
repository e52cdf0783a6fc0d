"""A map of a user's module, and what was found out about its units."""

from dataclasses import dataclass, field
from typing import Final

from torch import Tensor, nn

from plasticity.adopt.operations import Nonlinearity
from plasticity.networks.units import Consumer, NormSlice, UnitSlice

_FRESH: Final = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


@dataclass
class Layer:
    """A map of a module, and what was found out about its units.

    Attributes:
        name: Name of the map in the module.
        module: The map.
        units: Rows of its weight, or channels.
        nonlinearity: What its units go through, None for none.
        tap: Module whose output is what the non-linearity receives, or whose input; see ``by_input``.
        by_input: Whether the tap looks at the input of the module, which is the non-linearity itself.
        behind: Module that is the non-linearity, None if it is a function or one of several that are used for other layers too.
        read_by: Map whose input is what the non-linearity hands on, as it is; None if there is none.
        copies: 2 for a CReLU.
        norms: Per-unit entries of normalisation.
        consumers: Maps that read the units.
        stages: Where the units are read, before or behind the non-linearity.
        hidden: Whether another map comes behind it.
        output: Whether its units are handed out of the module.
        reasons: Why its units are left alone; empty if they are not.
    """

    name: str
    module: nn.Module
    units: int
    nonlinearity: Nonlinearity | None = None
    tap: str | None = None
    by_input: bool = False
    behind: str | None = None
    read_by: str | None = None
    copies: int = 1
    norms: list[NormSlice] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    stages: set[str] = field(default_factory=set)
    hidden: bool = False
    output: bool = False
    reasons: list[str] = field(default_factory=list)

    def exclude(self, reason: str) -> None:
        """Notes why its units are left alone."""
        if reason not in self.reasons:
            self.reasons.append(reason)


def norm_slices(name: str, module: nn.Module, units: int, start: int = 0, span: int = 1, axis: int = 0) -> list[NormSlice]:
    """Returns the entries of a normalisation layer that belong to each of some units, with the values of a fresh one.

    Args:
        name: Of the layer, "" for the module itself.
        module: The layer.
        units: Their number.
        start: First entry.
        span: Entries of a unit.
        axis: Along which the units lie in gain and offset.
    """
    there = [(key, fresh) for key, fresh in _FRESH.items() if isinstance(getattr(module, key, None), Tensor)]
    prefix = f"{name}." if name else ""
    return [NormSlice(UnitSlice(f"{prefix}{key}", axis, units, (start,), span), fresh) for key, fresh in there]
