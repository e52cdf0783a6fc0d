"""What happens to the optimizer's state of entries that were reset: kept, cleared, or set as in a fresh optimizer."""

from typing import Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.optimizers.paired_optimizer import owner_of
from plasticity.optimizers.unit_adam import UnitAdam

POLICIES: Final = ("keep", "zero", "restart")
_STEP: Final = "step"


def require_restart(method: str, policy: str, optimizer: Optimizer) -> None:
    """Raises ValueError if the optimizer cannot apply ``policy`` to single units."""
    if policy != "keep" and not getattr(optimizer, "per_entry_state", True):
        raise ValueError(
            f"{method}.optimizer_state={policy} is not defined for this optimizer, whose state mixes the entries of a parameter; "
            "choose keep, or optimizer=adam, sgd or rmsprop"
        )
    counts_steps = isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, UnitAdam)
    if policy == "restart" and counts_steps:
        raise ValueError(
            f"{method}.optimizer_state=restart needs UnitAdam or an optimizer without a step count; choose zero or keep"
        )


@torch.no_grad()
def reset_entries(optimizer: Optimizer, parameter: Tensor, mask: Tensor | None, policy: str) -> None:
    """Applies a policy to the optimizer's state of some entries of one parameter.

    ``zero`` clears every moment (any state tensor of the parameter's shape) and leaves the step count, so Adam's next steps of
    these entries are up to 6.6 times too long. ``restart`` also counts these entries' steps from 0 again.

    Args:
        optimizer: Its state is changed in place.
        parameter: A parameter of the optimizer.
        mask: Boolean, broadcastable to the parameter; None for all of it.
        policy: ``keep``, ``zero`` or ``restart``.
    """
    state = optimizer.state.get(parameter, {})
    if policy == "keep" or not state:
        return
    if not getattr(optimizer, "per_entry_state", True):
        state.clear()  # of a whole parameter, or require_restart would have refused; the optimizer makes it again
        return
    optimizer = owner_of(optimizer, parameter)
    # A restarted parameter keeps its state, with the values of a fresh one: PyTorch's fused SGD makes no step in which some
    # parameters have a momentum and others do not yet.
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if name != _STEP and value.shape == parameter.shape:
            value.zero_() if mask is None else value.masked_fill_(mask, 0.0)
        elif policy == "restart" and mask is None:
            value.zero_()
    if policy == "restart" and isinstance(optimizer, UnitAdam):
        optimizer.forget_restarts(parameter) if mask is None else optimizer.restart(parameter, mask)


def expect_resets(optimizer: Optimizer, parameter: Tensor, axis: int, policy: str) -> None:
    """Tells the optimizer that ``reset_entries`` may reset slices along ``axis`` of a parameter; it changes no step."""
    if policy != "restart" or not optimizer.state.get(parameter):
        return
    owner = owner_of(optimizer, parameter)
    if isinstance(owner, UnitAdam):
        owner.expect_restarts(parameter, axis)
