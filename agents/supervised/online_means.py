"""What a learner predicted before it learned, averaged over the examples of a task."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

_FOLD_EVERY: Final = 1024  # bounds the tensors kept alive


class OnlineMeans:
    """Means over examples, from means over minibatches; ``add`` only appends to lists, except in every 1,024th call.

    Sums are kept in float64 on the values' device, so that no number of examples is too large for them.
    """

    def __init__(self) -> None:
        self._pending: dict[str, list[Tensor | float]] = {}
        self._sizes: list[int] = []
        self._sums: dict[str, Tensor] = {}
        self._examples = 0

    def add(self, values: Mapping[str, Tensor | float], examples: int) -> None:
        """Adds a minibatch's means by name, 0-dim and detached, over a number of examples."""
        for name, value in values.items():
            self._pending.setdefault(name, []).append(value)
        self._sizes.append(examples)
        if len(self._sizes) == _FOLD_EVERY:
            self._fold()

    def means(self) -> dict[str, float]:
        """Returns the mean of each over all examples since ``clear``; later means are the same with or without this call."""
        other = OnlineMeans()
        other.load_state_dict(self.state_dict())
        other._fold()
        return {name: float(total) / other._examples for name, total in other._sums.items()}

    def clear(self) -> None:
        """Forgets everything: a new task begins."""
        self._pending, self._sizes, self._sums, self._examples = {}, [], {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns sums and what is not summed yet."""
        return {
            "pending": {name: _stacked(values) for name, values in self._pending.items()},
            "sizes": list(self._sizes),
            "sums": dict(self._sums),
            "examples": self._examples,
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Restores what ``state_dict`` returned; later means are, bit for bit, as if it had never been saved."""
        self._pending = {name: list(values.to(device).unbind()) for name, values in state["pending"].items()}
        self._sizes = list(state["sizes"])
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._examples = state["examples"]

    def _fold(self) -> None:
        for name, values in self._pending.items():
            samples = _stacked(values).to(torch.float64)
            total = (samples * torch.tensor(self._sizes, dtype=torch.float64).to(samples.device)).sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._examples += sum(self._sizes)
        self._pending, self._sizes = {}, []


def _stacked(values: Sequence[Tensor | float]) -> Tensor:
    return torch.stack([torch.as_tensor(value) for value in values])
