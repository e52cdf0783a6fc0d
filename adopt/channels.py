"""Which units the channels of a value are, along its feature axis."""

from dataclasses import dataclass, replace
from typing import Final

PRE, POST = "before", "behind"  # the non-linearity
UNKNOWN: Final = ""


@dataclass(frozen=True)
class Run:
    """Consecutive channels that come from one layer, or from nowhere that is known.

    Attributes:
        source: Name of the map whose units they are, ``UNKNOWN`` for none.
        width: Channels: units x copies x span.
        units: Units of the layer.
        span: Consecutive channels of one unit, the positions of a flattened convolution.
        stage: ``PRE`` or ``POST``.
        copy: Which of the copies of a unit: 0, or 1 for the second half of a CReLU.
        negated: Whether the sign was turned, on the way to the second half of a CReLU.
        made_by: Name of the module whose whole output they are, "" if no module hands them on as they are.
        untouched: Whether they come straight from the non-linearity.
        normalised: Whether they were normalised behind it.
    """

    source: str
    width: int
    units: int = 0
    span: int = 1
    stage: str = PRE
    copy: int = 0
    negated: bool = False
    made_by: str = ""
    untouched: bool = False
    normalised: bool = False

    def altered(self, made_by: str = "") -> "Run":
        """Returns the channels behind an operation that leaves them where they are."""
        return replace(self, made_by=made_by, untouched=False)


@dataclass(frozen=True)
class Channels:
    """All channels of a value.

    Attributes:
        runs: In order along the axis.
        axis: The feature axis of the value: 1, or the last one of (B, T, D).
    """

    runs: tuple[Run, ...]
    axis: int

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the layers that are in it, each once."""
        return tuple(dict.fromkeys(run.source for run in self.runs if run.source != UNKNOWN))

    @property
    def width(self) -> int:
        """Channels along the axis."""
        return sum(run.width for run in self.runs)

    def flattened(self, positions: int) -> "Channels":
        """Returns the channels of (B, C, ...) flattened to (B, C x positions)."""
        return Channels(
            tuple(replace(run.altered(), width=run.width * positions, span=run.span * positions) for run in self.runs), 1
        )

    def starts(self) -> list[tuple[int, Run]]:
        """Returns each run with its first index along the axis."""
        found, start = [], 0
        for run in self.runs:
            found.append((start, run))
            start += run.width
        return found

    def only(self) -> Run | None:
        """Returns its one run, None if there are several or none is known."""
        return self.runs[0] if len(self.runs) == 1 and self.runs[0].source != UNKNOWN else None


def unknown(width: int, axis: int) -> Channels:
    """Returns channels of which nothing is known."""
    return Channels((Run(UNKNOWN, width),), axis)
