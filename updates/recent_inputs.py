"""The latest inputs of an agent without a replay, kept for measurements."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RecentInputs:
    """Keeps references to the latest minibatches, only as many as hold ``count`` inputs."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._minibatches: deque[Tensor] = deque()

    def add(self, inputs: Tensor) -> None:
        """Remembers one minibatch, (B, *input_shape)."""
        self._minibatches.append(inputs)
        most = -(-self.count // inputs.shape[0])
        while len(self._minibatches) > most:
            self._minibatches.popleft()

    def latest(self, count: int) -> Tensor | None:
        """Returns the latest inputs, at most ``count``, or None before the first."""
        return torch.cat(tuple(self._minibatches))[-count:] if self._minibatches else None

    def state_dict(self) -> dict[str, Any]:
        """Returns one copy: saving a minibatch that is a view would write the whole epoch behind it."""
        joined = torch.cat(tuple(self._minibatches)) if self._minibatches else None
        return {"inputs": joined, "sizes": [inputs.shape[0] for inputs in self._minibatches]}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restores what ``state_dict`` returned."""
        joined = state["inputs"]
        self._minibatches = deque(() if joined is None else joined.to(device).split(state["sizes"]))
