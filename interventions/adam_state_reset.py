"""Resetting Adam's state."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from interventions.base import Intervention, Logs, Update, due
from interventions.registry import register
from interventions.unit_adam import UnitAdam
from networks.spec import require_range


@torch.no_grad()
def reset_adam_state(optimizer: Optimizer, moments: bool, step: bool) -> None:
    """Clears Adam's state in place.

    Args:
        optimizer: Any optimizer of the Adam family.
        moments: Whether the first and second moments become 0.
        step: Whether the step count becomes 0.
    """
    cleared = {"exp_avg": moments, "exp_avg_sq": moments, "max_exp_avg_sq": moments, "step": step}
    for parameter, state in optimizer.state.items():
        if step and isinstance(optimizer, UnitAdam):
            optimizer.forget_restarts(parameter)
        for name, value in state.items():
            if isinstance(value, Tensor) and cleared.get(name, False):
                value.zero_()


@register("adam_state_reset")
@dataclass
class AdamStateReset(Intervention):
    """Clears Adam's moments and step count, at task switches or periodically.

    Paper: Asadi et al. 2023, "Resetting the Optimizer in Deep RL" (at each target copy: set ``every_updates`` to its period);
    "Towards perpetually trainable neural networks", figure 16 (at task switches). Adam-Rel is
    moments false, step true.
    Equation: m, v <- 0 and t <- 0. Clearing the moments alone makes the first step 3.16 times too long at the default betas.
    Deviations: none. State: none. Optimizer: Adam's state only; parameters are not touched.
    Does not work with: optimizers other than Adam (refused).

    Attributes:
        moments: Whether m and v become 0.
        step: Whether t becomes 0.
        every_updates: Period in updates, 0 for never.
        at_task_switch: Whether it also happens at every announced task switch.
    """

    moments: bool = True
    step: bool = True
    every_updates: int = 0
    at_task_switch: bool = True

    no_effect: ClassVar = {"moments": False, "step": False, "every_updates": 3}

    def __post_init__(self) -> None:
        require_range("adam_state_reset.every_updates", self.every_updates, 0)

    def attach(self, u: Update) -> None:
        """Checks that the optimizer is Adam."""
        if not isinstance(u.optimizer, torch.optim.Adam):
            raise ValueError(f"adam_state_reset needs optimizer=adam, not {type(u.optimizer).__name__.lower()}")

    def after_step(self, u: Update) -> Logs:
        """Acts when the period is over."""
        return self._apply(u) if due(u.step, self.every_updates) else {}

    def task_switch(self, u: Update, task: int) -> Logs:
        """Acts if asked to."""
        return self._apply(u) if self.at_task_switch else {}

    def _apply(self, u: Update) -> Logs:
        reset_adam_state(u.optimizer, self.moments, self.step)
        return {"applied": 1.0}
