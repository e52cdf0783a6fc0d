"""The optimizer of an adopted module: the user's own, with the hooks of methods around every step."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.adopt.finding import Found
from plasticity.adopt.network import AdoptedNetwork
from plasticity.adopt.tracing import Forward
from plasticity.interventions.base import Intervention, Logs
from plasticity.networks.network import Network
from plasticity.networks.taps import Taps
from plasticity.updates.gradient_check import GradientCheck, joint_norm
from plasticity.updates.hooks import Hooks

_PATIENCE: Final = 100  # steps without activations of a layer before that is said
_CAUSES: Final = (
    ": was the module compiled before adopt, are gradients cleared by module.zero_grad() and not by the optimizer's, or is a "
    "copy of it trained?"
)
_KEY: Final = "plasticity"  # of what methods remember, in the state of the optimizer


class Examples(NamedTuple):
    """What an update was computed from.

    Attributes:
        inputs: Those of the module in the forwards that count.
    """

    inputs: Any


class AdoptedOptimizer(Optimizer):
    """Steps as the optimizer that it was made from, and runs the hooks of methods around it; ``adopt`` makes it.

    Parameter groups and state are those of the base: schedulers that were built on either change both.

    Args:
        network: The adopted module.
        base: What steps.
        methods: By name, in order.
        copies: Networks that accompany the module, by name.
        part: Name of the module among several, from which generators are derived.
        seed: From which generators are derived.
        max_gradient_norm: Bound of the joint norm of the module's gradients, or None.

    Attributes:
        logs: What the methods said in the latest step, ``<method>/<key>``.
        steps: Steps so far in which the module had a gradient.
        base: What steps.
        evaluated: What the latest measurement found in the module, and for which forward and trained parameters.
    """

    def __init__(
        self,
        network: AdoptedNetwork,
        base: Optimizer,
        methods: Mapping[str, Intervention],
        copies: Mapping[str, Network],
        part: str,
        seed: int,
        max_gradient_norm: float | None,
    ) -> None:
        self.base, self.max_gradient_norm = base, max_gradient_norm
        self.logs: Logs = {}
        self.steps = 0
        self.evaluated: tuple[Forward | None, tuple[bool, ...], Found] | None = None
        self._network, self._copies = network, dict(copies)
        self._parameters = list(network.parameters())
        self._hooks = Hooks(part, network, methods, seed, self._copies)
        try:
            self._hooks.attach(base, compile=False)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            told = " ".join(str(error).split())
            raise ValueError(f"the methods {', '.join(methods)} cannot be attached to this module: {told}") from error
        self._check = GradientCheck(part, self._parameters)
        self._wants_backward = self._hooks.overrides("loss") or self._hooks.overrides("term")
        self._running = {method.name for method in self._hooks.measuring}
        self._reading = {name for name, method in methods.items() if method.needs_taps or name in self._running}
        self._terms_logged: Logs | None = None
        self._again_running = False
        if self._hooks.needs_graph:
            network.recorder.keep_graphs(self._hooks.needs_graph)
        self._idle_for = dict.fromkeys(network.units.names, 0)
        self._awaited = bool(self._reading)  # a layer that was not seen yet, and may never be
        self._listen()
        self._join_base()
        self._as_an_optimizer()

    def _as_an_optimizer(self) -> None:
        """Makes what ``Optimizer.__init__`` makes but for groups and state, which are the base's."""
        for name in ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
            setattr(self, f"_optimizer_{name}_hooks", OrderedDict())

    def _join_base(self) -> None:
        self.param_groups, self.state, self.defaults = self.base.param_groups, self.base.state, self.base.defaults

    @property
    def methods(self) -> Mapping[str, Intervention]:
        """The methods by name, as they are attached."""
        return self._hooks.interventions

    @property
    def network(self) -> AdoptedNetwork:
        """The module as methods see it: its units, those that are left alone and why."""
        return self._network

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients, and forgets the forwards that made them."""
        self._network.recorder.forget_counted()
        self._terms_logged = None
        self.base.zero_grad(set_to_none)

    def backward(self, loss: Tensor, scaler: Any = None, **arguments: Any) -> None:
        """Adds the methods' terms to a loss and computes gradients: in place of ``loss.backward()``.

        Args:
            loss: A scalar, not scaled.
            scaler: A ``torch.amp.GradScaler`` that scales loss and terms together, or None.
            arguments: Those of ``Tensor.backward``.
        """
        if self._again_running:  # of the loss alone
            loss.backward(**arguments)
            return
        recorder = self._network.recorder
        self._hooks.open(self.steps + 1, _examples(recorder.waiting_inputs()), None)
        logs: Logs = {}
        self._network.taps.live = recorder.live() if recorder.keeps_graph else {}
        terms = self._hooks.loss_terms(logs, loss)
        total = loss if terms is None else loss + terms
        (total if scaler is None else scaler.scale(total)).backward(**arguments)
        self._terms_logged = logs

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one update: after-backward hooks, clipping, the base's step, and what follows it.

        Args:
            closure: Computes the loss again and its gradients, as ``torch.optim.Optimizer.step`` has it. Methods that need the
                loss a second time get it from there.

        Returns:
            What the closure returned.

        Raises:
            ValueError: If a method adds to the loss and ``backward`` was not called, or one needs the closure.
        """
        arguments: Any = (self,) if closure is None else (self, closure)
        named: dict[str, Any] = {}
        for hook in self._optimizer_step_pre_hooks.values():
            arguments, named = hook(self, arguments, named) or (arguments, named)
        loss = self._step(*arguments[1:], **named)
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, arguments, named)
        return loss

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one update between the hooks that a user registered."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if all(parameter.grad is None for parameter in self._parameters):
            self.base.step()
            return loss
        self._require(closure)
        taps, inputs = self._network.recorder.take()
        self._network.taps.pre, self._network.taps.post = taps.pre, taps.post
        self.steps += 1
        self._hooks.open(self.steps, _examples(inputs), None if closure is None else lambda: self._again(closure))
        self.logs = dict(self._terms_logged or {})
        self._terms_logged = None
        self._hooks.after_backward(self.logs)
        if self.max_gradient_norm is not None:
            self._check.clip(joint_norm(self._check.norms()), self.max_gradient_norm)
        self.base.step()
        self._after_step(taps)
        self._listen()
        return loss

    def _listen(self) -> None:
        """Looks at the forwards of the next update if a method reads their activations then."""
        self._due = self._hooks.act_at(self.steps + 1)
        reads = self._due and bool(self._reading) and self._hooks.act_at(self.steps + 1, self._reading)
        wanted = self._awaited or self._wants_backward or reads
        if wanted is not self._network.recorder.listening:
            self._network.recorder.listening = wanted

    def _after_step(self, taps: Taps) -> None:
        """Calls the hooks behind the step; layers without activations in this update are left alone by methods that read them."""
        if not self._due and not self._network.recorder.listening:
            return
        units, listened = self._network.units, bool(self._reading) and self._network.recorder.listening
        idle = {layer.name for layer in units.layers if layer.name not in taps.post} if listened else set[str]()
        if not idle:
            self._awaited = self._awaited and not listened
            self._hooks.measure()
            self._hooks.after_step(self.logs)
            return
        self._warn(idle)
        without = (
            self._reading if len(idle) == len(units.layers) else self._running
        )  # whose statistics are of all layers together
        self._hooks.measure(without)
        self._network.units = replace(units, layers=tuple(layer for layer in units.layers if layer.name not in idle))
        try:
            self._hooks.after_step(self.logs, without)
        finally:
            self._network.units = units

    def _warn(self, idle: set[str]) -> None:
        """Says once of a layer that nothing was seen of it in the first 100 steps."""
        for name in self._idle_for:
            self._idle_for[name] = self._idle_for[name] + 1 if name in idle and self._idle_for[name] >= 0 else -1
            if self._idle_for[name] == _PATIENCE:
                methods = ", ".join(sorted(self._reading))
                print(f"warning: {methods} saw no activations of {name} in {_PATIENCE} steps{_CAUSES}", file=sys.stderr)
        self._awaited = any(0 <= self._idle_for[name] < _PATIENCE for name in idle)

    def task_switch(self, task: int) -> Logs:
        """Tells the methods that a task begins; returns what they say."""
        self.logs = self._hooks.task_switch(task)
        return self.logs

    def evaluation_network(self) -> nn.Module:
        """Returns the module to act with and to evaluate: the user's, or one that a method keeps in its place."""
        chosen = self._hooks.evaluation_network()
        return chosen.module if isinstance(chosen, AdoptedNetwork) else chosen

    def release(self) -> Optimizer:
        """Takes the hooks off the module; returns the optimizer that steps."""
        self._network.recorder.remove()
        return self.base

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Gives parameters to the base, which are not the adopted module's."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Returns the base's state, and what the methods remember."""
        return {**self.base.state_dict(), _KEY: {"steps": self.steps, **self._hooks.state_dict()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned.

        Raises:
            ValueError: If it holds nothing of methods, or of others.
        """
        own = state_dict.get(_KEY)
        if own is None:
            raise ValueError("the state is of an optimizer without methods; load it before adopt")
        saved, present = list(own["interventions"]), list(self._hooks.interventions)
        if saved != present:
            raise ValueError(f"the state was saved with the methods {saved}, this optimizer has {present}")
        groups, state = list(self.base.param_groups), self.base.state
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != _KEY})
        for group, loaded in zip(groups, self.base.param_groups, strict=True):  # those that schedulers hold, with what was loaded
            group.clear()
            group.update(loaded)
        loaded_state = dict(self.base.state)
        state.clear()
        state.update(loaded_state)
        self.base.state = state
        self.param_groups[:] = groups
        self.base.param_groups = self.param_groups
        self.steps = own["steps"]
        self._hooks.load_state_dict(own, self.steps)
        self._listen()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses to be copied or pickled, since it belongs to a module and a base that are not part of it."""
        raise TypeError("an adopted optimizer cannot be copied or saved whole: save its state_dict(), and load it behind adopt")

    def __repr__(self) -> str:
        """Names the methods and the base."""
        return f"AdoptedOptimizer({', '.join(self._hooks.interventions) or 'no methods'}; {self.base!r})"

    def _again(self, closure: Callable[[], Any]) -> Tensor:
        """Returns a scalar with the gradients of the loss at the weights as they are now.

        A closure has gone backward when it returns, so that its loss has no graph any more: the sum of parameters times their
        gradients has the same ones. The gradients that were there before are put back.
        """
        before = [parameter.grad for parameter in self._parameters]
        self._again_running = True
        try:
            with self._network.recorder.silent(), torch.enable_grad():
                for parameter in self._parameters:
                    parameter.grad = None
                closure()
                pairs = [(parameter, parameter.grad) for parameter in self._parameters if parameter.grad is not None]
                return torch.stack([(parameter * gradient.detach()).sum() for parameter, gradient in pairs]).sum()
        finally:
            self._again_running = False
            for parameter, gradient in zip(self._parameters, before, strict=True):
                parameter.grad = gradient

    def _require(self, closure: Callable[[], Any] | None) -> None:
        if self._wants_backward and self._terms_logged is None:
            adding = (Intervention.loss, Intervention.term)
            methods = self._hooks.interventions.items()
            names = [name for name, method in methods if (type(method).loss, type(method).term) != adding]
            raise ValueError(f"{', '.join(names)} adds to the loss: call optimizer.backward(loss) in place of loss.backward()")
        if self._hooks.needs_recompute and closure is None:
            raise ValueError(
                f"{self._hooks.needs_recompute} needs the loss a second time: give step() a closure that computes it"
            )


def _examples(inputs: Any) -> Examples | None:
    return None if inputs is None else Examples(inputs)
