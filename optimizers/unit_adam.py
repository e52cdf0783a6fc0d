"""Adam whose bias correction can start again for some entries of a tensor."""

import math
from collections.abc import Callable, Sequence
from operator import is_
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
        self._forget()
        for group in self.param_groups:
            group["updates"] = 0  # on the host, so that comparing counts does not wait for a device; saved with the group

    def _forget(self) -> None:
        """Lets what follows from the state be found again."""
        self._corrections: dict[int, RestartCorrection] = {}
        self._until: list[int] | None = None  # for each group, the update from which on no restart matters
        self._held: list[dict[str, Tensor] | None] = []  # for each parameter, its vectors of restarts by kind
        self._vectors: list[list[Tensor]] = []
        self._counts = _StepCounts()

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
        vector = self._vector(parameter, mask.shape)
        group = next(group for group in self.param_groups if any(entry is parameter for entry in group["params"]))
        # Beyond this many steps b^k is below half a unit in the last place of a float32.
        horizon = math.ceil(math.log(2.0**-25) / log_of(max(group["betas"])))
        recent = torch.where(vector > step - horizon, vector, 0.0)
        vector.copy_(torch.where(mask, step, recent))
        state[UNTIL] = group["updates"] + horizon
        self._forget()

    def expect_restarts(self, parameter: Tensor, axis: int) -> None:
        """Makes room for restarts of slices along ``axis`` of a parameter, if it has taken a step.

        It changes no step. ``restart_vectors`` returns what there is room for, and a compiled step is compiled again when that
        changes, so that what restarts one layer after another first says which slices may follow.
        """
        if self.state.get(parameter):
            self._vector(parameter, [size if along == axis else 1 for along, size in enumerate(parameter.shape)])

    def forget_restarts(self, parameter: Tensor) -> None:
        """Lets all entries of ``parameter`` share the tensor's step count again, which the caller has set to 0."""
        for key in (RESTARTED_AT, UNTIL):
            self.state.get(parameter, {}).pop(key, None)
        self._forget()

    def restarted_at(self, parameter: Tensor) -> Tensor:
        """Returns the step count at the latest restart of every entry, 0 for none that matters, in the shape of the parameter."""
        latest = torch.zeros_like(parameter)
        for restarts in self.state.get(parameter, {}).get(RESTARTED_AT, {}).values():
            latest = torch.maximum(latest, restarts)
        return latest

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Takes one optimizer step; see ``torch.optim.Adam.step``."""
        loss, restarted = None, self.restarts_matter()
        if closure is not None or not self._step_directly():
            loss = super().step(closure)
        self.count_step()
        if restarted:
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
        if self._until is None:
            states = [[self.state.get(entry, {}) for entry in group["params"]] for group in self.param_groups]
            self._until = [max((own.get(UNTIL, 0) for own in group), default=0) for group in states]
        # A group that was added since has no restarts.
        return any(until > group.get("updates", 0) for until, group in zip(self._until, self.param_groups, strict=False))

    def restart_vectors(self) -> list[list[Tensor]]:
        """Returns for each parameter its step counts at restarts, 0 for never, in vectors that are each broadcastable to it.

        There is a vector for every kind of slice that was restarted or is expected to be; none for a parameter without any.
        """
        # A state may be cleared or replaced from outside.
        states = [self.state.get(entry) for group in self.param_groups for entry in group["params"]]
        held = [own and own.get(RESTARTED_AT) for own in states]
        if len(held) != len(self._held) or not all(map(is_, held, self._held)):
            self._held, self._vectors = held, [[own[kind] for kind in sorted(own)] if own else [] for own in held]
        return self._vectors

    def _vector(self, parameter: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns the step counts at restarts of one kind, of a parameter that has taken a step."""
        restarts: dict[str, Tensor] = self.state[parameter].setdefault(RESTARTED_AT, {})
        kind = "x".join(map(str, shape))
        if kind not in restarts:
            restarts[kind] = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
            self._forget()
        return restarts[kind]

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
            if not all(states) or any(parameter.device.type != "cpu" for parameter in moved):
                return False
            gathered.append((group, moved, states))
        self._counts.add_one([own["step"] for _, _, states in gathered for own in states])
        for group, moved, states in gathered:
            if not moved:
                continue
            torch._fused_adam_(
                moved,
                [parameter.grad for parameter in moved],
                [own["exp_avg"] for own in states],
                [own["exp_avg_sq"] for own in states],
                [],
                [own["step"] for own in states],
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
        self._forget()


class _StepCounts:
    """Counts steps in 0-dim tensors on the CPU through their memory: as tensors that takes as long as much of a small step."""

    def __init__(self) -> None:
        self._steps: list[Tensor] = []
        self._memory: list[Any] = []

    def add_one(self, steps: list[Tensor]) -> None:
        """Adds 1 to each."""
        if len(steps) != len(self._steps) or not all(map(is_, steps, self._steps)):
            self._steps, self._memory = steps, [step.numpy().data for step in steps]
        for memory in self._memory:
            memory[()] += 1.0

    def __deepcopy__(self, memo: dict[int, Any]) -> "_StepCounts":
        """A copied optimizer has tensors of its own."""
        return _StepCounts()
