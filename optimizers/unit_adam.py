"""Adam whose bias correction can start again for some entries of a tensor."""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.optimizers.restart_correction import RESTARTED_AT, UNTIL, RestartCorrection
from plasticity.optimizers.restart_factors import log_of

_MORE: Final = ("amsgrad", "weight_decay", "maximize", "capturable", "differentiable", "decoupled_weight_decay")


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
        # Both are found again when they are None: the parameters that were ever restarted, and all vectors of restarts.
        self._restarted: list[tuple[Tensor, dict[str, Any]]] | None = None
        self._vectors: list[tuple[Tensor, dict[str, Tensor], list[Tensor]]] | None = None
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
        self._vectors = self._restarted = None

    def forget_restarts(self, parameter: Tensor) -> None:
        """Lets all entries of ``parameter`` share the tensor's step count again, which the caller has set to 0."""
        for key in (RESTARTED_AT, UNTIL):
            self.state.get(parameter, {}).pop(key, None)
        self._corrections.clear()
        self._vectors = self._restarted = None

    def restarted_at(self, parameter: Tensor) -> Tensor:
        """Returns the step count at the latest restart of every entry, 0 for none that matters, in the shape of the parameter."""
        latest = torch.zeros_like(parameter)
        for restarts in self.state.get(parameter, {}).get(RESTARTED_AT, {}).values():
            latest = torch.maximum(latest, restarts)
        return latest

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Takes one optimizer step; see ``torch.optim.Adam.step``."""
        loss = None
        if closure is not None or not self._step_directly():
            loss = super().step(closure)
        self.count_step()
        self._correct_restarts()
        return loss

    # PyTorch would wrap ``step`` in a profiler's block and calls of registered hooks, which that of the base class has.
    step.hooked = True  # type: ignore[attr-defined]

    def count_step(self) -> None:
        """Counts a step; ``step`` does so itself, and one that is made elsewhere needs this call."""
        for group in self.param_groups:
            group["updates"] = group.get("updates", 0) + 1  # a group that was added later has none

    def restarts_matter(self) -> bool:
        """Whether the next step of any entry differs from that of the others because it was restarted."""
        if self._restarted is None:
            entries = [(entry, group) for group in self.param_groups for entry in group["params"]]
            self._restarted = [(entry, group) for entry, group in entries if UNTIL in self.state.get(entry, {})]
        return any(self.state.get(entry, {}).get(UNTIL, 0) > group.get("updates", 0) for entry, group in self._restarted)

    def restart_vectors(self) -> list[list[Tensor]]:
        """Returns for each parameter its step counts at restarts, 0 for never, each broadcastable to it; each has made a step.

        There is one vector of rows and one of columns, which are made if there was no restart of that kind yet, and any other
        kind there is.
        """
        # A state may be cleared or replaced from outside.
        if self._vectors is None or any(
            self.state.get(entry, {}).get(RESTARTED_AT) is not held for entry, held, _ in self._vectors
        ):
            entries = [entry for group in self.param_groups for entry in group["params"]]
            self._vectors = [(entry, *self._vectors_of(entry)) for entry in entries]
        return [vectors for _, _, vectors in self._vectors]

    def _vectors_of(self, parameter: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        restarts: dict[str, Tensor] = self.state[parameter].setdefault(RESTARTED_AT, {})
        for axis in range(min(parameter.ndim, 2) or 1):
            shape = [size if axis == along else 1 for along, size in enumerate(parameter.shape)]
            kind = "x".join(map(str, shape))
            if kind not in restarts:
                restarts[kind] = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
                self._corrections.clear()
        return restarts, [restarts[kind] for kind in sorted(restarts)]

    def _correct_restarts(self) -> None:
        """Gives restarted entries the rest of a step that was made as the fused kernel makes it."""
        refused = getattr(self, "found_inf", None)  # set to 1 by a caller that wants the fused kernel to change nothing
        for index, group in enumerate(self.param_groups):
            correction = self._corrections.get(index)
            if correction is None or not correction.matches(group, self.state):
                correction = self._corrections[index] = RestartCorrection(group, self.state)
            correction.apply(refused)

    @torch.no_grad()
    def _step_directly(self) -> bool:
        """Calls the fused kernel of the CPU; returns False, and does nothing, where more is to be done than that.

        What ``torch.optim.Adam.step`` does around it takes several times as long as the kernel for a small network.
        """
        if self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or getattr(self, "found_inf", None) is not None:
            return False
        gathered = []
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state[parameter] for parameter in moved]
            if not group["fused"] or any(group[name] for name in _MORE) or isinstance(group["lr"], Tensor):
                return False
            if not all(states) or not all(parameter.device.type == "cpu" for parameter in moved):
                return False
            gathered.append((group, moved, states))
        for group, moved, states in gathered:
            if not moved:
                continue
            steps = [own["step"] for own in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                moved,
                [parameter.grad for parameter in moved],
                [own["exp_avg"] for own in states],
                [own["exp_avg_sq"] for own in states],
                [],
                steps,
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=0.0,
                eps=group["eps"],
                maximize=False,
            )
        return True

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Adam.__setstate__(self, state)
        self._corrections = {}
        self._vectors = self._restarted = None
