"""Hare and tortoise: a fast network that is set back to its own slow average."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.interventions.base import Logs, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.scheduled import Scheduled, copy_again, restart_all
from plasticity.interventions.surgery.features import frozen_copy
from plasticity.networks.network import Network
from plasticity.optimizers.optimizer_state import POLICIES, require_restart
from plasticity.settings.fields import setting


@torch.no_grad()
def follow(tortoise: list[Tensor], hare: list[Tensor], momentum: float) -> None:
    """Sets every t to momentum * t + (1 - momentum) * h, in place."""
    torch._foreach_lerp_(tortoise, hare, 1 - momentum)


@intervention("hare_and_tortoise")
@dataclass
class HareAndTortoise(Scheduled):
    """Keeps a slow average of the network, evaluates that, and periodically sets the network back to it.

    Paper: Lee et al. 2024, "Slow and Steady Wins the Race: Maintaining Plasticity with Hare and Tortoise Networks", algorithm 1:
    momentum 0.999, reset every 10 epochs of image classification.
    Equation: after each update tortoise <- m tortoise + (1 - m) hare, for parameters and buffers;
    every k updates hare <- tortoise.
    Published code, from which the figures come, does three more things, which are not offered: gradients are never cleared, so
    that each step, clipped at 0.5, follows their sum; the two networks share their memory after hare <- tortoise, so that the
    next step moves the tortoise as far as the hare; and the first reset comes after the first epoch.
    Deviations: the period counts updates, and the default of 1000 is ours; integer buffers are copied.
    What the tortoise does: ``Updater.predict`` runs it, so that accuracies and returns are the tortoise's. In reinforcement
    learning it also acts: a DQN's greedy actions are the tortoise's, and so are PPO's rollouts, their probabilities and values
    (so that ratios compare the hare with the network that acted) and SAC's actions; targets are computed as usual, with target
    networks and the hare. ``evaluate: hare`` leaves all of this to the trained network. Metrics and the probe use the trained
    network.
    State: the tortoise. Optimizer: kept, as published. Target networks: left alone unless ``copies``.
    """

    momentum: float = setting(0.999, "m.", low=0, high=1)
    evaluate: str = setting("tortoise", "``tortoise`` or ``hare``.", choices=("tortoise", "hare"))
    copies: bool = setting(False, "Whether target networks are copied from the network again after it was set back.")
    optimizer_state: str = setting(
        "keep", "What happens to the state when the hare is set back: ``keep``, ``zero`` or ``restart``.", choices=POLICIES
    )
    every_updates: int = setting(1000, "Period in updates, 0 for never.", low=0, kw_only=True)
    at_task_switch: bool = setting(False, "Whether it happens at announced task switches.", kw_only=True)
    at_branch: bool = setting(False, "Whether it happens where it is added, which changes no weights.", kw_only=True)

    no_effect: ClassVar = {"momentum": 0.0, "every_updates": 3}

    def attach(self, u: Update) -> None:
        """Copies the network."""
        require_restart(self.name, self.optimizer_state, u.optimizer)
        self._tortoise = frozen_copy(u.network)
        own, trained = _tensors(self._tortoise), _tensors(u.network)
        for name, value in own.items():
            self.state[f"tortoise/{name}"] = value
        moving = [name for name, value in own.items() if value.is_floating_point()]
        self._slow, self._fast = [own[name] for name in moving], [trained[name] for name in moving]
        self._counts = [(own[name], trained[name]) for name in own if name not in moving]

    def after_step(self, u: Update) -> Logs:
        """Lets the tortoise follow, then sets the hare back if the period is over."""
        follow(self._slow, self._fast, self.momentum)
        for own, trained in self._counts:
            own.copy_(trained)
        return super().after_step(u)

    @torch.no_grad()
    def act(self, u: Update) -> Logs:
        """Sets the hare back."""
        distance = torch.stack(torch._foreach_norm(torch._foreach_sub(self._fast, self._slow))).norm()
        torch._foreach_copy_(self._fast, self._slow)
        if self.optimizer_state != "keep":
            restart_all(u.optimizer, u.network.parameters(), self.optimizer_state)
        if self.copies:
            copy_again(u.network, u.copies)
        return {"distance": distance}

    def evaluation_network(self, u: Update) -> Network:
        """Returns the tortoise, unless ``evaluate`` is ``hare``."""
        return self._tortoise if self.evaluate == "tortoise" else u.network


def _tensors(network: Network) -> dict[str, Tensor]:
    """Returns parameters and buffers, each once."""
    return {name: value.detach() for name, value in [*network.named_parameters(), *network.named_buffers()]}
