"""The one place of training: every backward pass and every optimizer step of the testbed's agents happens in ``Updater.step``."""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.interventions.base import Intervention, Logs
from plasticity.networks.layers.calls import call
from plasticity.networks.network import Network
from plasticity.networks.objective import AnyBatch, Batch, Objective
from plasticity.optimizers.schedule import CONSTANT, Moment, Schedule, ScheduledRates
from plasticity.updates.backward import backward
from plasticity.updates.compiled_function import CompiledFunction, Function
from plasticity.updates.execution import EAGER, Execution
from plasticity.updates.gradient_check import GradientCheck, joint_norm
from plasticity.updates.hooks import Hooks
from plasticity.updates.latest_examples import LatestExamples
from plasticity.updates.lower_precision import CastCopies
from plasticity.updates.step_rule import AdamRule, StepRule, step_rule
from plasticity.updates.trace import UpdateTrace
from plasticity.updates.update_function import UpdateFunction


class Updater:
    """Trains one part of an agent: a network, its optimizer, and the interventions on them, in the order of the config.

    Args:
        part: The part's name, such as ``q`` or ``learner``.
        network: The network with its initial weights, on its device.
        optimizer: Holds every parameter of the network once.
        interventions: Instances of this part alone, by name, in order.
        seed: The run's seed; each intervention draws from a generator private to (seed, part, name).
        max_gradient_norm: Bound of the joint gradient norm, or None.
        execution: How updates are carried out.
        schedule: How the optimizer's learning rates change.
        origin: State of this part in the run that this one branches from, without ``optimizer`` if that starts from an empty
            state. Network and optimizer receive it before any method is attached; the rest is restored by ``load_state_dict``,
            which then leaves both alone, and starts the methods that the state does not contain.

    Attributes:
        steps: Updates so far.
        moment: When the next update is made, which a learning rate that varies depends on; ``learn_from`` sets it.
        copies: Networks that accompany this one, such as ``target``; the agent fills it before the first update.
        trace: What a recent update was like; see ``UpdateTrace``.
        examples: The latest examples it learned from, if the agent has declared its objective; see ``LatestExamples``.
        value_errors: Maps logits (B, V, Z) of values that are categoricals, and values to learn (B, V), to the error of each,
            (B, V), by the agent's loss; None for scalars. The agent sets it.

    Raises:
        ValueError: If updates are to be functions and the network has noisy or injected layers.
    """

    def __init__(
        self,
        part: str,
        network: Network,
        optimizer: Optimizer,
        interventions: Mapping[str, Intervention],
        seed: int,
        max_gradient_norm: float | None = None,
        execution: Execution = EAGER,
        schedule: Schedule = CONSTANT,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        if execution.as_function and (network.noisy_layers or network.spec.injected_layers):
            what = "noisy layers" if network.noisy_layers else "plasticity_injection"
            raise ValueError(f"{execution.name} does not work with {what}; choose {execution.remedy}")
        self.part, self.network, self.seed = part, network, seed
        self.max_gradient_norm, self.execution = max_gradient_norm, execution
        self._functions: dict[tuple[Any, ...], UpdateFunction] = {}
        # The structure is final, and walking the modules at every update would take a large share of a small one.
        self._parameters = list(network.parameters())
        self.device = self._parameters[0].device
        autocast = execution.autocast
        self._cast_copies = CastCopies(autocast) if autocast is not None and self.device.type == "cpu" else None
        self._written = 0  # optimizer steps, which a parameter's own version does not count if they are fused
        self.steps = 0
        self.moment: Moment | None = None
        self.copies: dict[str, Network] = {}
        self.value_errors: Callable[[Tensor, Tensor], Tensor] | None = None
        self.hooks = Hooks(part, network, interventions, seed, self.copies)
        self.interventions = self.hooks.interventions
        if execution.as_function and (method := self.hooks.refuses_function):
            reason = "which differentiates the training forward"
            raise ValueError(f"{execution.name} does not work with {method}, {reason}; choose {execution.remedy}")
        self.optimizer = optimizer
        self._rates = ScheduledRates(optimizer, schedule)  # from the rates of this run
        self._branches = origin is not None
        if origin is None:
            self.hooks.attach(optimizer, execution.compile)
        else:
            buffers = {name: value.clone() for name, value in network.state_dict().items() if name not in origin["initial"]}
            initial = buffers | {name: value.to(self.device) for name, value in origin["initial"].items()}
            self.hooks.attach(optimizer, execution.compile, origin["interventions"], lambda: self._adopt(origin), initial)
        network.taps.keeps_graph = bool(self.hooks.needs_graph)
        self._records = self.hooks.taps_wanted or bool(self.hooks.measuring)
        self.initial = {name: value.detach().clone() for name, value in network.named_parameters()}
        self.trace = UpdateTrace(network, lambda inputs: self.infer(inputs, self.network))
        self.examples = LatestExamples()
        self._check = GradientCheck(part, self._parameters)

    def forward(self, inputs: Tensor) -> Tensor:
        """Runs the training forward, in training mode; interventions that need activations receive those of this call.

        Args:
            inputs: (B, *input_shape).

        Returns:
            The head's output, in float32 for any precision.
        """
        self.network.train()
        if self._records:
            with self.network.taps.record():
                return self._forward(inputs, self.network)
        return self._forward(inputs, self.network)

    def forward_again(self, inputs: Tensor) -> Tensor:
        """Runs the training forward once more, for a loss that is computed again; its activations are not recorded."""
        return self._forward(inputs, self.network)

    def predict(self, inputs: Tensor) -> Tensor:
        """Runs the network that acts and is evaluated, in evaluation mode and without a graph."""
        return self.infer(inputs, self.evaluation_network())

    def infer(self, inputs: Tensor, network: Network) -> Tensor:
        """Runs ``network``, this one or a copy, in evaluation mode, without a graph, in the precision of the run."""
        network.eval()
        with torch.no_grad():
            if self._cast_copies is not None and not (network.mode_dependent or network.noisy_layers):
                network = self._cast_copies.of(network, 0 if network in self.copies.values() else self._written)
            return self._forward(inputs, network)

    def infer_with_graph(self, inputs: Tensor) -> Tensor:
        """Runs the trained network in evaluation mode with a graph, for another part's loss to pass through."""
        self.network.eval()
        return self._forward(inputs, self.network)

    def compiled(self, function: Function) -> Function:
        """Returns a function of tensors that an agent calls around its updates, compiled if those are.

        Args:
            function: Maps tensors to a sequence of tensors, without a graph. It may run networks in evaluation mode, and draws
                no random numbers; see ``CompiledFunction``.
        """
        # In lower precision weights are cast once for many calls, outside of any function.
        return CompiledFunction(function) if self.execution.compile and self.execution.autocast is None else function

    def update(self, objective: Objective[AnyBatch], batch: AnyBatch, remembers: bool = True) -> Logs:
        """Makes one update from an objective: the training forward on ``batch.inputs``, then ``step``.

        Args:
            objective: Maps the head's output and the batch to a scalar loss and to measures by name; a pure function of tensors,
                the same in every call.
            batch: Shown to the interventions.
            remembers: Whether it is kept in ``examples``, if the agent has declared its objective; if not, the agent adds it.

        Returns:
            Logs of the interventions, as ``<name>/<key>``, the objective's measures, and ``train/loss`` without the terms of the
            interventions.

        Raises:
            FloatingPointError: If the loss or a gradient is not finite; the weights are as before.
        """
        if remembers and self.examples.objective is not None:
            self.examples.add(batch)
        recompute = None
        if self.hooks.needs_recompute:
            recompute = lambda: objective(self.forward_again(batch.inputs), batch)[0]  # noqa: E731
        if self.execution.as_function:
            return self._update_as_function(objective, batch, recompute)
        outputs = self.forward(batch.inputs)
        loss, measures = objective(outputs, batch)
        logs = self.step(loss, batch, recompute)
        return {**logs, **{name: value.detach() for name, value in measures.items()}, "train/loss": loss.detach()}

    def step(self, loss: Tensor, batch: Batch | None, recompute: Callable[[], Tensor] | None = None) -> Logs:
        """Makes one update from a loss whose graph comes from ``forward``.

        Args:
            loss: A scalar.
            batch: What the loss was computed from, shown to the interventions; None if no method reads it.
            recompute: Returns the same loss, from the same random numbers, at the weights as they are when it is called.

        Returns:
            Logs of the interventions, as ``<name>/<key>``.

        Raises:
            ValueError: If an intervention needs ``recompute`` and there is none.
            FloatingPointError: If the loss or a gradient is not finite; the weights are as before.
        """
        if self.hooks.needs_recompute and recompute is None:
            raise ValueError(f"{self.hooks.needs_recompute} needs the loss again, which part {self.part} does not offer")
        self._begin(batch, recompute)
        logs: Logs = {}
        loss = loss if (terms := self.hooks.loss_terms(logs, loss)) is None else loss + terms
        for parameter in self._parameters:
            parameter.grad = None
        backward(loss)
        return self._finish(loss.detach(), logs)

    def _update_as_function(
        self, objective: Objective[AnyBatch], batch: AnyBatch, recompute: Callable[[], Tensor] | None
    ) -> Logs:
        """Runs as much of the update as possible in the function, and every hook as ``step`` does."""
        self._begin(batch, recompute)
        rule, rate = self._rule, self.optimizer.param_groups[0]["lr"]
        if rule is not None:
            self.hooks.prepare()
            self.trace.before()
        with self.trace.of("optimizer") if rule is not None else nullcontext():
            computed = self._function(objective, rule)(batch, rate)
        self.network.taps.pre, self.network.taps.post = computed.pre, computed.post
        logs: Logs = {**computed.measures, "train/loss": computed.loss}
        for parameter, gradient in zip(self._parameters, computed.gradients, strict=bool(computed.gradients)):
            parameter.grad = gradient
        if rule is not None:
            self.trace.gradients(computed.norm)
            self._written += 1
            self._check.refuse_unless_finite((computed.norm, computed.total), self.optimizer, self.steps)
            rule.complete()
            self.hooks.note_terms_inside(logs)
            self._end(logs)
            return logs
        loss = computed.total
        if (terms := self.hooks.loss_terms(logs, computed.loss, inside=True)) is not None:
            if terms.requires_grad:
                backward(terms)
            loss = loss + terms.detach()
        return self._finish(loss, logs)

    def _begin(self, batch: Batch | None, recompute: Callable[[], Tensor] | None) -> None:
        self.steps += 1
        self._rates.apply(self.moment)
        self.hooks.open(self.steps, batch, recompute)
        self.trace.open(self.steps, batch)

    def _finish(self, loss: Tensor, logs: Logs) -> Logs:
        """Makes the part of an update that follows the backward pass."""
        self.hooks.after_backward(logs)
        self.trace.before()
        norms = self._check.norms()
        if self.trace.armed or self.max_gradient_norm is not None:
            norms = [joint_norm(norms)]
            self.trace.gradients(norms[0])
        self._check.refuse_unless_finite((loss, *norms), self.optimizer, self.steps)
        if self.max_gradient_norm is not None:
            self._check.clip(norms[0], self.max_gradient_norm)
        with self.trace.of("optimizer"):
            self.optimizer.step()
        self._written += 1
        self.hooks.measure()
        self._end(logs)
        return logs

    def _end(self, logs: Logs) -> None:
        with self.trace.of("intervention"):
            self.hooks.after_step(logs)
        self.trace.close(self.steps)

    @cached_property
    def _rule(self) -> StepRule | None:
        """How a function makes the step inside; None where something happens between gradient and step that is no function."""
        if self.hooks.overrides("loss") or self.hooks.overrides("after_backward"):
            return None
        rule = step_rule(self.optimizer)
        # A recorded function reads the optimizer's state where it was, and a fused kernel is as good there.
        return None if self.execution.capture and isinstance(rule, AdamRule) else rule

    def _function(self, objective: Objective[Any], rule: StepRule | None) -> UpdateFunction:
        key = (objective, rule, () if rule is None else (self.trace.armed, rule.key))
        if key not in self._functions:
            bound = None if rule is None else self.max_gradient_norm
            records = self._records if rule is None else self.hooks.taps_read
            gives = rule is None or self.trace.armed
            self._functions[key] = UpdateFunction(
                self.network, objective, records, rule, self.hooks, bound, self.execution, gives_gradients=gives
            )
        return self._functions[key]

    def task_switch(self, task: int) -> Logs:
        """Informs the interventions that ``task`` begins."""
        return self.hooks.task_switch(task)

    def at_branch(self, names: Collection[str]) -> Logs:
        """Informs the interventions of those names, which the parent run does not have, that they start."""
        return self.hooks.at_branch([name for name in names if name in self.interventions])

    def evaluation_network(self) -> Network:
        """Returns the network to act with and to evaluate, which an intervention may replace by an average of its own."""
        return self.hooks.evaluation_network()

    def raise_if_not_finite(self) -> None:
        """Raises FloatingPointError if an update since the start met a loss or gradient that is not finite.

        On the CPU ``step`` has raised already; see ``GradientCheck``.
        """
        self._check.raise_if_any(self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything the next update depends on."""
        return {
            "steps": self.steps,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "initial": self.initial,
            "copies": {name: network.state_dict() for name, network in self.copies.items()},
            **self.hooks.state_dict(),
            "trace": self.trace.state_dict(),
            "examples": self.examples.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned.

        Raises:
            ValueError: If the checkpoint was made with other interventions, and this is not a branch.
        """
        saved, present = list(state["interventions"]), list(self.interventions)
        if saved != present and not self._branches:
            raise ValueError(f"part {self.part}: the checkpoint was made with interventions {saved}, this run has {present}")
        self.steps = state["steps"]
        if not self._branches:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["initial"].items():
            self.initial[name].copy_(value)
        for name, network in self.copies.items():
            network.load_state_dict(_filled_up(state["copies"][name], network) if self._branches else state["copies"][name])
        self.hooks.load_state_dict(state, self.steps)
        self.trace.load_state_dict(state["trace"], self.device)
        self.examples.load_state_dict(state["examples"], self.device)

    def _adopt(self, origin: Mapping[str, Any]) -> None:
        """Gives network and optimizer the state of the part in another run."""
        self.network.load_state_dict(_filled_up(origin["network"], self.network))
        if "optimizer" in origin:
            self.optimizer.load_state_dict(origin["optimizer"])

    def _forward(self, inputs: Tensor, network: Network) -> Tensor:
        if self.execution.autocast is None:
            return call(network, inputs)
        with torch.autocast(self.device.type, self.execution.autocast):
            outputs: Tensor = network(inputs)
        return outputs.float()


def _filled_up(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Returns the state of a network with its own buffers where the state has none: those of layers that were added to it."""
    return {**network.state_dict(), **state}
