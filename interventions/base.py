"""The base class of interventions and the view of one update that their hooks receive."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.networks.network import Network
from plasticity.networks.objective import Batch
from plasticity.networks.spec import NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.settings.fields import Settings, setting

Logs = dict[str, Tensor | float]


class Update(NamedTuple):
    """What a hook may see of one update: a part's network and optimizer, never the agent, the environment or the loop.

    Attributes:
        step: Updates of this part since the method was attached, this one included: 1 in the first. 0 in ``attach``. For a method
            that is added where a run branches it is less than the part's own count.
        network: The network that is trained; its values may be changed in place, its structure may not.
        optimizer: Its optimizer.
        batch: What the agent learns from in this update, a named tuple with a field ``inputs``; None in ``attach`` and
            ``task_switch``.
        taps: Activations of the training forward, made with the weights before this update; empty in ``attach`` and
            ``task_switch``.
        generator: Private to (seed, part, intervention), on the network's device.
        copies: Other networks that belong to the part, by name: ``target`` for a target network.
        loss: The agent's own loss in the ``loss`` hook, with its graph for a method that has ``needs_graph``, otherwise for its
            value alone; None in the other hooks.
        recompute: Returns the agent's loss on the same batch, and with the same noise, at the weights as they are now; in
            ``after_backward`` of a method with ``needs_recompute``; otherwise None.
        has_terms: Whether interventions added terms to the loss of this update.
        run_initial: In ``attach`` where a run branches, parameters and buffers that its parent started with, by name, to be
            copied; otherwise None.
    """

    step: int
    network: Network
    optimizer: Optimizer
    batch: Batch | None
    taps: Taps
    generator: torch.Generator
    copies: Mapping[str, Network]
    loss: Tensor | None = None
    recompute: Callable[[], Tensor] | None = None
    has_terms: bool = False
    run_initial: Mapping[str, Tensor] | None = None


@dataclass
class Intervention(Settings):
    """A method that keeps or restores plasticity. Subclass it as a dataclass, register it, and override what it needs.

    Fields are the method's settings, with the paper's values as defaults; they become the config keys
    ``interventions.<name>.<field>``. Raise ValueError in ``__post_init__`` for a setting that makes no sense. One instance
    belongs to one part of an agent. Everything that it must remember goes into ``self.state`` in ``attach``: that is what a
    checkpoint holds.

    Hooks run in the order of the config, and the logs that they return appear as ``<name>/<key>``:

        build -> [network built] -> [optimizer built] -> attach
        every update: loss, term -> [backward] -> after_backward, prepare, edit_gradients -> [clip, finite check, optimizer.step]
            -> measure -> after_step
        at a task switch: task_switch
        where it is added to a run that branches: attach, with the weights and the optimizer as they are there; then branch

    Attributes:
        name: The registered name.
        needs_taps: Whether ``u.taps`` must hold the activations of the training forward. (``measure`` always receives them.)
        needs_graph: Whether ``u.loss`` and ``u.taps.live`` in ``loss``, or ``live`` in ``term``, must be there to differentiate
            through. A method with such a ``loss`` does not work with ``compile``.
        needs_recompute: Whether ``u.recompute`` must be available in ``after_backward``.
        conflicts: Names of methods that this one refuses to run with, and why.
        no_effect: Settings at which the method changes nothing, bit for bit; None for a method that changes the structure.
    """

    parts: list[str] = setting([], "Names of the parts to act on (``q``, ``learner``, ...); empty for every part.", kw_only=True)

    name: ClassVar[str] = ""
    needs_taps: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    needs_recompute: ClassVar[bool] = False
    conflicts: ClassVar[Mapping[str, str]] = {}
    no_effect: ClassVar[Mapping[str, Any] | None] = None

    def acts_at(self, step: int) -> bool:
        """Tells whether ``after_step`` does anything in the update ``u.step == step``; true of all unless a method knows better.

        Where it does not, it need not be called, and no activations be recorded for it.
        """
        return True

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        """Returns the specification of the network to build. Runs before any parameter exists."""
        return spec

    def attach(self, u: Update) -> None:
        """Prepares ``self.state`` for a network that has its initial weights, or those of the run that it branches from.

        Raises:
            ValueError: If the method cannot work on this network or optimizer.
        """

    def loss(self, u: Update) -> Tensor | None:
        """Returns a scalar to add to the loss, or None."""
        return None

    def term(self, loss: Tensor, parameters: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Tensor | None:
        """Returns a scalar to add to the loss; what ``loss`` may do, as a function of its arguments and the settings alone.

        It does not inspect their values, so that it can be compiled into the update, and returns None always or never.

        Args:
            loss: The agent's own, with its graph.
            parameters: The network's parameters that it was computed from, by name.
            live: Post-activations of the training forward by layer, with their graph; empty unless a method has ``needs_graph``.
        """
        return None

    def after_backward(self, u: Update) -> Logs:
        """May edit ``.grad`` of the network's parameters; the clipping and the finite check come after it."""
        return {}

    def prepare(self, parameters: Mapping[str, Tensor]) -> None:
        """Writes those tensors of ``running`` that ``edit_gradients`` reads and that are not to be compiled, such as ranks.

        It is called in every update before ``edit_gradients``, if that is called; if the update is a function then before and
        outside of it, so that it sees no gradients.

        Args:
            parameters: The network's parameters before the step, by name, without a graph; not to be changed.
        """

    def edit_gradients(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], running: Sequence[Tensor]
    ) -> None:
        """Edits gradients in place; what ``after_backward`` may do, as a function of its arguments alone.

        It does not inspect their values, so that it can be compiled into the step.

        Args:
            parameters: The network's parameters before the step, by name, without a graph; not to be changed.
            gradients: The gradient of each parameter that has one, by the same names.
            running: What ``running`` returns.
        """

    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        """Updates running statistics in place, right after the optimizer's step and before any ``after_step``.

        It is a function of its arguments alone and does not inspect their values, so that it can be compiled into the step.

        Args:
            parameters: The network's parameters after the step, by name.
            post: Post-activations of the training forward by layer, made with the parameters before the step.
            running: What ``running`` returns.
        """

    def running(self) -> list[Tensor]:
        """Returns the tensors that ``measure`` changes or reads, ``prepare`` writes and ``edit_gradients`` reads.

        They are the same objects in every call.
        """
        return []

    def after_step(self, u: Update) -> Logs:
        """May edit parameters and buffers in place, and the optimizer's state through ``plasticity.interventions.surgery``."""
        return {}

    def task_switch(self, u: Update, task: int) -> Logs:
        """May edit what ``after_step`` may. Runs between the last update on the old task and the first on ``task``."""
        return {}

    def branch(self, u: Update) -> Logs:
        """May edit what ``after_step`` may, where the method has just been added to a run that branches, before its next step."""
        return {}

    def evaluation_network(self, u: Update) -> Network:
        """Returns the network to evaluate and act with when it is not the trained one."""
        return u.network

    def sample_weights(self, ages: Tensor) -> Tensor:
        """Returns weights in proportion to which transitions of some ages are drawn from the agent's replay, (M,).

        A function of the ages and the settings alone: it is tabulated once. Weights are finite and at least 0, and above 0 at
        age 0; those of several methods are multiplied. An agent without a replay refuses a method that overrides this.

        Args:
            ages: (M,) float64 on the CPU, increasing from 0: environment steps from the one in which a transition was collected
                to the latest.
        """
        return torch.ones_like(ages)

    @property
    def idle_hooks(self) -> tuple[str, ...]:
        """Names of hooks that are overridden and do nothing at the present settings; they are not called."""
        return ()

    @property
    def state(self) -> dict[str, Any]:
        """Tensors and plain values that the method remembers, by name."""
        values: dict[str, Any] = self.__dict__.setdefault("_state", {})
        return values

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return dict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned; tensors are written in place.

        Raises:
            ValueError: If the names differ from those of this method's state.
        """
        if state.keys() != self.state.keys():
            raise ValueError(
                f"{self.name}: the checkpoint holds state {sorted(state)}, this run's method has {sorted(self.state)}"
            )
        for key, value in state.items():
            if isinstance(value, Tensor):
                self.state[key].copy_(value)
            else:
                self.state[key] = value


def is_multiple(step: int, every: int) -> bool:
    """Tells whether something that happens every ``every`` steps happens at ``step`` (1, 2, ...); 0 means never."""
    return every > 0 and step % every == 0
