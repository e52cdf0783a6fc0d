"""How an agent represents values: as a scalar, or as a categorical over atoms trained by cross-entropy."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isfinite
from typing import ClassVar, Final, NamedTuple

from torch import Tensor

from plasticity.agents.losses.targets import categorical_cross_entropy, hl_gauss, regression_error, smooth, two_hot
from plasticity.networks.spec import HeadSpec
from plasticity.settings.fields import Settings, require_choice, require_range, setting

POP_ART: Final = "pop_art"
CODINGS: Final = ("squared", "huber", "two_hot", "hl_gauss", POP_ART)
CATEGORICAL: Final = "categorical"
CATEGORICAL_LOSSES: Final = ("two_hot", "hl_gauss", CATEGORICAL)
DECODINGS: Final = ("corrected", "published")
_MOST_DERIVED_ATOMS: Final = 25_000
_ATOMS_OF_A_BELL: Final = 2  # beyond a value at the end: its bell is 0.75 atoms wide, and loses 0.04 % of its mass there


class Support(NamedTuple):
    """The atoms of a categorical value: their number, the first, and the last."""

    bins: int
    low: float
    high: float


def categorical_support(loss: str, discount: float, bins: int | None, low: float | None, high: float | None) -> Support:
    """Fills in the atoms of a categorical value where settings leave them open.

    Derived from the discount, they are the whole numbers from -M to M, M = ceil(1 / (1 - discount)) being the largest return of
    rewards in [-1, 1] (Lyle et al. 2024, B.3). For ``hl_gauss`` there are two more at each end, without which the Gaussian around
    a value near the end would be cut off, and its mean pulled inwards.

    Args:
        loss: A member of ``CATEGORICAL_LOSSES``.
        discount: gamma, in [0, 1).
        bins: Number of atoms; None for a spacing of 1, or less where the distance from ``low`` to ``high`` is not a whole number.
        low: First atom; None for the derived one.
        high: Last atom; None for the derived one.

    Raises:
        ValueError: If the atoms are fewer than two, do not increase, or would be too many.
    """
    # 1 / (1 - 0.9) is a little more than 10.
    reach = float(ceil(round(1 / (1 - discount), 9)) + (_ATOMS_OF_A_BELL if loss == "hl_gauss" else 0))
    low, high = -reach if low is None else low, reach if high is None else high
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ValueError(f"agent.value_low={low} must be less than agent.value_high={high}, and both finite")
    if bins is None:
        bins = ceil(round(high - low, 9)) + 1
        if bins > _MOST_DERIVED_ATOMS:
            raise ValueError(
                f"agent.bins=null makes {bins} atoms from agent.value_low={low:g} to agent.value_high={high:g} at "
                f"agent.discount={discount}; set agent.bins: more than {_MOST_DERIVED_ATOMS} are not derived"
            )
    require_range("agent.bins", bins, 2)
    return Support(bins, low, high)


def require_decodable(smoothing: float, decoding: str) -> None:
    """Raises ValueError unless values can be decoded from targets of this label smoothing, by a member of ``DECODINGS``."""
    require_range("agent.label_smoothing", smoothing, 0, 1)
    require_choice("agent.label_smoothing_decoding", decoding, DECODINGS)
    if smoothing == 1 and decoding == "corrected":
        raise ValueError(f"agent.label_smoothing={smoothing} leaves no value in the targets to decode; it must be less than 1")


class ValueCoding(NamedTuple):
    """A value's representation and loss, interchangeable between DQN's Q, PPO's value and SAC's critics.

    Attributes:
        kind: ``squared``, ``huber``; ``two_hot`` or ``hl_gauss``, which encode a scalar target; ``categorical``, whose targets
            are distributions already; or ``pop_art`` for squared errors of values normalised by running moments of the targets,
            see ``plasticity.agents.losses.value_scale``.
        bins: Atoms of a categorical value.
        low: First atom.
        high: Last atom.
        label_smoothing: Weight of the uniform distribution in a target that is encoded, in [0, 1].
        deviation_low: Least deviation that ``pop_art`` divides by.
        decoding: ``corrected`` to remove the uniform distribution when values are decoded, ``published`` to keep it.
    """

    kind: str = "squared"
    bins: int = 0
    low: float = 0.0
    high: float = 0.0
    label_smoothing: float = 0.0
    deviation_low: float = 1e-4
    decoding: str = "corrected"

    @property
    def categorical(self) -> bool:
        """Whether a value is a distribution over atoms."""
        return self.kind in CATEGORICAL_LOSSES

    def head(self, scalar_kind: str, outputs: int, gain: float = 1.0) -> HeadSpec:
        """Returns the head for ``outputs`` values; ``scalar_kind`` names that of a scalar value."""
        if self.categorical:
            taken_out = self.label_smoothing if self.decoding == "corrected" else 0.0
            return HeadSpec("categorical", outputs, self.bins, self.low, self.high, gain, label_smoothing=taken_out)
        if self.kind == POP_ART:
            return HeadSpec(scalar_kind, outputs, gain=gain, pop_art=True, deviation_low=self.deviation_low)
        return HeadSpec(scalar_kind, outputs, gain=gain)

    def errors(self, outputs: Tensor, targets: Tensor, atoms: Tensor | None) -> Tensor:
        """Returns each prediction's error.

        Args:
            outputs: Scalars (...), or logits (..., Z).
            targets: Values, (...), normalised like the outputs for ``pop_art``; distributions (..., Z) for ``categorical``.
            atoms: (Z,) for a categorical value.

        Returns:
            (...).
        """
        if not self.categorical:
            return regression_error(outputs, targets, self.kind == "huber")
        assert atoms is not None
        return categorical_cross_entropy(outputs, targets if self.kind == CATEGORICAL else self.encode(targets, atoms))

    def encode(self, values: Tensor, atoms: Tensor) -> Tensor:
        """Returns the distribution over (Z,) atoms, (..., Z), that stands for each value (...) in a target.

        For ``categorical`` it is the projection of all mass at the value, which is two-hot.
        """
        encode = hl_gauss if self.kind == "hl_gauss" else two_hot
        return smooth(encode(values.reshape(-1), atoms).view(*values.shape, -1), self.label_smoothing)

    def errors_over(self, atoms: Tensor | None) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Returns a function of logits over these atoms, (..., Z), and values, (...), to each error; None for a scalar value."""
        if not self.categorical:
            return None
        assert atoms is not None
        return lambda logits, values: categorical_cross_entropy(logits, self.encode(values, atoms))


