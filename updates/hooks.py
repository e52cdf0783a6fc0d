"""The interventions of a part: their hooks, called in the order of the config, each with its own view of the update."""

from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch
from plasticity.networks.taps import Taps
from plasticity.settings.seeding import restore_generator, torch_generator
from plasticity.updates.compiled_function import CompiledFunction

_HOOKS: Final = (
    "loss",
    "term",
    "after_backward",
    "edit_gradients",
    "measure",
    "after_step",
    "task_switch",
    "evaluation_network",
)


class Hooks:
    """Calls the hooks of a part's interventions; in an update it calls only those that a method overrides.

    Args:
        part: The part's name.
        network: The network, with its initial weights.
        interventions: Instances of this part alone, by name, in order.
        seed: The run's seed; each intervention draws from a generator private to (seed, part, name).
        copies: Networks that accompany this one; filled later.

    Attributes:
        interventions: The instances by name.
        copies: The given ones.
        adding: Those with a ``term`` hook, by name.
        editing: Those with an ``edit_gradients`` hook.
        measuring: Those with a ``measure`` hook.
        needs_graph: Name of the first method that differentiates the training forward, or None.
        refuses_function: Name of the first whose ``loss`` hook does, so that the update cannot be a function, or None.
        needs_recompute: Name of the first method that computes the loss again, or None.
        taps_read: Whether a method reads activations.
        taps_wanted: Whether a method reads or differentiates them.
    """

    def __init__(
        self, part: str, network: Network, interventions: Mapping[str, Intervention], seed: int, copies: Mapping[str, Network]
    ) -> None:
        self.interventions, self.copies = dict(interventions), copies
        self._network = network
        device = next(network.parameters()).device
        self._generators = {name: torch_generator(seed, part, name, device=device) for name in self.interventions}
        self._hooked = {hook: self._overriding(hook) for hook in _HOOKS}
        methods = self.interventions.items()
        self.needs_graph = next((name for name, method in methods if method.needs_graph), None)
        free = {name for name, _ in self._hooked["loss"]}
        self.refuses_function = next((name for name, method in methods if method.needs_graph and name in free), None)
        self.adding = dict(self._hooked["term"])
        self._terms = [(name, method, name in free) for name, method in methods if name in free | self.adding.keys()]
        self.needs_recompute = next((name for name, method in methods if method.needs_recompute), None)
        self.editing = [method for _, method in self._hooked["edit_gradients"]]
        self.measuring = [method for _, method in self._hooked["measure"]]
        free, pure = ({name for name, _ in self._hooked[hook]} for hook in ("after_backward", "edit_gradients"))
        self._after_backward = [(name, method, name in free, name in pure) for name, method in methods if name in free | pure]
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._named: dict[str, Tensor] = {}  # the same without a graph
        self.taps_read = any(method.needs_taps for method in self.interventions.values())
        self.taps_wanted = any(method.needs_taps or method.needs_graph for method in self.interventions.values())
        self._optimizer: Optimizer
        self._measures: dict[str, Callable[[], object]] = {}
        self._step = 0
        self._begun = dict.fromkeys(self.interventions, 0)  # updates of the part before the method was attached
        self._batch: Batch | None = None
        self._loss: Tensor | None = None
        self._recompute: Callable[[], Tensor] | None = None
        self._has_terms = False

    def attach(
        self,
        optimizer: Optimizer,
        compile: bool,
        kept: Collection[str] = (),
        restore: Callable[[], None] | None = None,
        run_initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Attaches the interventions.

        Args:
            optimizer: Holds every parameter of the network once.
            compile: Whether ``measure`` runs as compiled functions.
            kept: Where a run branches, the methods that the parent had; they come first.
            restore: Called after those and before the others: it undoes what the first have drawn; their state is restored later.
            run_initial: In a branch, the network's parameters and buffers when the parent started.
        """
        self._optimizer = optimizer
        before = [name for name in self.interventions if name in kept]
        for name in before:
            self.interventions[name].attach(self.view(name))
        if restore is not None:
            restore()
        for name, intervention in self.interventions.items():
            if name not in before:
                intervention.attach(self.view(name)._replace(run_initial=run_initial))
        self._parameters = dict(self._network.named_parameters())
        self._named = named = {name: value.detach() for name, value in self._parameters.items()}
        self._measures = {name: self._measure_of(method, named, compile) for name, method in self._hooked["measure"]}

    def view(self, name: str) -> Update:
        """Returns the view that the method of that name receives at this moment."""
        taps, generator = self._network.taps, self._generators[name]
        more = self._loss, self._recompute, self._has_terms
        return Update(
            self._step - self._begun[name], self._network, self._optimizer, self._batch, taps, generator, self.copies, *more
        )

    def overrides(self, hook: str) -> bool:
        """Returns whether any method overrides a hook."""
        return bool(self._hooked[hook])

    def act_at(self, step: int, among: Collection[str] | None = None) -> bool:
        """Tells whether ``measure`` or ``after_step`` does anything in the update numbered ``step`` of the part.

        Args:
            step: Its number.
            among: Names of the methods that are meant; None for all.
        """
        if self.measuring:
            return True
        methods = [(name, method) for name, method in self._hooked["after_step"] if among is None or name in among]
        return any(method.acts_at(step - self._begun[name]) for name, method in methods)

    def open(self, step: int, batch: Batch | None, recompute: Callable[[], Tensor] | None) -> None:
        """Starts the update numbered ``step`` on a batch."""
        self._step, self._batch, self._recompute = step, batch, recompute

    def loss_terms(self, logs: Logs, loss: Tensor, inside: bool = False) -> Tensor | None:
        """Returns the sum of what the interventions add to the loss, or None.

        Args:
            logs: Receives each term as ``<name>/loss``.
            loss: The agent's own, with its graph for methods that differentiate it and the live activations.
            inside: Whether the update is a function, which has added what ``term`` returns, so that it is left out here.
        """
        self._loss, live = loss if self.needs_graph else loss.detach(), self._network.taps.live
        total: Tensor | None = None
        for name, intervention, free in self._terms:
            terms = [intervention.loss(self.view(name))] if free else []
            if name in self.adding and not inside:
                terms.append(intervention.term(loss, self._parameters, live))
            for term in terms:
                if term is not None:
                    total = term if total is None else total + term
                    key, own = f"{name}/loss", term.detach()
                    logs[key] = logs[key] + own if key in logs else own
        self.note_terms_inside(logs)
        self._has_terms |= total is not None
        self._loss = None
        self._network.taps.live = {}
        return total

    def note_terms_inside(self, logs: Logs) -> None:
        """Notes whether a function added terms, which it returned as ``<name>/loss``."""
        self._has_terms = any(f"{name}/loss" in logs for name in self.adding)

    def after_backward(self, logs: Logs) -> None:
        """Calls that hook, ``prepare`` and ``edit_gradients``; afterwards the loss can no longer be computed again."""
        for name, intervention, free, pure in self._after_backward:
            if free:
                _collect(logs, name, intervention.after_backward(self.view(name)))
            if pure:
                intervention.prepare(self._named)
                gradients = {key: value.grad for key, value in self._parameters.items() if value.grad is not None}
                intervention.edit_gradients(self._named, gradients, intervention.running())
        self._recompute = None

    def prepare(self) -> None:
        """Calls that hook, ahead of an update whose function calls ``edit_gradients``."""
        for intervention in self.editing:
            intervention.prepare(self._named)

    def measure(self, without: Collection[str] = ()) -> None:
        """Calls that hook, right after the optimizer's step, but for methods of these names."""
        for name, measure in self._measures.items():
            if name not in without:
                measure()

    def after_step(self, logs: Logs, without: Collection[str] = ()) -> None:
        """Calls that hook, but for methods of these names."""
        for name, intervention in self._hooked["after_step"]:
            if name not in without:
                _collect(logs, name, intervention.after_step(self.view(name)))

    def task_switch(self, task: int) -> Logs:
        """Informs the interventions that ``task`` begins."""
        logs: Logs = {}
        for name, intervention in self._hooked["task_switch"]:
            # Neither a batch nor activations: there are none after a resume, and a method must not see a difference.
            view = self.view(name)._replace(batch=None, taps=Taps())
            _collect(logs, name, intervention.task_switch(view, task))
        return logs

    def at_branch(self, names: Collection[str]) -> Logs:
        """Informs the interventions of those names that they have just been added to a run that continues."""
        logs: Logs = {}
        for name in names:
            view = self.view(name)._replace(batch=None, taps=Taps())
            _collect(logs, name, self.interventions[name].branch(view))
        return logs

    def weighing(self) -> dict[str, tuple[Intervention, torch.Generator]]:
        """Returns the methods that determine what is drawn from a replay, each with its generator, by name."""
        return {name: (method, self._generators[name]) for name, method in self._overriding("sample_weights")}

    def evaluation_network(self) -> Network:
        """Returns the network to act with and to evaluate, which an intervention may replace by an average of its own."""
        network = self._network
        for name, intervention in self._hooked["evaluation_network"]:
            chosen = intervention.evaluation_network(self.view(name))
            network = network if chosen is self._network else chosen
        return network

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of interventions, their step counts and generators."""
        return {
            "interventions": {name: intervention.state_dict() for name, intervention in self.interventions.items()},
            "begun": dict(self._begun),
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Restores what ``state_dict`` returned after ``step`` updates; methods that it does not contain start with the next."""
        self._step = step
        for name, intervention in self.interventions.items():
            if name not in state["interventions"]:
                self._begun[name] = step
                continue
            intervention.load_state_dict(state["interventions"][name])
            self._begun[name] = state["begun"][name]
            restore_generator(self._generators[name], state["generators"][name])

    def _measure_of(self, method: Intervention, named: dict[str, Tensor], compile: bool) -> Callable[[], object]:
        """Returns a call of ``method.measure`` with the present activations, compiled if requested."""
        running, taps = method.running(), self._network.taps
        if not compile:
            return lambda: method.measure(named, taps.post, running)
        weights = list(named.values())

        def flat(*tensors: Tensor) -> list[Tensor]:
            rest = iter(tensors)
            values = dict(zip(named, islice(rest, len(named)), strict=True))
            own = list(islice(rest, len(running)))
            method.measure(values, dict(zip(taps.post, rest, strict=True)), own)
            return own[:1]

        call = CompiledFunction(flat, fixed=len(weights) + len(running))
        return lambda: call(*weights, *running, *taps.post.values())

    def _overriding(self, hook: str) -> list[tuple[str, Intervention]]:
        plain = getattr(Intervention, hook)
        methods = [(name, method) for name, method in self.interventions.items() if getattr(type(method), hook) is not plain]
        return [(name, method) for name, method in methods if hook not in method.idle_hooks]


def _collect(logs: Logs, name: str, new: Logs | None) -> None:
    for key, value in (new or {}).items():
        logs[f"{name}/{key}"] = value
