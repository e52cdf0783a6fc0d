"""Resets of whole layers: everything, the head, or the last few layers."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from interventions.base import Intervention, Logs, Update, due
from interventions.optimizer_state import POLICIES, require_restart
from interventions.registry import register
from interventions.surgery import reset_blocks
from networks.spec import require_choice, require_range


@register("reset")
@dataclass
class Reset(Intervention):
    """Draws whole layers anew, at task switches or periodically.

    Paper: Nikishin et al. 2022, "The Primacy Bias in Deep Reinforcement Learning": all layers (SAC, every 2e5 updates), the head
    (DrQ) or the last layer (SPR); in continual supervised learning, all layers at each task ("retrained from scratch").
    Equation: p <- a fresh draw from the tensor's initial distribution, a different one each time; buffers become fresh too.
    Deviations: none. State: none but the private generator. Optimizer: ``restart`` makes it fresh for the tensors drawn anew and
    leaves the others alone, as in the paper.

    Attributes:
        last_layers: How many layers to reset, counted from the output: 1 for the head; 0 for all of them.
        every_updates: Period in updates, 0 for never.
        at_task_switch: Whether it also happens at every announced task switch.
        copies: Whether target networks are copied from the network again afterwards.
        optimizer_state: ``keep``, ``zero`` or ``restart``.
    """

    last_layers: int = 0
    every_updates: int = 0
    at_task_switch: bool = True
    copies: bool = True
    optimizer_state: str = "restart"

    no_effect: ClassVar = {"every_updates": 0, "at_task_switch": False}

    def __post_init__(self) -> None:
        require_range("reset.last_layers", self.last_layers, 0)
        require_range("reset.every_updates", self.every_updates, 0)
        require_choice("reset.optimizer_state", self.optimizer_state, POLICIES)

    def attach(self, u: Update) -> None:
        """Checks that there are so many layers."""
        require_range("reset.last_layers", self.last_layers, 0, len(u.network.blocks))
        require_restart(self.name, self.optimizer_state, u.optimizer)

    def after_step(self, u: Update) -> Logs:
        """Acts when the period is over."""
        return self._apply(u) if due(u.step, self.every_updates) else {}

    def task_switch(self, u: Update, task: int) -> Logs:
        """Acts if asked to."""
        return self._apply(u) if self.at_task_switch else {}

    def _apply(self, u: Update) -> Logs:
        names = tuple(block.name for block in u.network.blocks[-self.last_layers :])
        seed = int(torch.randint(2**62, (), generator=u.generator, device=u.generator.device))
        reset_blocks(u.network, u.optimizer, names, seed, self.optimizer_state)
        if self.copies:
            for copy in u.copies.values():
                copy.load_state_dict(u.network.state_dict())
        written = {name for block in u.network.blocks[-self.last_layers :] for name in block.parameters}
        hidden = [layer.units for layer in u.network.units.layers if layer.weight.tensor in written]
        return {"layers_reset": float(len(names)), "units_reset": float(sum(hidden))}
