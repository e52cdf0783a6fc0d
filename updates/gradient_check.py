"""The last check of a gradient before the optimizer: one that is not finite is refused, and its joint norm is bounded."""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class GradientCheck:
    """Refuses updates whose loss or gradient is not finite, before they reach the weights.

    On the CPU an update is refused at once. On an accelerator that would mean waiting for the device at every update: there the
    fused optimizer skips the step, and ``raise_if_any`` reports it later.

    Args:
        part: The part's name, for messages.
        parameters: The part's parameters.
    """

    def __init__(self, part: str, parameters: Sequence[nn.Parameter]) -> None:
        self._part, self._parameters = part, parameters
        self._on_device = parameters[0].device.type != "cpu"
        self._finite = torch.ones((), dtype=torch.bool, device=parameters[0].device)

    def norms(self) -> Sequence[Tensor]:
        """Returns the norm of each gradient, 0-dim."""
        return torch._foreach_norm([gradient for parameter in self._parameters if (gradient := parameter.grad) is not None])

    def clip(self, norm: Tensor, bound: float) -> None:
        """Scales the gradients, whose joint norm is given, to the bound if they are beyond."""
        nn.utils.clip_grads_with_norm_(self._parameters, bound, norm, foreach=True)

    def refuse_unless_finite(self, numbers: Sequence[Tensor], optimizer: Optimizer, update: int) -> None:
        """Refuses the step that ``optimizer`` would make in the update of that number.

        Args:
            numbers: 0-dim; one is not finite if the loss or a gradient is not.
            optimizer: On an accelerator it is made to skip the step.
            update: For the message.

        Raises:
            FloatingPointError: On the CPU, if one is not finite.
        """
        if self._on_device:
            finite = torch.stack(list(numbers)).isfinite().all()
            self._finite &= finite
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            optimizer.grad_scale = None  # type: ignore[attr-defined]
        elif not all(isfinite(float(number)) for number in numbers):
            raise FloatingPointError(f"part {self._part}: the loss or a gradient is not finite in update {update}")

    def raise_if_any(self, update: int) -> None:
        """Raises FloatingPointError if any update up to this one met a number that is not finite."""
        if not bool(self._finite):
            raise FloatingPointError(f"part {self._part}: the loss or a gradient is not finite at or before update {update}")


def joint_norm(norms: Sequence[Tensor]) -> Tensor:
    """Returns the norm of tensors together, 0-dim, from that of each."""
    joint: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    return joint
