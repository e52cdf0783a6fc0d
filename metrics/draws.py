"""How metrics that draw at random do so: settings, and private generators for the draws of one measurement."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from plasticity.settings.fields import Settings, setting
from plasticity.settings.seeding import torch_generator


@dataclass
class DrawSettings(Settings):
    """Settings of the metrics that draw minibatches from a part's latest 64 examples."""

    section: ClassVar[str] = "metrics"

    repeats: int = setting(
        1,
        "Measurements of each metric that draws minibatches, of which the mean is logged; of 2 or more each one too, as "
        "``<metric>_repeat_0`` and so on.",
        low=1,
    )
    minibatches: int = setting(8, "Minibatches, and so gradients, of one measurement of readiness.", low=2)
    minibatch_examples: int = setting(
        16, "Examples of a minibatch that metrics draw; at most half of those that there are to draw from.", low=1
    )
    smoothness: float = setting(
        1.0, "Smoothness constant L of the metrics ``..._fixed_smoothness``; without that ending it is estimated.", above=0
    )
    gain_steps: int = setting(10, "Optimizer steps k of ``k_step_gain``.", low=1)


@dataclass(frozen=True)
class Draws:
    """What is drawn in one measurement of one part.

    Attributes:
        settings: How much.
        seed: Private to run, part and step.
    """

    settings: DrawSettings = field(default_factory=DrawSettings)
    seed: int = 0

    def generator(self, purpose: str, repeat: int) -> torch.Generator:
        """Returns a generator on the CPU that is private to a purpose and the number of the repeat."""
        return torch_generator(self.seed, purpose, repeat)
