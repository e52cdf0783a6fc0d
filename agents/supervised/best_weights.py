"""Keeping the weights that did best on a validation set, for the end of a task."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plasticity.networks.network import Network


class BestWeights:
    """Remembers parameters and buffers of a network at its best score.

    See the early stopping of class-incremental CIFAR-100 in Dohare et al. (2024): at the end of a task the network returns to the
    weights of its highest validation accuracy, and the optimizer and everything else stay as they are.

    Attributes:
        score: The best score since ``clear``, or None.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self._values: dict[str, Tensor] = {}

    def keep_if_best(self, score: float, network: Network) -> None:
        """Keeps a copy of the network if the score is higher than all earlier ones; of equal scores the earlier one is kept."""
        if self.score is None or score > self.score:
            self.score = score
            self._values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def restore(self, network: Network) -> None:
        """Writes the kept values into the network, in place, and forgets them."""
        for name, value in network.state_dict().items():
            value.copy_(self._values[name])
        self.clear()

    def clear(self) -> None:
        """Forgets everything: a new task begins."""
        self.score, self._values = None, {}

    def state_dict(self) -> dict[str, Any]:
        """Returns score and values."""
        return {"score": self.score, "values": dict(self._values)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restores what ``state_dict`` returned."""
        self.score = state["score"]
        self._values = {name: value.to(device) for name, value in state["values"].items()}
