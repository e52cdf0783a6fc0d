"""The load-balancing layer as an intervention."""

from dataclasses import dataclass, replace
from typing import ClassVar

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention
from plasticity.networks.spec import LoadBalancingSpec, NetworkSpec
from plasticity.settings.fields import setting


@intervention("load_balancing")
@dataclass
class LoadBalancing(Intervention):
    """Shifts every unit's pre-activation so that its firing rate stays within bounds.

    Paper: "Load Balancing Neurons: Controlling Firing Rates Improves Plasticity in Continual Learning", equations 4 and 5.
    Equation: z' = z + sg(beta); the average rate r of z' > 0 has decay 0.99; beta moves by +-0.001 when r leaves [low, high].
    Deviations: the text counts z' >= 0, the published listing z' > 0; this follows the listing.
    State: two buffers per unit, saved with the weights. Optimizer: untouched, beta is not a parameter.
    Works best behind a batch normalisation and with L2 on the weights, as in the paper, since a learned bias can undo the shift.
    Does not work with: tanh, which has no firing threshold (refused).
    """

    low: float = setting(0.4, "Lower bound of the firing rate, in [0, 1]. The paper tries 0.05, 0.4 and 0.5.")
    high: float = setting(0.6, "Upper bound, in [low, 1]. The paper tries 0.95, 0.6 and 0.5.")
    step_size: float = setting(0.001, "Size of one move of the shift, in units of the pre-activation.")
    decay: float = setting(0.99, "Decay of the average rate per update.")

    no_effect: ClassVar = {"step_size": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.spec = LoadBalancingSpec(self.low, self.high, self.step_size, self.decay)

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Adds the layer between the normalisation and the activation of every hidden layer."""
        return replace(spec, load_balancing=self.spec)
