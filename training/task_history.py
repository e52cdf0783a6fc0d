"""The results of a supervised run's evaluations, task by task."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plasticity.metrics.log_values import Series
from plasticity.metrics.undefined import Undefined


class TaskHistory:
    """Values by task, their means over the tasks so far, and the best epoch of the current task."""

    def __init__(self) -> None:
        self._tasks = torch.zeros(0, dtype=torch.int64)
        self._values: dict[str, Tensor] = {}  # each (tasks,), float64, NaN where there is none
        self._best: tuple[int, float] | None = None

    def add(self, task: int, values: Mapping[str, float]) -> None:
        """Adds a task's values by name; NaN for one that could not be computed."""
        for name in values:
            self._values.setdefault(name, torch.full((len(self._tasks),), torch.nan, dtype=torch.float64))
        for name, column in self._values.items():
            self._values[name] = torch.cat([column, column.new_tensor([values.get(name, torch.nan)])])
        self._tasks = torch.cat([self._tasks, self._tasks.new_tensor([task])])

    def mean(self, name: str) -> float:
        """Returns the mean of a value over the tasks that have one."""
        mean = float(self._values[name].nanmean()) if name in self._values else torch.nan
        return Undefined("no task so far has a value") if mean != mean else mean

    def curves(self, suffix: str) -> Series:
        """Returns the values whose names end with ``_<suffix>`` against the task, each named by the part before the suffix."""
        ending = f"_{suffix}"
        columns = {name.removesuffix(ending): column for name, column in self._values.items() if name.endswith(ending)}
        return Series(self._tasks, columns, "task", suffix, grows=True)

    def keep_if_best(self, task: int, value: float) -> None:
        """Keeps the value of an epoch if no earlier one of the same task is as high."""
        if self._best is None or self._best[0] != task or value > self._best[1]:
            self._best = (task, value)

    def best(self, task: int) -> float | None:
        """Returns the highest value offered for a task, or None without any."""
        return self._best[1] if self._best is not None and self._best[0] == task else None

    def state_dict(self) -> dict[str, Any]:
        """Returns everything, in plain containers."""
        return {"tasks": self._tasks, "values": dict(self._values), "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._tasks, self._values, self._best = state["tasks"], dict(state["values"]), state["best"]