@dataclass
class CodingSettings(Settings):
    """Settings shared by all agents that learn values; ``value_kind`` names the loss that they are learned by."""

    section: ClassVar[str] = "agent"

    discount: float = setting(0.99, "gamma.", low=0, below=1)
    bins: int | None = setting(None, "Atoms of a categorical value; None for a spacing of 1.")
    value_low: float | None = setting(
        None,
        "First atom; None for -M, M being 1 / (1 - discount) rounded up, the largest return of rewards in "
        "[-1, 1]; for ``hl_gauss`` two more. Rewards of another size need other numbers, and so do "
        "C51's published 51 atoms.",
    )
    value_high: float | None = setting(None, "Last atom; None for M, or M + 2.")
    label_smoothing: float = setting(0.0, "Weight of the uniform distribution in the two-hot or HL-Gauss target, in [0, 1].")
    label_smoothing_decoding: str = setting(
        "corrected",
        "``corrected``: a decoded value is that of the target before it was smoothed. ``published``: it is "
        "the mean of the smoothed one, (1 - label_smoothing) * value + label_smoothing * mean of the atoms, "
        "which shrinks values that are bootstrapped from as a smaller discount does.",
    )
    pop_art_decay: float = setting(
        3e-4, "Share of a batch's targets in the moments that ``pop_art`` normalises by.", low=0, high=1
    )
    pop_art_deviation_low: float = setting(1e-4, "Least deviation that it divides by.", low=1e-30)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_decodable(self.label_smoothing, self.label_smoothing_decoding)
        if self.value_kind in CATEGORICAL_LOSSES:
            support = categorical_support(self.value_kind, self.discount, self.bins, self.value_low, self.value_high)
            self.bins, self.value_low, self.value_high = support

    @property
    def value_kind(self) -> str:
        """The loss that values are learned by."""
        raise NotImplementedError

    @property
    def coding(self) -> ValueCoding:
        """How values are represented; the projected targets of ``categorical`` are not smoothed."""
        return ValueCoding(
            self.value_kind,
            self.bins or 0,
            self.value_low or 0.0,
            self.value_high or 0.0,
            0.0 if self.value_kind == CATEGORICAL else self.label_smoothing,
            self.pop_art_deviation_low,
            self.label_smoothing_decoding,
        )


@dataclass
class ValueSettings(CodingSettings):
    """The settings of a learned value, the same for PPO and SAC."""

    value_loss: str = setting("squared", "``squared``, ``huber``, ``two_hot``, ``hl_gauss`` or ``pop_art``.", choices=CODINGS)

    @property
    def value_kind(self) -> str:
        """The loss that values are learned by."""
        return self.value_loss
