"""A step of Adam for tensors that are not parameters of a network: heads of a method, a multiplier of a loss."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def adam_step(
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    moments: tuple[Sequence[Tensor], Sequence[Tensor]],
    step: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """Makes a step of Adam (Kingma & Ba 2015, algorithm 1), in place.

    Parameters of networks are trained by ``UnitAdam``, whose step is PyTorch's fused one.

    Args:
        values: What is trained.
        gradients: One for each, of its shape.
        moments: First and second moments, one for each value and of its shape; 0 before step 1.
        step: 1 in the first call.
        learning_rate: Step size.
        betas: Decay rates of both moments, in [0, 1).
        epsilon: What is added to the root of the second moment.
    """
    first, second = (list(moment) for moment in moments)
    torch._foreach_lerp_(first, list(gradients), 1 - betas[0])
    torch._foreach_lerp_(second, torch._foreach_mul(list(gradients), list(gradients)), 1 - betas[1])
    divisors = torch._foreach_div(second, 1 - betas[1] ** step)
    torch._foreach_sqrt_(divisors)
    torch._foreach_add_(divisors, epsilon)
    steps = torch._foreach_div(first, 1 - betas[0] ** step)
    torch._foreach_mul_(steps, learning_rate)
    torch._foreach_div_(steps, divisors)
    torch._foreach_sub_(list(values), steps)
