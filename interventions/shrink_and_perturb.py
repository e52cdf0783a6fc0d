"""Shrink and perturb."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from interventions.base import Intervention, Logs, Update, due
from interventions.l2 import included_parameters
from interventions.optimizer_state import POLICIES, require_restart, reset_entries
from interventions.registry import register
from networks.spec import require_choice, require_range

NOISE: Final = ("initial", "gaussian")


@torch.no_grad()
def shrink_and_perturb(parameters: list[Tensor], noise: list[Tensor], shrink: float, perturb: float) -> None:
    """Sets every p to shrink * p + perturb * noise, in place."""
    torch._foreach_mul_(parameters, shrink)
    torch._foreach_add_(parameters, noise, alpha=perturb)


@register("shrink_and_perturb")
@dataclass
class ShrinkAndPerturb(Intervention):
    """Shrinks all parameters and adds a little of a fresh network, at task switches or periodically.

    Paper: Ash & Adams 2020, "On Warm-Starting Neural Network Training": p <- shrink * p + noise, shrink 0.6, noise scale 0.01.
    Equation: p <- shrink * p + perturb * q with q drawn from the tensor's own initial distribution, as the paper's code does, or
    from N(0, 1) (``noise: gaussian``), as its text says. Normalisation gains and offsets are left alone.
    Other published forms are settings: convex, shrink = 1 - perturb; soft (Juliani & Ash 2024), every_updates 1,
    perturb 1e-6, shrink 1 - 1e-6; Dohare et al. 2024, every_updates 1, shrink 1, gaussian, beside ``l2``.
    Deviations: none. State: none. Optimizer: kept by default; ``restart`` clears it, as a new training round would.

    Attributes:
        shrink: Factor of the old parameters, in [0, 1].
        perturb: Factor of the noise, at least 0.
        noise: ``initial`` or ``gaussian``.
        every_updates: Period in updates, 0 for never.
        at_task_switch: Whether it also happens at every announced task switch.
        optimizer_state: ``keep``, ``zero`` or ``restart``.
    """

    shrink: float = 0.6
    perturb: float = 0.01
    noise: str = "initial"
    every_updates: int = 0
    at_task_switch: bool = True
    optimizer_state: str = "keep"

    no_effect: ClassVar = {"shrink": 1.0, "perturb": 0.0, "every_updates": 3}

    def __post_init__(self) -> None:
        require_range("shrink_and_perturb.shrink", self.shrink, 0, 1)
        require_range("shrink_and_perturb.perturb", self.perturb, 0)
        require_range("shrink_and_perturb.every_updates", self.every_updates, 0)
        require_choice("shrink_and_perturb.noise", self.noise, NOISE)
        require_choice("shrink_and_perturb.optimizer_state", self.optimizer_state, POLICIES)

    def attach(self, u: Update) -> None:
        """Chooses the parameters."""
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._parameters = included_parameters(u.network, "weights_and_biases")

    def after_step(self, u: Update) -> Logs:
        """Acts when the period is over."""
        return self._apply(u) if due(u.step, self.every_updates) else {}

    def task_switch(self, u: Update, task: int) -> Logs:
        """Acts if asked to."""
        return self._apply(u) if self.at_task_switch else {}

    def _apply(self, u: Update) -> Logs:
        parameters: list[Tensor] = list(self._parameters.values())
        shrink_and_perturb(parameters, self._draw(u), self.shrink, self.perturb)
        for parameter in parameters:
            reset_entries(u.optimizer, parameter, None, self.optimizer_state)
        return {"applied": 1.0}

    def _draw(self, u: Update) -> list[Tensor]:
        if self.noise == "gaussian":
            return [torch.empty_like(parameter).normal_(generator=u.generator) for parameter in self._parameters.values()]
        initialisers = u.network.initialisers
        return [initialisers[name].sample(value.shape, u.generator) for name, value in self._parameters.items()]
