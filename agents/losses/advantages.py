"""Generalised advantage estimation."""

import numpy as np
import torch
from torch import Tensor


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    discount: float,
    trace_decay: float,
) -> Tensor:
    """Returns advantages (Schulman et al. 2016, equation 16).

    delta_t = r_t + discount * v(s'_t) * (1 - terminated_t) - v(s_t), with s'_t the true next observation, so a truncated episode
    bootstraps; A_t = delta_t + discount * trace_decay * A_{t+1}, the sum being cut where an episode ends either way.

    Args:
        rewards: (T, N).
        values: v(s_t), (T, N).
        next_values: v(s'_t), (T, N).
        terminated: (T, N) bool.
        truncated: (T, N) bool.
        discount: gamma.
        trace_decay: lambda.

    Returns:
        (T, N).
    """
    deltas = rewards + discount * torch.where(terminated, 0.0, next_values) - values
    carry = discount * trace_decay * (~(terminated | truncated)).float()
    # One after the other on the host, where NumPy takes a quarter of the time that tensors of N numbers take.
    advantages, carried = deltas.numpy(force=True), carry.numpy(force=True)
    running = np.zeros_like(advantages[0])
    for step in reversed(range(len(advantages))):
        advantages[step] += carried[step] * running
        running = advantages[step]
    return torch.from_numpy(advantages).to(deltas.device)
