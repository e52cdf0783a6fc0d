"""Resetting Adam's state."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled
from plasticity.optimizers.unit_adam import UnitAdam
from plasticity.settings.fields import require_choice, setting

_FIRST: Final = ("exp_avg",)
_SECOND: Final = ("exp_avg_sq", "max_exp_avg_sq")
MOMENTS: Final = {"both": _FIRST + _SECOND, "first": _FIRST, "second": _SECOND, "none": ()}


@torch.no_grad()
def reset_adam_state(optimizer: Optimizer, moments: str, step: bool) -> None:
    """Clears Adam's state in place.

    Args:
        optimizer: Any optimizer of the Adam family.
        moments: Which moments become 0: ``both``, ``first``, ``second`` or ``none``.
        step: Whether the step count becomes 0.
    """
    cleared = (*MOMENTS[moments], *(("step",) if step else ()))
    values: list[Tensor] = []
    for parameter, state in optimizer.state.items():
        if step and isinstance(optimizer, UnitAdam):
            optimizer.forget_restarts(parameter)
        values += [state[name] for name in cleared if name in state]
    if values:
        torch._foreach_zero_(values)


def require_adam(method: str, optimizer: Optimizer) -> None:
    """Raises ValueError unless the optimizer is Adam."""
    if not isinstance(optimizer, torch.optim.Adam):
        raise ValueError(f"{method} needs optimizer=adam, not {type(optimizer).__name__.lower()}")


@intervention("adam_state_reset")
@dataclass
class AdamStateReset(Scheduled):
    """Clears Adam's moments and step count, at task switches, periodically or after given updates.

    Paper: Asadi et al. 2023, "Resetting the Optimizer in Deep RL" (at each target copy: set ``every_updates`` to its period);
    "Towards perpetually trainable neural networks", figure 16 (at task switches). The count alone is the method ``adam_rel``.
    Equation: m, v <- 0 and t <- 0. Clearing the moments alone makes the first step 3.16 times too long at the default betas.
    Deviations: none. State: none. Optimizer: Adam's state only; parameters are not touched.
    Does not work with: optimizers other than Adam (refused).
    """

    moments: str = setting("both", "Which moments become 0: ``both``, ``first``, ``second`` or ``none``.")
    step: bool = setting(True, "Whether t becomes 0.")

    no_effect: ClassVar = {"moments": "none", "step": False, "every_updates": 3}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("adam_state_reset.moments", self.moments, list(MOMENTS))

    def attach(self, u: Update) -> None:
        """Checks that the optimizer is Adam."""
        require_adam(self.name, u.optimizer)

    def act(self, u: Update) -> Logs:
        """Clears the state."""
        reset_adam_state(u.optimizer, self.moments, self.step)
        return {"applied": 1.0}
