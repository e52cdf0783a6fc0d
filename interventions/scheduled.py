"""What methods that act all at once share: when they act, and what happens to target networks and the optimizer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.interventions.base import Intervention, Logs, Update, is_multiple
from plasticity.networks.layers.spectral_normalisation import SpectralNormalisation
from plasticity.networks.network import Network
from plasticity.optimizers.optimizer_state import reset_entries
from plasticity.settings.fields import setting


@dataclass
class Scheduled(Intervention):
    """A method that acts at announced task switches, periodically, after given updates, or where it is added to a run.

    Subclasses write ``act``. One that reads activations and is added to a run acts in the first update after that, since it has
    none before.
    """

    every_updates: int = setting(0, "Period in updates, 0 for never.", low=0, kw_only=True)
    at_updates: list[int] = setting([], "Single updates after which it also happens, counted from 1.", low=1, kw_only=True)
    at_task_switch: bool = setting(True, "Whether it also happens at every announced task switch.", kw_only=True)
    at_branch: bool = setting(True, "Whether it also happens where it is added to a run that branches.", kw_only=True)

    def act(self, u: Update) -> Logs:
        """Does what the method does."""
        raise NotImplementedError

    def attach(self, u: Update) -> None:
        """Prepares to remember that it is due, if it cannot act at once."""
        if self.needs_taps:
            self.state["due"] = False

    def after_step(self, u: Update) -> Logs:
        """Acts when the period is over, or this update is one of those given."""
        due = self.needs_taps and self.state["due"]
        if due:
            self.state["due"] = False
        return self.act(u) if due or is_multiple(u.step, self.every_updates) or u.step in self.at_updates else {}

    def task_switch(self, u: Update, task: int) -> Logs:
        """Acts if ``at_task_switch`` is set."""
        return self.act(u) if self.at_task_switch else {}

    def branch(self, u: Update) -> Logs:
        """Acts if ``at_branch`` is set, at once or in the first update."""
        if self.at_branch and self.needs_taps:
            self.state["due"] = True
        return self.act(u) if self.at_branch and not self.needs_taps else {}


def copy_again(network: Network, copies: Mapping[str, Network]) -> None:
    """Copies parameters and buffers of a network into the networks that accompany it, such as a target network."""
    for copy in copies.values():
        copy.load_state_dict(network.state_dict())


def restart_all(optimizer: Optimizer, parameters: Iterable[Tensor], policy: str) -> None:
    """Applies a policy to the optimizer's whole state: after ``restart`` it is like a newly built one."""
    for parameter in parameters:
        reset_entries(optimizer, parameter, None, policy)


@torch.no_grad()
def estimate_spectral_norms(network: Network) -> None:
    """Lets the power iterations of spectral normalisation catch up with weights that were changed all at once."""
    for module in network.modules():
        if isinstance(module, SpectralNormalisation):
            module.estimate()
