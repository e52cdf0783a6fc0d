"""The one seam: every backward pass and every optimizer step of the testbed's agents happens in ``Updater.step``."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from agents.compiled_function import CompiledFunction
from agents.compiled_update import CompiledUpdate, Objective
from agents.latest_examples import LatestExamples
from agents.lower_precision import CastCopies
from agents.update_trace import UpdateTrace
from interventions.base import Intervention, Logs, Update
from networks.network import Network
from networks.taps import Taps
from seeding import torch_generator

_HOOKS = ("loss", "after_backward", "measure", "after_step", "task_switch", "evaluation_network")


class Updater:
    """Trains one part of an agent: a network, its optimizer, and the interventions on them, in the order of the config.

    Args:
        part: The part's name, such as ``q`` or ``learner``.
        network: The network with its initial weights, on its device.
        optimizer: Holds every parameter of the network once.
        interventions: Instances of this part alone, by name, in order.
        seed: The run's seed; each intervention draws from a generator private to (seed, part, name).
        max_gradient_norm: Bound of the joint gradient norm, or None.
        autocast: Type of the forward pass, ``torch.bfloat16``, or None for float32 throughout.
        compile: Whether ``update`` runs as compiled functions; worth it in long runs, since compiling takes about ten seconds.

    Attributes:
        steps: Updates so far.
        copies: Networks that accompany this one, such as ``target``; the agent fills it before the first update.
        trace: What a recent update was like; see ``UpdateTrace``.
        examples: The latest examples it learned from, if the agent has declared its objective; see ``LatestExamples``.

    Raises:
        ValueError: If ``compile`` is set and the network has noisy or injected layers.
    """

    def __init__(
        self,
        part: str,
        network: Network,
        optimizer: Optimizer,
        interventions: Mapping[str, Intervention],
        seed: int,
        max_gradient_norm: float | None = None,
        autocast: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        if compile and (network.noisy_layers or network.spec.injected_layers):
            what = "noisy layers" if network.noisy_layers else "plasticity_injection"
            raise ValueError(f"compile=true does not work with {what}; choose compile=false")
        self.part, self.network, self.seed = part, network, seed
        self.interventions = dict(interventions)
        self.max_gradient_norm, self.autocast, self.compile = max_gradient_norm, autocast, compile
        self._compiled: dict[tuple[Objective, bool], CompiledUpdate] = {}
        # The structure is final, and walking the modules at every update would be a good part of a small one.
        self._parameters = list(network.parameters())
        self.device = self._parameters[0].device
        self._cast_copies = CastCopies(autocast) if autocast is not None and self.device.type == "cpu" else None
        self._written = 0  # optimizer steps, of which a parameter's own version knows nothing if they are fused
        self.steps = 0
        self.copies: dict[str, Network] = {}
        self._batch: Any = None
        self._loss: Tensor | None = None
        self._recompute: Callable[[], Tensor] | None = None
        self._has_terms = False
        self._generators = {name: torch_generator(seed, part, name, device=self.device) for name in self.interventions}
        for intervention in self.interventions.values():
            optimizer = intervention.wrap_optimizer(optimizer)
        self.optimizer = optimizer
        for name, intervention in self.interventions.items():
            intervention.attach(self._view(name))
        self._hooked = {hook: self._overriding(hook) for hook in _HOOKS}
        self._needs_graph = [name for name, method in self.interventions.items() if method.needs_graph]
        self._needs_recompute = [name for name, method in self.interventions.items() if method.needs_recompute]
        if compile and self._needs_graph:
            raise ValueError(f"compile=true does not work with {self._needs_graph[0]}, which differentiates the training forward")
        network.taps.keeps_graph = bool(self._needs_graph)
        self._taps_wanted = any(method.needs_taps or method.needs_graph for method in self.interventions.values())
        self._records = self._taps_wanted or bool(self._hooked["measure"])
        self._named = {name: value.detach() for name, value in network.named_parameters()}
        self._measures = [self._measure_of(method) for _, method in self._hooked["measure"]]
        self.initial = {name: value.detach().clone() for name, value in network.named_parameters()}
        self.trace = UpdateTrace(network, lambda inputs: self.infer(inputs, self.network))
        self.examples = LatestExamples()
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

    def forward(self, inputs: Tensor) -> Tensor:
        """Runs the training forward, in training mode; interventions that need activations get those of this call.

        Args:
            inputs: (B, *input_shape).

        Returns:
            The head's output, in float32 whatever the precision.
        """
        self.network.train()
        if self._records:
            with self.network.taps.record():
                return self._forward(inputs, self.network)
        return self._forward(inputs, self.network)

    def forward_again(self, inputs: Tensor) -> Tensor:
        """Runs the training forward once more, for a loss that is computed anew; its activations are not recorded."""
        return self._forward(inputs, self.network)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Runs the network that acts and is evaluated, in evaluation mode and without a graph."""
        return self.infer(inputs, self.evaluation_network())

    @torch.no_grad()
    def infer(self, inputs: Tensor, network: Network) -> Tensor:
        """Runs ``network``, this one or a copy, in evaluation mode, without a graph, in the precision of the run."""
        network.eval()
        if self._cast_copies is not None and not (network.mode_dependent or network.noisy_layers):
            network = self._cast_copies.of(network, 0 if network in self.copies.values() else self._written)
        return self._forward(inputs, network)

    def infer_with_graph(self, inputs: Tensor) -> Tensor:
        """Runs the trained network in evaluation mode with a graph, for another part's loss to pass through."""
        self.network.eval()
        return self._forward(inputs, self.network)

    def update(self, objective: Objective, batch: Any) -> Logs:
        """Makes one update from an objective: the training forward on ``batch.inputs``, then ``step``; compiled if asked to.

        Args:
            objective: Maps the head's output and the batch to a scalar loss and to measures by name; a pure function of tensors,
                the same one in every call.
            batch: A named tuple of tensors with a field ``inputs``, shown to the interventions.

        Returns:
            Logs of the interventions, as ``<name>/<key>``, the objective's measures, and ``train/loss`` without the terms of the
            interventions.

        Raises:
            FloatingPointError: If the loss or a gradient is not finite; the weights are as before.
        """
        if self.examples.objective is not None:
            self.examples.add(batch)
        recompute = None
        if self._needs_recompute:
            recompute = lambda: objective(self.forward_again(batch.inputs), batch)[0]  # noqa: E731
        if self.compile:
            self._recompute = recompute
            return self._update_compiled(objective, batch)
        outputs = self.forward(batch.inputs)
        loss, measures = objective(outputs, batch)
        logs = self.step(loss, batch, recompute)
        return {**logs, **{name: value.detach() for name, value in measures.items()}, "train/loss": loss.detach()}

    def step(self, loss: Tensor, batch: Any, recompute: Callable[[], Tensor] | None = None) -> Logs:
        """Makes one update from a loss whose graph comes from ``forward``.

        Args:
            loss: A scalar.
            batch: What the loss was computed from, shown to the interventions.
            recompute: Returns the same loss, from the same random numbers, at the weights as they are when it is called.

        Returns:
            Logs of the interventions, as ``<name>/<key>``.

        Raises:
            ValueError: If an intervention needs ``recompute`` and there is none.
            FloatingPointError: If the loss or a gradient is not finite; the weights are as before.
        """
        if self._needs_recompute and recompute is None:
            raise ValueError(f"{self._needs_recompute[0]} needs the loss anew, which part {self.part} does not offer")
        self._begin(batch)
        self._loss, self._recompute = loss if self._needs_graph else None, recompute
        logs: Logs = {}
        loss = loss + terms if (terms := self._loss_terms(logs)) is not None else loss
        self._loss = None
        self.network.taps.live = {}
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        return self._finish(loss.detach(), logs)

    def _update_compiled(self, objective: Objective, batch: Any) -> Logs:
        """Leaves to the compiled function what can be left to it, and runs every hook as ``step`` does."""
        self._begin(batch)
        whole = self._steps_inside and not self.trace.armed
        computed = self._compiled_update(objective, whole)(batch, self.optimizer.param_groups[0]["lr"])
        if computed.post:
            self.network.taps.pre, self.network.taps.post = computed.pre, computed.post
        logs: Logs = {**computed.measures, "train/loss": computed.loss}
        if whole:
            self._written += 1
            self._refuse_unless_finite(computed.norm + computed.loss)
            self._each("after_step", logs)
            return logs
        for parameter, gradient in zip(self._parameters, computed.gradients, strict=True):
            parameter.grad = gradient
        loss = computed.loss
        if (terms := self._loss_terms(logs)) is not None:
            if terms.requires_grad:
                terms.backward()
            loss = loss + terms.detach()
        return self._finish(loss, logs)

    def _begin(self, batch: Any) -> None:
        self.steps += 1
        self._batch = batch
        self.trace.open(self.steps, batch)

    def _loss_terms(self, logs: Logs) -> Tensor | None:
        """Returns the sum of what the interventions add to the loss, or None."""
        total: Tensor | None = None
        for name, intervention in self._hooked["loss"]:
            term = intervention.loss(self._view(name))
            if term is not None:
                total = term if total is None else total + term
                logs[f"{name}/loss"] = term.detach()
        self._has_terms = total is not None
        return total

    def _finish(self, loss: Tensor, logs: Logs) -> Logs:
        """Makes the part of an update that follows the backward pass."""
        self._each("after_backward", logs)
        self._clip_and_check(loss)
        self._recompute = None
        with self.trace.of("optimizer"):
            self.optimizer.step()
        self._written += 1
        for measure in self._measures:
            measure()
        with self.trace.of("intervention"):
            self._each("after_step", logs)
        self.trace.close(self.steps)
        return logs

    @cached_property
    def _steps_inside(self) -> bool:
        """Whether nothing comes between gradient and step, and the step is p <- p - learning rate * gradient for all."""
        groups = self.optimizer.param_groups
        plain = type(self.optimizer) is torch.optim.SGD and len(groups) == 1  # a subclass may step in another way
        simple = plain and not any(groups[0][setting] for setting in ("momentum", "weight_decay", "maximize"))
        return simple and not self._hooked["loss"] and not self._hooked["after_backward"]

    def _compiled_update(self, objective: Objective, whole: bool) -> CompiledUpdate:
        if (objective, whole) not in self._compiled:
            bound = self.max_gradient_norm if whole else None
            records = self._taps_wanted or (self._records and not whole)
            measuring = [method for _, method in self._hooked["measure"]]
            made = CompiledUpdate(self.network, objective, records, whole, measuring, bound, self.autocast)
            self._compiled[objective, whole] = made
        return self._compiled[objective, whole]

    def task_switch(self, task: int) -> Logs:
        """Tells the interventions that ``task`` begins."""
        logs: Logs = {}
        for name, intervention in self._hooked["task_switch"]:
            # Neither a batch nor activations: there are none after a resume, and a method must not see a difference.
            view = self._view(name)._replace(batch=None, taps=Taps())
            _collect(logs, name, intervention.task_switch(view, task))
        return logs

    def evaluation_network(self) -> Network:
        """Returns the network to act with and to evaluate, which an intervention may replace by an average of its own."""
        network = self.network
        for name, intervention in self._hooked["evaluation_network"]:
            chosen = intervention.evaluation_network(self._view(name))
            network = network if chosen is self.network else chosen
        return network

    def raise_if_not_finite(self) -> None:
        """Raises FloatingPointError if an update since the start met a loss or gradient that is not finite.

        On the CPU ``step`` has raised already. On an accelerator ``step`` refuses the update without waiting for the device, and
        the run learns of it here, when a line is written.
        """
        if not bool(self._finite):
            raise FloatingPointError(f"part {self.part}: the loss or a gradient is not finite at or before update {self.steps}")

    def state_dict(self) -> dict[str, Any]:
        """Returns everything the next update depends on."""
        return {
            "steps": self.steps,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "initial": self.initial,
            "copies": {name: network.state_dict() for name, network in self.copies.items()},
            "interventions": {name: intervention.state_dict() for name, intervention in self.interventions.items()},
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "trace": self.trace.state_dict(),
            "examples": self.examples.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned.

        Raises:
            ValueError: If the checkpoint was made with other interventions.
        """
        saved, present = list(state["interventions"]), list(self.interventions)
        if saved != present:
            raise ValueError(f"part {self.part}: the checkpoint was made with interventions {saved}, this run has {present}")
        self.steps = state["steps"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["initial"].items():
            self.initial[name].copy_(value)
        for name, network in self.copies.items():
            network.load_state_dict(state["copies"][name])
        for name, intervention in self.interventions.items():
            intervention.load_state_dict(state["interventions"][name])
            self._generators[name].set_state(state["generators"][name])
        self.trace.load_state_dict(state["trace"], self.device)
        self.examples.load_state_dict(state["examples"], self.device)

    def _forward(self, inputs: Tensor, network: Network) -> Tensor:
        if self.autocast is None:
            plain: Tensor = network(inputs)
            return plain
        with torch.autocast(self.device.type, self.autocast):
            outputs: Tensor = network(inputs)
        return outputs.float()

    def _view(self, name: str) -> Update:
        generator = self._generators[name]
        taps, batch = self.network.taps, self._batch
        more = self._loss, self._recompute, self._has_terms
        return Update(self.steps, self.network, self.optimizer, batch, taps, generator, self.copies, *more)

    def _measure_of(self, method: Intervention) -> Callable[[], object]:
        """Returns a call of ``method.measure`` with the present activations, compiled if the part is compiled."""
        running, taps = method.running(), self.network.taps
        if not self.compile:
            return lambda: method.measure(self._named, taps.post, running)
        names, weights = list(self._named), list(self._named.values())

        def flat(*tensors: Tensor) -> list[Tensor]:
            rest = iter(tensors)
            named = dict(zip(names, rest, strict=False))
            own = list(islice(rest, len(running)))
            method.measure(named, dict(zip(taps.post, rest, strict=True)), own)
            return own[:1]

        call = CompiledFunction(flat, fixed=len(weights) + len(running))
        return lambda: call(*weights, *running, *taps.post.values())

    def _overriding(self, hook: str) -> list[tuple[str, Intervention]]:
        """Returns the interventions that define ``hook``, so that an update calls no empty ones."""
        plain = getattr(Intervention, hook)
        return [(name, method) for name, method in self.interventions.items() if getattr(type(method), hook) is not plain]

    def _each(self, hook: str, logs: Logs) -> None:
        for name, intervention in self._hooked[hook]:
            _collect(logs, name, getattr(intervention, hook)(self._view(name)))

    def _clip_and_check(self, loss: Tensor) -> None:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        self.trace.gradients(norm)
        self._refuse_unless_finite(norm + loss)
        if self.max_gradient_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self.max_gradient_norm, norm, foreach=True)

    def _refuse_unless_finite(self, number: Tensor) -> None:
        if self.device.type != "cpu":
            self._refuse_on_device(number.isfinite())
        elif not isfinite(float(number)):
            raise FloatingPointError(f"part {self.part}: the loss or a gradient is not finite in update {self.steps}")

    def _refuse_on_device(self, finite: Tensor) -> None:
        """Lets the fused optimizer skip this step if ``finite`` is false, without a word to the host."""
        self._finite &= finite
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]


def samples(logs: Sequence[Logs]) -> Logs:
    """Joins the logs of several updates: a number from each, as one tensor of samples per name."""
    if len(logs) <= 1:
        return logs[0] if logs else {}
    names = dict.fromkeys(name for entry in logs for name in entry)
    return {name: torch.stack([torch.as_tensor(entry[name]).float() for entry in logs if name in entry]) for name in names}


def by_part(logs: Logs, part: str) -> Logs:
    """Appends the part's name to what interventions log, for agents of several parts: ``redo/units_reset/actor``."""
    return {name if name.startswith("train/") else f"{name}/{part}": value for name, value in logs.items()}


def _collect(logs: Logs, name: str, new: Logs | None) -> None:
    for key, value in (new or {}).items():
        logs[f"{name}/{key}"] = value
