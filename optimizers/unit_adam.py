"""Adam whose bias correction can start again for some entries of a tensor."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticity.optimizers.restart_correction import RESTARTED_AT, UNTIL, RestartCorrection
from plasticity.optimizers.restart_factors import log_of


class UnitAdam(torch.optim.Adam):
    """``torch.optim.Adam`` with a step count per entry, for entries that were restarted.

    PyTorch keeps one step count per tensor, so a unit whose moments were cleared would take steps up to 6.6 times too long
    (moments near 0, bias correction near 1). Here the fused step runs as it is, and entries restarted by ``restart`` then get the
    difference between that step and the one a fresh Adam would have made; see ``plasticity.optimizers.restart_correction``.
    Without a restart the arithmetic is that of ``torch.optim.Adam``, bit for bit and at no cost.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self._corrections: dict[int, RestartCorrection] = {}
        for group in self.param_groups:
            group["updates"] = 0  # on the host, so that comparing counts does not wait for a device; saved with the group

    @torch.no_grad()
    def restart(self, parameter: Tensor, mask: Tensor) -> None:
        """Counts steps from 0 again for entries of ``parameter`` under ``mask``, whose moments the caller has cleared.

        The state remembers when, in a tensor of the mask's shape: a vector for the rows and one for the columns of a weight, not
        a number for every entry. Restarts too long ago to matter are forgotten.

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
        group = next(group for group in self.param_groups if any(entry is parameter for entry in group["params"]))
        # Beyond this many steps b^k is below half a unit in the last place of a float32.
        horizon = math.ceil(math.log(2.0**-25) / log_of(max(group["betas"])))
        recent = torch.where(restarts[kind] > step - horizon, restarts[kind], 0.0)
        restarts[kind].copy_(torch.where(mask, step, recent))
        state[UNTIL] = group["updates"] + horizon
        self._corrections.clear()

    def forget_restarts(self, parameter: Tensor) -> None:
        """Lets all entries of ``parameter`` share the tensor's step count again, which the caller has set to 0."""
        for key in (RESTARTED_AT, UNTIL):
            self.state.get(parameter, {}).pop(key, None)
        self._corrections.clear()

    def restarted_at(self, parameter: Tensor) -> Tensor:
        """Returns the step count at the latest restart of every entry, 0 for none that matters, in the shape of the parameter."""
        latest = torch.zeros_like(parameter)
        for restarts in self.state.get(parameter, {}).get(RESTARTED_AT, {}).values():
            latest = torch.maximum(latest, restarts)
        return latest

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Takes one optimizer step; see ``torch.optim.Adam.step``."""
        loss = super().step(closure)
        self.correct_restarts()
        return loss

    def correct_restarts(self) -> None:
        """Counts a step that was made as the fused kernel makes it, and gives restarted entries the rest of theirs."""
        refused = getattr(self, "found_inf", None)  # set to 1 by a caller that wants the fused kernel to change nothing
        for index, group in enumerate(self.param_groups):
            group["updates"] = group.get("updates", 0) + 1  # a group that was added later has none
            correction = self._corrections.get(index)
            if correction is None or not correction.matches(group, self.state):
                correction = self._corrections[index] = RestartCorrection(group, self.state)
            correction.apply(refused)

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Adam.__setstate__(self, state)
        self._corrections = {}
