"""Resets of units that were silent for a fixed time."""

from dataclasses import dataclass
from typing import ClassVar

from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.silent_units import SilentUnitResets
from plasticity.settings.fields import setting


@intervention("fixed_threshold_resets")
@dataclass
class FixedThresholdResets(SilentUnitResets):
    """Resets units that did not fire for a fixed time, the same for all units.

    Paper: the baseline of Farias & Jozefiak 2025, "Self-Normalized Resets for Plasticity in Continual Learning", whose
    proposition 3.2 states how wrong one threshold can be where units fire at different rates.
    Equation: a_i <- 0 if unit i fires on any example of the batch, else a_i + the examples of the batch; reset if a_i reaches
    ``threshold``: fresh incoming weights, bias 0, outgoing weights 0, a_i = 0.
    Deviations: the activations are those of the training forward. The threshold has no published default.
    State: an age per unit. Optimizer: moments of every entry written are cleared and the step count kept.
    Does not work with: networks without hidden units, activations without a threshold (refused). A CReLU unit fires whenever its
    input is not 0. Behind a layer normalisation a reset changes the whole layer. Target networks are left alone.
    """

    threshold: int = setting(
        10_000,
        "Age at which a unit is reset, in units of time: in examples, or in updates with ``unit_of_time: "
        "step``; 0 for no resets.",
        low=0,
    )

    no_effect: ClassVar = {"threshold": 0}

    def _first_threshold(self) -> float:
        return float(self.threshold)

    def _never(self) -> bool:
        return self.threshold == 0
