"""FIRE: the nearest isometry of each weight."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled, copy_again, estimate_spectral_norms, restart_all
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import setting


def polar_factor(matrices: Tensor, iterations: int) -> Tensor:
    """Approximates the orthogonal polar factor U V^T of W = U S V^T by Newton and Schulz's iteration.

    X <- 1.5 X - 0.5 X X^T X from X = W / |W|_F. Each singular value s moves separately, by s <- 1.5 s - 0.5 s^3, towards 1; a
    small one grows by half at each iteration, so that ten iterations take 0.02 to about 0.85 and 0.001 only to 0.06.

    Args:
        matrices: (..., rows, columns); a matrix of zeros stays one.
        iterations: Number of steps.
    """
    tall = matrices.shape[-2] >= matrices.shape[-1]
    x = matrices if tall else matrices.mT
    length: Tensor = x.norm(dim=(-2, -1), keepdim=True)
    x = x / length.clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(iterations):
        x = 1.5 * x - 0.5 * (x @ (x.mT @ x))
    return x if tall else x.mT


def isometry(weight: Tensor, iterations: int) -> Tensor:
    """Returns sqrt(out / in) times the polar factor of a weight (out, in).

    A convolution's weight (out, in, height, width) is split by position: each slice (out, in) has its own factor, divided by
    height * width.
    """
    scale: float = (weight.shape[0] / weight.shape[1]) ** 0.5
    if weight.ndim == 2:
        return scale * polar_factor(weight, iterations)
    slices = polar_factor(weight.movedim((0, 1), (-2, -1)), iterations)
    return slices.movedim((-2, -1), (0, 1)) * (scale / weight[0, 0].numel())


def squared_distance(weights: list[Tensor], others: list[Tensor]) -> Tensor:
    """Returns the sum over tensors of ||W - W'||_F^2, 0-dim: the paper's squared Frobenius error."""
    return torch.stack(torch._foreach_norm(torch._foreach_sub(weights, others))).square().sum()


@intervention("fire")
@dataclass
class FIRE(Scheduled):
    """Replaces each weight by the nearest isometry, at task switches, periodically or after given updates.

    Paper: Han et al. 2026, "FIRE: Frobenius-Isometry Reinitialization for Balancing the Stability-Plasticity Tradeoff": before
    each chunk of data, or once in the middle of training a DQN.
    Equation: W <- sqrt(out / in) * W (W^T W)^(-1/2), by 10 iterations of Newton and Schulz; for a convolution slice by slice,
    divided by the number of positions.
    Deviations: none; biases and normalisation are left alone, as in the code. ``strength`` mixes old and new, as an argument of
    the code does. Ten iterations do not reach the isometry where the singular values differ by a factor of 100 or more.
    State: none. Optimizer: rebuilt, ``restart``, as in the code. Target networks: left alone unless ``copies``.
    """

    iterations: int = setting(10, "Iterations of Newton and Schulz.", low=1)
    strength: float = setting(1.0, "Share of the isometry in the result.", low=0, high=1)
    reset_head: bool = setting(True, "Whether the maps onto the outputs take part.")
    copies: bool = setting(False, "Whether target networks are copied from the network again afterwards.")
    optimizer_state: str = setting("restart", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"strength": 0.0, "optimizer_state": "keep", "every_updates": 3}

    def attach(self, u: Update) -> None:
        """Chooses the weights."""
        require_restart(self.name, self.optimizer_state, u.optimizer)
        head = () if self.reset_head else u.network.blocks[-1].parameters
        self._weights: list[Tensor] = [w.detach() for name, w in u.network.weights().items() if name not in head]

    @torch.no_grad()
    def act(self, u: Update) -> Logs:
        """Moves the weights to their isometries."""
        if not self._weights:
            return {}
        before = [weight.clone() for weight in self._weights]
        torch._foreach_lerp_(self._weights, [isometry(w, self.iterations) for w in self._weights], self.strength)
        estimate_spectral_norms(u.network)
        if self.optimizer_state != "keep":
            restart_all(u.optimizer, u.network.parameters(), self.optimizer_state)
        if self.copies:
            copy_again(u.network, u.copies)
        return {"squared_distance": squared_distance(self._weights, before)}
