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

        The state remembers when, in a tensor of the mask's shape: a vector for the rows and one for the columns of a weight, not
        a number for every entry.

        Args:
            parameter: A parameter that has taken at least one step.
            mask: Boolean, broadcastable to the parameter.
        """
        state = self.state[parameter]
        step = state["step"].to(parameter.device, parameter.dtype)
        restarts: dict[str, Tensor] = state.setdefault(RESTARTED_AT, {})
        kind = "x".join(map(str, mask.shape))
        if kind not in restarts:
            restarts[kind] = torch.zeros(mask.shape, device=parameter.device, dtype=parameter.dtype)
        restarts[kind].copy_(torch.where(mask, step, restarts[kind]))
        group = next(group for group in self.param_groups if any(entry is parameter for entry in group["params"]))
        # Beyond this many steps b^k is below half a unit in the last place of a float32.
        state[_UNTIL] = group["updates"] + math.ceil(math.log(2.0**-25) / _log(max(group["betas"])))

    def forget_restarts(self, parameter: Tensor) -> None:
        """Lets all entries of ``parameter`` share the tensor's step count again, which the caller has set to 0."""
        for key in (RESTARTED_AT, _UNTIL):
            self.state.get(parameter, {}).pop(key, None)

    def restarted_at(self, parameter: Tensor) -> Tensor:
        """Returns the step count at the latest restart of every entry, 0 for never, in the shape of the parameter."""
        latest = torch.zeros_like(parameter)
        for restarts in self.state.get(parameter, {}).get(RESTARTED_AT, {}).values():
            latest = torch.maximum(latest, restarts)
        return latest

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
    step = state["step"].to(parameter.device)
    plain = _bias_corrections(step, group)
    first, second = plain
    for restarted_at in state[RESTARTED_AT].values():
        # The youngest count decides, and has the largest corrections. An entry that was never restarted has the plain ones, to
        # the last bit, and so a difference of exactly 0.
        own = _bias_corrections(step - restarted_at, group)
        first, second = (
            torch.maximum(old, torch.where(restarted_at > 0, new, everyone))
            for old, new, everyone in zip((first, second), own, plain, strict=True)
        )
    root = state["exp_avg_sq"].sqrt()
    made = (state["exp_avg"] * plain[0]).div_((root * plain[1]).add_(group["eps"]))
    right = (state["exp_avg"] * first).div_((root * second).add_(group["eps"]))
    difference = made.sub_(right)
    if refused is not None:
        difference = torch.where(refused == 0, difference, 0.0)
    parameter.add_(difference, alpha=group["lr"])


def _bias_corrections(steps: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns 1 / (1 - b1^steps) and 1 / sqrt(1 - b2^steps)."""
    first, second = (-torch.expm1(steps * _log(beta)) for beta in group["betas"])
    return first.reciprocal(), second.rsqrt()


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf
