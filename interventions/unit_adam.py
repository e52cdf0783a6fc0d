"""Adam whose bias correction can start anew for some entries of a tensor."""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

RESTARTED_AT: Final = "restarted_at"
_UNTIL: Final = "restart_matters_until_update"


class UnitAdam(torch.optim.Adam):
    """``torch.optim.Adam`` with a step count per entry, for entries that were restarted.

    PyTorch keeps one step count per tensor, so a unit whose moments were cleared would take steps up to 6.6 times too long
    (moments near 0, bias correction near 1). Here the fused step runs as it is, and entries restarted by ``restart`` then get the
    difference between that step and the one a fresh Adam would have made. Without a restart the arithmetic is that of
    ``torch.optim.Adam``, bit for bit and at no cost.

    Derivation, for moments m and v after the step, count t of the tensor and k of the entry: Adam moves an entry by
    ``lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`` (Kingma & Ba 2015, algorithm 1); the entry should move by the same
    expression with k in the place of t.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        for group in self.param_groups:
            group["updates"] = 0  # on the host, so that nobody waits for a device to compare counts; saved with the group

    @torch.no_grad()
    def restart(self, parameter: Tensor, mask: Tensor) -> None:
        """Counts steps anew for entries of ``parameter`` under ``mask``, whose moments the caller has cleared.

        Args:
            parameter: A parameter that has taken at least one step.
            mask: Boolean, broadcastable to the parameter.
        """
        state = self.state[parameter]
        if RESTARTED_AT not in state:
            state[RESTARTED_AT] = torch.zeros_like(parameter)
        step = state["step"].to(parameter.device, parameter.dtype)
        state[RESTARTED_AT].copy_(torch.where(mask, step, state[RESTARTED_AT]))
        group = next(group for group in self.param_groups if any(entry is parameter for entry in group["params"]))
        # Beyond this many steps b^k is below half a unit in the last place of a float32.
        state[_UNTIL] = group["updates"] + math.ceil(math.log(2.0**-25) / _log(max(group["betas"])))

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Takes one optimizer step; see ``torch.optim.Adam.step``."""
        loss = super().step(closure)
        refused = getattr(self, "found_inf", None)  # set to 1 by whoever wants the fused kernel to leave everything as it is
        for group in self.param_groups:
            group["updates"] += 1
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if parameter.grad is not None and state.get(_UNTIL, 0) >= group["updates"]:
                    _correct(parameter, state, group, refused)
        return loss


@torch.no_grad()
def _correct(parameter: Tensor, state: dict[str, Any], group: dict[str, Any], refused: Tensor | None) -> None:
    restarted_at, step = state[RESTARTED_AT], state["step"].to(parameter.device)
    moved = restarted_at > 0 if refused is None else (restarted_at > 0) & (refused == 0)
    made = _adaptive_step(state, group, step)
    right = _adaptive_step(state, group, step - restarted_at)
    parameter.add_(torch.where(moved, (made - right) * group["lr"], 0.0))


def _adaptive_step(state: dict[str, Any], group: dict[str, Any], step: Tensor) -> Tensor:
    """Returns Adam's step for lr = 1 after ``step`` updates, (0-dim) or one count per entry."""
    first, second = (-torch.expm1(step * _log(beta)) for beta in group["betas"])
    return (state["exp_avg"] / first) / ((state["exp_avg_sq"] / second).sqrt() + group["eps"])


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf
