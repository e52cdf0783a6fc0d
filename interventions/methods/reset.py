"""Resets of whole layers: everything, the head, or the last few layers."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled, copy_again
from plasticity.interventions.surgery.resets import reset_blocks
from plasticity.networks.network import Block, Network
from plasticity.optimizers.optimizer_state import POLICIES, require_restart, reset_entries
from plasticity.settings.fields import require_range, setting


def output_maps(network: Network) -> tuple[str, ...]:
    """Returns the names of the weights and biases of the maps onto the outputs, without noise or free deviations."""
    head = network.blocks[-1].parameters
    return tuple(name for name in head if name.endswith((".weight", ".bias")) and name not in network.norm_parameters)


@intervention("reset")
@dataclass
class Reset(Scheduled):
    """Reinitialises whole layers, at task switches, periodically or after given updates.

    Paper: Nikishin et al. 2022, "The Primacy Bias in Deep Reinforcement Learning": all layers (SAC, every 2e5 updates), the head
    (DrQ) or the last layer (SPR). In continual supervised learning all layers at each task ("retrained from scratch"), or the
    head, in Continual ImageNet to zero (Dohare et al. 2024). BRO (Nauman et al. 2024) resets all after updates 15001, 50001,
    250001, 500001, 750001, 1000001, ...: ``at_updates``.
    Equation: p <- a fresh draw from the tensor's initial distribution, a different one each time; buffers become fresh too.
    Deviations: the updates that some codes make in a row on the old replay after a reset are not made; raise the agent's number
    of updates per step for that. State: none but the private generator. Optimizer: ``restart`` makes it fresh for the tensors
    reset and leaves the others alone, as in the paper.
    """

    last_layers: int = setting(0, "How many layers to reset, counted from the output: 1 for the head; 0 for all of them.", low=0)
    head: str = setting(
        "resample", "What happens to the maps onto the outputs: ``resample``, or ``zero``.", choices=("resample", "zero")
    )
    copies: bool = setting(True, "Whether target networks are copied from the network again afterwards.")
    optimizer_state: str = setting("restart", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"every_updates": 0, "at_task_switch": False}

    def attach(self, u: Update) -> None:
        """Checks that there are that many layers."""
        require_range("reset.last_layers", self.last_layers, 0, len(u.network.blocks))
        require_restart(self.name, self.optimizer_state, u.optimizer)

    @torch.no_grad()
    def act(self, u: Update) -> Logs:
        """Resets the layers."""
        blocks = u.network.blocks[-self.last_layers :]
        # The generator may live on a device; the host waits for this number, at a reset only.
        seed = int(torch.randint(2**62, (), generator=u.generator, device=u.generator.device))
        reset_blocks(u.network, u.optimizer, tuple(block.name for block in blocks), seed, self.optimizer_state)
        if self.head == "zero":
            for name in output_maps(u.network):
                u.network.tensor(name).zero_()
                reset_entries(u.optimizer, u.network.tensor(name), None, self.optimizer_state)
        if self.copies:
            copy_again(u.network, u.copies)
        return {"layers_reset": float(len(blocks)), "units_reset": float(_units(u.network, blocks))}


def _units(network: Network, blocks: tuple[Block, ...]) -> int:
    written = {name for block in blocks for name in block.parameters}
    return sum(layer.units for layer in network.units.layers if layer.weight.tensor in written)
