"""Methods and metrics of this project on anybody's module, in anybody's loop."""

from plasticity.adopt.adopting import adopt
from plasticity.adopt.describing import UnitsOf
from plasticity.adopt.measuring import measure, probe
from plasticity.adopt.optimizer import AdoptedOptimizer

__all__ = ["AdoptedOptimizer", "UnitsOf", "adopt", "measure", "probe"]
