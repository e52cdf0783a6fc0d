"""Returns over several steps, as a pure function of windows of rewards."""

from typing import NamedTuple

import torch
from torch import Tensor


class NStepReturns(NamedTuple):
    """The first steps of B windows.

    Attributes:
        returns: (B,) sum of gamma^i times reward i over the steps made, the bootstrap left out.
        discounts: (B,) gamma^k of the k steps made.
        last: (B,) int64, k - 1: the step whose next observation is bootstrapped from, unless it is terminal.
    """

    returns: Tensor
    discounts: Tensor
    last: Tensor


def n_step_returns(rewards: Tensor, ends: Tensor, present: Tensor, discount: float) -> NStepReturns:
    """Adds up rewards until an episode ends, n steps are made, or there is no newer step.

    R = r_0 + gamma r_1 + ... + gamma^(k-1) r_(k-1) with the k <= n steps that belong together, so that the target is
    R + gamma^k V(next observation of step k - 1), or R alone if that step is terminal (Sutton 1988; Hessel et al. 2018). An
    episode that ends or is cut within the window shortens it, and so does the newest step that is stored.

    Args:
        rewards: (B, n); entries after the last step are not read.
        ends: (B, n) bool, where an episode ended or was cut after the step.
        present: (B, n) bool, where there is a step; its first column is True.
        discount: gamma.
    """
    goes_on = torch.cat([present[:, :1], ~ends[:, :-1] & present[:, 1:]], 1)
    made = goes_on.cumprod(1).bool()
    steps = made.sum(1)
    exponents = torch.arange(rewards.shape[1] + 1, dtype=torch.float64, device=rewards.device)
    powers = (discount**exponents).to(rewards.dtype)
    returns = (torch.where(made, rewards, 0) * powers[:-1]).sum(1)
    return NStepReturns(returns, powers[steps], steps - 1)
