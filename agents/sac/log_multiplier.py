"""A positive multiplier that is learned by its logarithm, such as SAC's temperature."""

from typing import Any

import torch
from torch import Tensor

from plasticity.optimizers.adam_step import adam_step


class LogMultiplier:
    """exp(x) for one number x under Adam (Kingma & Ba 2015, betas 0.9 and 0.999); not a network, so it has no updater.

    Args:
        initial: Initial value of exp(x), above 0.
        learning_rate: Step size.
        device: Where x lives.

    Attributes:
        log: x, 0-dim.
    """

    def __init__(self, initial: float, learning_rate: float, device: torch.device) -> None:
        self.learning_rate = learning_rate
        self.log = torch.tensor(initial, device=device).log()
        self._first, self._second = torch.zeros_like(self.log), torch.zeros_like(self.log)
        self._steps = 0

    @property
    def value(self) -> Tensor:
        """exp(x), 0-dim."""
        return self.log.exp()

    def descend(self, gradient: Tensor) -> None:
        """Makes one Adam step on x against ``gradient``, 0-dim."""
        self._steps += 1
        adam_step([self.log], [gradient], ([self._first], [self._second]), self._steps, self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Returns x, Adam's moments and its step count."""
        return {"log": self.log, "first": self._first, "second": self._second, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.log.copy_(state["log"])
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._steps = state["steps"]
