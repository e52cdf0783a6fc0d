"""A positive multiplier that is learned by its logarithm, such as SAC's temperature."""

from typing import Any

import torch
from torch import Tensor


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

    @torch.no_grad()
    def descend(self, gradient: Tensor) -> None:
        """Makes one Adam step on x against ``gradient``, 0-dim."""
        self._steps += 1
        self._first.lerp_(gradient, 0.1)
        self._second.lerp_(gradient.square(), 0.001)
        first = self._first / (1 - 0.9**self._steps)
        second = self._second / (1 - 0.999**self._steps)
        self.log -= self.learning_rate * first / (second.sqrt() + 1e-8)

    def state_dict(self) -> dict[str, Any]:
        """Returns x, Adam's moments and its step count."""
        return {"log": self.log, "first": self._first, "second": self._second, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.log.copy_(state["log"])
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._steps = state["steps"]
