"""Plasticity injection."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.networks.layers.injection import injections
from plasticity.networks.network import Network
from plasticity.networks.spec import NetworkSpec
from plasticity.optimizers.optimizer_state import POLICIES, require_restart, reset_entries
from plasticity.settings.fields import setting


@intervention("plasticity_injection")
@dataclass
class PlasticityInjection(Intervention):
    """Freezes the last layers once and trains fresh ones alongside them, without changing the outputs.

    Paper: Nikishin et al. 2023, "Deep Reinforcement Learning with Plasticity Injection", equation 1: once, after 50 of 200
    million Atari frames, on the dense layers of a DQN, here ``layers: 2``.
    Equation: f(x) = h(x) + h1(x) - h2(x) of what enters these layers; h as it was, frozen; h1 = h2 fresh, and h1 alone is
    trained. The layers before them continue to train, with gradients through all three.
    The trained parameters keep their place and become those of h1, so that every parameter stays in the one optimizer. h and h2
    are buffers of the network, which metrics of weights do not count, and cost two more passes through these layers from then on.
    A target network is injected at the same time with the same h1 and h2, and its own h.
    Deviations: a linear head by itself is refused: there the trained sum is linear in the same inputs with the same gradient, and
    injection would amount to a fresh optimizer. SAC's target copies buffers at each update, h among them.
    State: whether it happened; h and h2 in the network. Optimizer: ``restart`` for the layers injected, which are new; the rest
    keeps its own, as in the paper.
    Does not work with: ``compile``; spectral normalisation in these layers (refused). Layer normalisation and CReLU, noise,
    dueling streams (all of the head, so that ``layers`` counts them) and ensembles do work; a reset of the head removes h and h2.
    Resets of units before these layers clear what h and h2 read of them too, but utilities are those of the trained weights.
    """

    layers: int = setting(2, "How many layers, counted from the output.", low=2)
    at_update: int = setting(0, "The update after which it happens, 0 for none.", low=0)
    at_task_switch: bool = setting(True, "Whether it happens at the first announced task switch, unless it has happened.")
    optimizer_state: str = setting("restart", "``keep``, ``zero`` or ``restart``.", choices=POLICIES)

    no_effect: ClassVar = {"at_update": 0, "at_task_switch": False}
    conflicts: ClassVar = {"hare_and_tortoise": "the average of a head before and after its injection equals neither"}

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Gives the last layers companions."""
        return replace(spec, injected_layers=self.layers)

    def attach(self, u: Update) -> None:
        """Lists the layers that an injection concerns, also for a resumed run."""
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._injections = injections(u.network)
        self.state["injected"] = False

    def after_step(self, u: Update) -> Logs:
        """Injects after the given update."""
        return self._inject(u) if u.step == self.at_update else {}

    def task_switch(self, u: Update, task: int) -> Logs:
        """Injects if ``at_task_switch`` is set."""
        return self._inject(u) if self.at_task_switch else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state; the network's companions are in the network's own."""
        super().load_state_dict(state)
        for injection in self._injections:
            injection.active.on = self.state["injected"]

    def _inject(self, u: Update) -> Logs:
        if self.state["injected"]:
            return {}
        self.state["injected"] = True
        seed = int(torch.randint(2**62, (), generator=u.generator, device=u.generator.device))
        fresh = u.network.fresh(seed)
        for network in (u.network, *u.copies.values()):
            for injection, other in zip(injections(network), injections(fresh), strict=True):
                injection.inject(other)
        for name in injected_names(u.network):
            reset_entries(u.optimizer, u.network.tensor(name), None, self.optimizer_state)
        return {"injected": 1.0}


def injected_names(network: Network) -> list[str]:
    """Returns the names of the trained parameters of the layers that have companions."""
    trained = {id(value) for injection in injections(network) for value in injection.trained()}
    return [name for name, value in network.named_parameters() if id(value) in trained]
