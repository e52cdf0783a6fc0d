"""Churn reduction: outputs on other inputs stay as they are while the network learns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.registry import intervention
from plasticity.interventions.surgery.features import frozen_copy
from plasticity.networks.heads.output_heads import PairedHead
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.torso_network import TorsoNetwork
from plasticity.settings.fields import setting

DISTANCES: Final = ("default", "squared", "cross_entropy")
_LOGITS: Final = ("policy", "classification")
_GAUSSIAN: Final = ("gaussian", "squashed_gaussian")


def squared_churn(new: Tensor, old: Tensor) -> Tensor:
    """Returns the mean over all entries of (new - old)^2."""
    return (new - old).square().mean()


def cross_entropy_churn(new: Tensor, old: Tensor) -> Tensor:
    """Returns the mean of -sum over z of softmax(old) log softmax(new), for logits (B, ..., Z)."""
    return -(old.softmax(-1) * new.log_softmax(-1)).sum(-1).mean()


def relative_coefficient(mean_loss: Tensor, mean_churn: Tensor, relative: float) -> Tensor:
    """Returns the coefficient at which the churn term is ``relative`` times the size of the loss."""
    return relative * mean_loss / (mean_churn + 1e-8)


@intervention("churn")
@dataclass
class Churn(Intervention):
    """Penalises changes of the outputs on inputs other than those just learned from (CHAIN and C-CHAIN).

    Paper: Tang & Berseth 2024, "Improving Deep Reinforcement Learning by Reducing the Chain Effect of Value and Policy Churn";
    Tang et al. 2025, "Mitigating Plasticity Loss in Continual Reinforcement Learning by Reducing Churn".
    Equation: loss + c * mean over x of (f(x) - f_old(x))^2 with f_old the network ``lag_updates`` updates ago. For logits of a
    policy or of classes it is the cross-entropy from the old distribution; for a Gaussian policy f is its mean; for categorical
    values the expected value.
    Coefficient: with ``relative`` above 0, c = relative * mean |loss| / mean churn over the latest updates, after
    ``adapt_after_updates``; ``coefficient`` before that, or always if ``relative`` is 0. Published: 100 fixed, or 0.05 (DQN on
    MinAtar; PPO 0.1); C-CHAIN starts at 50 and has 0.01 (MinAtar), 0.05 (control suite).
    Deviations: the reference inputs are those of the update ``lag_updates`` + 1 ago, the latest on which neither this step nor
    the steps between the old network and the present one are made; published code draws another batch from the replay. Both
    networks
    are evaluated in evaluation mode, so that no running statistics move, with the same noise. The means are running ones, exact
    until they span ``average_updates``. The published coefficient starts again with each task, this one does not.
    State: the old networks, the reference inputs, the two means. Optimizer: untouched. A reset by another method counts as a
    change and is penalised for ``lag_updates`` updates. Cost: two more forward passes and one more backward pass.
    """

    coefficient: float = setting(50.0, "Strength while it is not adapted.", low=0)
    relative: float = setting(0.01, "Size of the term as a share of the loss; 0 for a fixed coefficient.", low=0)
    adapt_after_updates: int = setting(10_000, "Updates before the coefficient is adapted.", low=1)
    average_updates: int = setting(50_000, "Span of the means, in updates.", low=1)
    lag_updates: int = setting(1, "Age of the old network, in updates.", low=1)
    distance: str = setting("default", "``default``, or ``squared`` or ``cross_entropy`` of the outputs.", choices=DISTANCES)
    output: str = setting(
        "policy", "What is compared of a network with a policy and a value: ``policy`` or ``value``.", choices=("policy", "value")
    )

    no_effect: ClassVar = {"coefficient": 0.0, "relative": 0.0}

    def attach(self, u: Update) -> None:
        """Copies the network.

        Raises:
            ValueError: If the outputs have no cross-entropy.
        """
        self._readout, self._distance = readout_of(u.network, self.output, self.distance)
        self._old = [frozen_copy(u.network) for _ in range(self.lag_updates)]
        # Walking the modules at every update would take longer than the copy of a small network.
        self._values, *self._old_values = [_values(network) for network in (u.network, *self._old)]
        for slot, network in enumerate(self._old):
            for key, value in network.state_dict().items():
                self.state[f"old_{slot}/{key}"] = value
        self.state["references"] = []
        self.state["averaged"] = 0
        for name in ("mean_loss", "mean_churn"):
            self.state[name] = torch.zeros((), device=u.generator.device)

    def loss(self, u: Update) -> Tensor | None:
        """Returns the term, from update ``lag_updates`` + 2 on, and remembers this network and its inputs."""
        if self.coefficient == 0 and self.relative == 0:
            return None
        assert u.batch is not None
        slot, references = u.step % self.lag_updates, self.state["references"]
        complete = len(references) > self.lag_updates
        churn = self._churn(u.network, self._old[slot], references[0]) if complete else None
        _follow(self._old_values[slot], self._values)
        # A copy, since a view would be saved with the whole tensor behind it; and a new list, which no checkpoint holds.
        self.state["references"] = [*references[complete:], u.batch.inputs.detach().clone()]
        if churn is None:
            return None
        term = churn * self._strength(u.step)
        if self.relative > 0:
            assert u.loss is not None
            self._average(u.loss.detach().abs(), churn.detach())
        return term

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        super().load_state_dict(state)
        device = self.state["mean_loss"].device
        self.state["references"] = [inputs.to(device) for inputs in self.state["references"]]

    def _churn(self, network: Network, old: Network, inputs: Tensor) -> Tensor:
        for own, frozen in zip(network.noisy_layers, old.noisy_layers, strict=True):
            frozen.noise = own.noise
        with network.evaluating():
            new = self._readout(network(inputs).float())
        with torch.no_grad():
            before = self._readout(old(inputs).float())
        return self._distance(new, before)

    def _strength(self, step: int) -> Tensor | float:
        """Returns the coefficient of update ``step``, from the means before it."""
        if self.relative == 0 or step <= self.adapt_after_updates or self.state["averaged"] == 0:
            return self.coefficient
        return relative_coefficient(self.state["mean_loss"], self.state["mean_churn"], self.relative)

    def _average(self, loss: Tensor, churn: Tensor) -> None:
        self.state["averaged"] += 1
        share = 1 / min(self.state["averaged"], self.average_updates)
        self.state["mean_loss"].lerp_(loss.float(), share)
        self.state["mean_churn"].lerp_(churn, share)


Readout = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]


def readout_of(network: Network, output: str, distance: str) -> tuple[Readout, Distance]:
    """Returns which of a network's outputs are compared, and by which distance.

    Args:
        network: The network.
        output: ``policy`` or ``value`` of a network that has both.
        distance: One of ``DISTANCES``.

    Raises:
        ValueError: If cross-entropy is requested for outputs that are not logits.
    """
    head, select, decode = _chosen(network, output)
    if distance == "cross_entropy" and head.kind not in (*_LOGITS, "categorical"):
        raise ValueError(f"churn.distance=cross_entropy needs logits, and this part's outputs are {head.kind}; choose squared")
    if distance == "cross_entropy" or (distance == "default" and head.kind in _LOGITS):
        return select, cross_entropy_churn
    if head.kind in _GAUSSIAN:
        return lambda outputs: select(outputs).chunk(2, dim=1)[0], squared_churn
    return lambda outputs: decode(select(outputs)), squared_churn


def _chosen(network: Network, output: str) -> tuple[HeadSpec, Readout, Readout]:
    """Returns the specification of the outputs that are compared, how to select them, and how to decode them."""
    head = network.head_spec
    if head.second is None:
        return head, lambda outputs: outputs, network.decode
    assert isinstance(network, TorsoNetwork)
    pair = network.head
    assert isinstance(pair, PairedHead)
    if output == "policy":
        return head, lambda outputs: pair.split(outputs)[0], pair.first.decode
    return head.second, lambda outputs: pair.split(outputs)[1], pair.second.decode


def _values(network: Network) -> tuple[list[Tensor], list[Tensor]]:
    """Returns a network's parameters and its buffers."""
    return list(network.parameters()), list(network.buffers())


@torch.no_grad()
def _follow(copy: tuple[list[Tensor], list[Tensor]], values: tuple[list[Tensor], list[Tensor]]) -> None:
    """Writes a network's parameters and buffers into those of its copy."""
    for old, own in zip(copy, values, strict=True):
        if old:
            torch._foreach_copy_(old, own)
