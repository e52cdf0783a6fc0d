"""DASH: shrinking weights that do not point along the negative gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Logs, Update, is_multiple
from plasticity.interventions.methods.weight_clipping import maps_of
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled, copy_again, estimate_spectral_norms, restart_all
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import setting

_TINY = 1e-30


def shrinking_factors(weight: Tensor, direction: Tensor, smallest: float, biases: str = "entries") -> Tensor:
    """Returns max(cosine, smallest), broadcastable to the weight.

    Args:
        weight: (out, in), one cosine for each row; (out, in, height, width), one for each kernel; or a bias (out,), see
            ``biases``.
        direction: Average of negative gradients, in the same shape.
        smallest: lambda, in [0, 1].
        biases: ``entries``, a cosine for each entry of a bias, which is 1, 0 or -1; or ``vectors``, one for a whole bias.
    """
    if weight.ndim == 1 and biases == "entries":
        cosine = torch.sign(weight * direction)
    else:
        axes = {1: [0], 2: [1], 4: [2, 3]}[weight.ndim]
        product = (weight * direction).sum(axes, keepdim=True)
        sizes = [value.square().sum(axes, keepdim=True).sqrt() for value in (weight, direction)]
        cosine = product / (sizes[0] * sizes[1]).clamp_min(_TINY)
    return cosine.clamp(smallest, 1.0)


@intervention("dash")
@dataclass
class DASH(Scheduled):
    """Shrinks rows and kernels by how little they point along the negative gradient, at task switches or periodically.

    Paper: Shin et al. 2024, "DASH: Warm-Starting Neural Network Training in Stationary Settings without Loss of Plasticity",
    algorithm 1: alpha 0.3, lambda 0.3 (in comparisons alpha 0.1 to 0.3 and lambda 0.05 to 0.3).
    Equation: G <- (1 - alpha) G - alpha grad L over minibatches; w <- w * max(cos(w, G), lambda) for each row of a dense map and
    each kernel (out, in) of a convolution, and each bias by itself.
    Published code: the authors' is not available; the public one, in the code of FIRE (Han et al. 2026, whose figures of DASH
    come from it), takes one cosine for a whole bias vector: ``biases: vectors``.
    Deviations: the paper passes once over the data that the coming training will see, with the weights held still. Here G comes
    from the gradients of training, at weights that move: with ``collect_updates: 0`` those since the last time, that is, those of
    the task that ends; with N, those of the N updates after the switch (or the period), at the end of which the weights are
    shrunk. The gradients are those of the loss with the terms of methods before this one, not clipped.
    State: G, and how many updates are still to be collected. Optimizer: rebuilt, ``restart``. Target networks: left alone
    unless ``copies``. Normalisation, deviations of noise and learned shapes of activations are left alone.
    """

    rate: float = setting(0.3, "alpha, weight of the newest gradient.", low=1e-06, high=1)
    smallest_factor: float = setting(0.3, "lambda.", low=0, high=1)
    collect_updates: int = setting(
        0, "Updates whose gradients are collected before the weights are shrunk; 0 for all since the last time.", low=0
    )
    biases: str = setting("entries", "``entries`` or ``vectors``, see ``shrinking_factors``.", choices=("entries", "vectors"))
    copies: bool = setting(False, "Whether target networks are copied from the network again afterwards.")
    optimizer_state: str = setting("restart", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"smallest_factor": 1.0, "optimizer_state": "keep", "every_updates": 3}

    def attach(self, u: Update) -> None:
        """Makes room for the averages."""
        require_restart(self.name, self.optimizer_state, u.optimizer)
        named = {
            f"{path}.{key}": value
            for path, own in maps_of(u.network).items()
            for key, value in zip(("weight", "bias"), own, strict=True)
            if value is not None
        }
        for name, value in named.items():
            self.state[name] = torch.zeros_like(value)
        self._names, self._tensors = list(named), list(named.values())
        self._directions: list[Tensor] = [self.state[name] for name in named]
        self._trained = [dict(u.network.named_parameters())[name] for name in named]
        self.state["updates_to_collect"] = 0

    @torch.no_grad()
    def after_backward(self, u: Update) -> Logs:
        """Averages the negative gradients."""
        if self.collect_updates == 0 or self.state["updates_to_collect"] > 0:
            rows = [(own, p.grad) for own, p in zip(self._directions, self._trained, strict=True)]
            directions = [own for own, gradient in rows if gradient is not None]
            gradients = [gradient for _, gradient in rows if gradient is not None]
            torch._foreach_mul_(directions, 1 - self.rate)
            torch._foreach_sub_(directions, gradients, alpha=self.rate)
        return {}

    def after_step(self, u: Update) -> Logs:
        """Shrinks if enough has been collected, then begins to collect if a period is over."""
        logs: Logs = {}
        if self.state["updates_to_collect"] > 0:
            self.state["updates_to_collect"] -= 1
            logs = self._shrink(u) if self.state["updates_to_collect"] == 0 else {}
        if is_multiple(u.step, self.every_updates) or u.step in self.at_updates:
            logs |= self.act(u)
        return logs

    def branch(self, u: Update) -> Logs:
        """Begins to collect, for one update if no other number is given, since there are no gradients before."""
        if self.at_branch:
            self.state["updates_to_collect"] = max(1, self.collect_updates)
        return {}

    def act(self, u: Update) -> Logs:
        """Shrinks, or begins to collect."""
        if self.collect_updates == 0:
            return self._shrink(u)
        self.state["updates_to_collect"] = self.collect_updates
        torch._foreach_zero_(self._directions)
        return {}

    @torch.no_grad()
    def _shrink(self, u: Update) -> Logs:
        rows = zip(self._tensors, self._directions, strict=True)
        factors = [shrinking_factors(weight, direction, self.smallest_factor, self.biases) for weight, direction in rows]
        torch._foreach_mul_(self._tensors, factors)
        torch._foreach_zero_(self._directions)
        estimate_spectral_norms(u.network)
        if self.optimizer_state != "keep":
            restart_all(u.optimizer, u.network.parameters(), self.optimizer_state)
        if self.copies:
            copy_again(u.network, u.copies)
        return {"mean_factor": torch.cat([factor.flatten() for factor in factors]).mean()}
