"""Selective weight reinitialisation: single weights of low utility are drawn again."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.methods.l2 import INCLUDE, included_parameters
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled
from plasticity.interventions.surgery.fresh_draws import FreshDraws
from plasticity.interventions.surgery.unit_statistics import lowest
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.optimizers.optimizer_state import POLICIES, require_restart, reset_entries
from plasticity.settings.fields import require_range, setting

UTILITIES: Final = ("gradient", "magnitude")


def entries_to_reset(utility: Tensor, pruning: str, factor: float, generator: torch.Generator) -> Tensor:
    """Marks the entries of one tensor that are to be reinitialised.

    Args:
        utility: Of every entry, at least 0.
        pruning: ``threshold`` marks entries of at most ``factor`` times the mean utility; ``proportional`` marks the
            ``factor`` * entries lowest ones, that number rounded up or down at random so that it is right on average.
        factor: At least 0; at most 1 for ``proportional``.
        generator: On the tensor's device; draws nothing for ``threshold``.

    Returns:
        Boolean, in the shape of ``utility``.
    """
    if pruning == "threshold":
        return utility <= factor * utility.mean()
    whole, part = divmod(utility.numel() * factor, 1.0)
    count = (torch.rand((), generator=generator, device=utility.device) < part) + int(whole)
    flat = utility.flatten()
    return lowest(flat, torch.ones_like(flat, dtype=torch.bool), count).view(utility.shape)


@intervention("selective_weight_reinitialisation")
@dataclass
class SelectiveWeightReinitialisation(Scheduled):
    """Reinitialises single weights of low utility, periodically.

    Paper: Hernandez-Garcia et al. 2025, "Reinitializing Weights vs Units for Maintaining Plasticity in Neural Networks". Swept
    there on permuted MNIST: every 256 to 8192 updates, factor 1e-6 to 0.1; the defaults lie between.
    Equation: utility |w dL/dw| or |w|, of the weights after the step and the gradient of this update; in each tensor those of
    utility <= factor * mean (``threshold``), or the lowest factor * entries (``proportional``), become a draw from the tensor's
    initial distribution, or its mean.
    Deviations: normalisation is left alone by default, ``include: all`` is as published (a gain returns to 1). The gradient is
    the one that the optimizer received, after clipping.
    State: the averages of utilities, if ``decay`` is not 0; a tensor's return to 0 whenever some of its weights are
    reinitialised.
    Optimizer: kept, as published.
    """

    utility: str = setting("gradient", "``gradient`` or ``magnitude``.", choices=UTILITIES)
    pruning: str = setting("threshold", "``threshold`` or ``proportional``.", choices=("threshold", "proportional"))
    factor: float = setting(0.01, "Multiple of the mean, or share of the entries.")
    fresh: str = setting("resample", "``resample``, or ``mean`` of the initial distribution.", choices=("resample", "mean"))
    decay: float = setting(0.0, "Of the average of utilities over updates; 0 for the utility of the last update.", low=0, below=1)
    include: str = setting("weights_and_biases", "``weights``, ``weights_and_biases`` or ``all``.", choices=INCLUDE)
    optimizer_state: str = setting("keep", "``keep``, ``zero`` or ``restart`` for every entry written.", choices=POLICIES)
    every_updates: int = setting(1024, "Period in updates, 0 for never.", low=0, kw_only=True)
    at_task_switch: bool = setting(False, "Whether it happens at announced task switches.", kw_only=True)

    no_effect: ClassVar = {"every_updates": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range(f"{self.name}.factor", self.factor, 0, 1 if self.pruning == "proportional" else float("inf"))
        if self.at_task_switch and self.utility == "gradient" and self.decay == 0:
            raise ValueError(f"{self.name}.at_task_switch=true needs decay above 0 or utility=magnitude: no gradient exists")

    def attach(self, u: Update) -> None:
        """Chooses the parameters."""
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._parameters = included_parameters(u.network, self.include)
        starts = {name: u.network.initialisers[name] for name in self._parameters}
        if self.fresh == "mean":
            starts = {name: _mean_of(initialiser) for name, initialiser in starts.items()}
        self._fresh = FreshDraws(self._parameters, starts)
        if self.decay > 0:
            for name, value in self._parameters.items():
                self.state[name] = torch.zeros_like(value.detach())

    def after_backward(self, u: Update) -> Logs:
        """Changes nothing; a method with this hook finds gradients in ``after_step``, also in a compiled update."""
        return {}

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        """Averages utilities, then acts when the period is over."""
        if self.decay > 0:
            averages = [self.state[name] for name in self._parameters]
            torch._foreach_lerp_(averages, self._utilities(), 1 - self.decay)
        return super().after_step(u)

    @torch.no_grad()
    def act(self, u: Update) -> Logs:
        """Reinitialises useless weights."""
        utilities = [self.state[name] for name in self._parameters] if self.decay > 0 else self._utilities()
        counts = []
        rows = zip(self._parameters.values(), utilities, self._fresh.draw(u.generator), strict=True)
        for parameter, utility, fresh in rows:
            mask = entries_to_reset(utility, self.pruning, self.factor, u.generator)
            parameter.copy_(torch.where(mask, fresh, parameter))
            reset_entries(u.optimizer, parameter, mask, self.optimizer_state)
            counts.append(mask.sum())
            if self.decay > 0:
                utility.masked_fill_(mask.any(), 0.0)
        return {"weights_reset": torch.stack(counts).sum()}

    def _utilities(self) -> list[Tensor]:
        values = [value.detach() for value in self._parameters.values()]
        if self.utility == "gradient":
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters.values()]
            values = list(torch._foreach_mul(values, gradients))
        return list(torch._foreach_abs(values))


def _mean_of(initialiser: Initialiser) -> Initialiser:
    return initialiser if initialiser.kind == "values" else Initialiser("constant", initialiser.mean)
