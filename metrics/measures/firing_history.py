"""Distributions of firing rates over the course of a run."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.metrics.log_values import Heatmap
from plasticity.metrics.measures.activity import rate_bins

BINS: Final = 20
_WIDTH: Final = 100 // BINS
BIN_NAMES: Final = ["0 exactly", *(f"{low}-{low + _WIDTH} %" for low in range(0, 100, _WIDTH)), "100 % exactly"]


class FiringHistory:
    """Remembers, for each name, one column per measurement: the share of units that fire that often."""

    def __init__(self) -> None:
        self._columns: dict[str, list[tuple[int, int, int, Tensor]]] = {}

    def add(self, name: str, step: int, task: int, rates: Tensor) -> Heatmap:
        """Adds a column and returns all of them.

        Args:
            name: A layer, or the whole network.
            step: When it was measured.
            task: In which task.
            rates: Firing rates in [0, 1], (U,).
        """
        columns = self._columns.setdefault(name, [])
        columns.append((step, task, len(rates), rate_bins(rates, BINS).cpu()))
        steps, tasks, counts, shares = zip(*columns, strict=True)
        when, where, units = (torch.tensor(column, dtype=torch.int64) for column in (steps, tasks, counts))
        return Heatmap(when, where, units, torch.stack(shares), BIN_NAMES, "firing rate")

    def state_dict(self) -> dict[str, Any]:
        """Returns the columns in plain containers."""
        return {
            name: {"places": [column[:3] for column in columns], "shares": torch.stack([column[3] for column in columns])}
            for name, columns in self._columns.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._columns = {
            name: [(*place, share) for place, share in zip(saved["places"], saved["shares"].unbind(), strict=True)]
            for name, saved in state.items()
        }
