"""One update as one function of tensors: forward, loss, gradient, finite check and, for SGD and Adam, the step itself."""

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from plasticity.networks.network import Network
from plasticity.networks.objective import Batch, Objective
from plasticity.networks.taps import Taps
from plasticity.updates.execution import Execution
from plasticity.updates.hooks import Hooks
from plasticity.updates.step_rule import StepRule, settled

Measures = dict[str, Tensor]


class Computed(NamedTuple):
    """What an update as a function returns.

    Attributes:
        loss: 0-dim.
        norm: Joint norm of the gradient, before clipping.
        total: 0-dim; the loss with the terms that interventions add to it inside.
        measures: What the objective measured in addition to the loss, and those terms as ``<name>/loss``.
        pre: Pre-activations by layer; empty if they were not requested.
        post: Post-activations by layer.
        gradients: One for each parameter, before clipping; empty if they were not requested.
    """

    loss: Tensor
    norm: Tensor
    total: Tensor
    measures: Measures
    pre: dict[str, Tensor]
    post: dict[str, Tensor]
    gradients: Sequence[Tensor]


class UpdateFunction:
    """One kind of update of one network, to be compiled or recorded; see ``Execution``.

    Args:
        network: Its values are read, and with ``steps`` changed in place. Layers may change their buffers in a training forward,
            as batch normalisation and load balancing do, but nothing else.
        objective: Maps outputs and batch to a scalar loss and measures; a pure function of tensors.
        records: Whether activations are returned.
        rule: How the step is made, inside, after ``edit_gradients`` of the interventions and before their ``measure``; none of
            these changes anything if the loss or gradient is not finite. None for no step.
        hooks: The interventions: those with a ``term``, and those with an ``edit_gradients`` or a ``measure``, which are called
            if there is a rule.
        max_gradient_norm: Bound of the joint norm for the rule.
        execution: How the function is run.
        gives_gradients: Whether the gradients are returned.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective[Any],
        records: bool,
        rule: StepRule | None,
        hooks: Hooks,
        max_gradient_norm: float | None,
        execution: Execution,
        gives_gradients: bool,
    ) -> None:
        self._network, self._objective, self._records, self._rule = network, objective, records, rule
        self._max_gradient_norm, self._autocast, self._gives_gradients = max_gradient_norm, execution.autocast, gives_gradients
        self._editing, self._measuring = ([], []) if rule is None else (list(hooks.editing), list(hooks.measuring))
        self._adding, self._needs_graph = dict(hooks.adding), bool(hooks.needs_graph)
        self._running = {id(method): method.running() for method in (*self._editing, *self._measuring)}
        self._names = [name for name, _ in network.named_parameters()]
        self._values = [value.detach() for value in network.parameters()]
        # Without layers that change them, buffers are constants and need not be arguments.
        buffers = dict(network.named_buffers()) if network.mode_dependent else {}
        self._buffer_names, self._buffers = list(buffers), list(buffers.values())
        self._rate = torch.zeros((), device=self._values[0].device)
        self._host_rate = 0.0
        self._measured: list[str] = []
        self._tapped: list[str] = []
        self._batch_type: Callable[..., Batch]
        self._fixed = [self._rate, *self._values, *self._buffers, *chain.from_iterable(self._running.values())]
        self._moments = 0 if rule is None else len(rule.state())
        self._call = execution.of(self._flat_update, len(self._fixed) + self._moments)

    def __call__(self, batch: Batch, learning_rate: float) -> Computed:
        """Makes the update for one batch."""
        if learning_rate != self._host_rate:
            self._host_rate = learning_rate
            self._rate.fill_(learning_rate)
        self._batch_type = type(batch)
        self._network.train()
        # The optimizer may have got other tensors for its state, as it does from a checkpoint.
        moments = [] if self._rule is None else self._rule.state()
        loss, norm, *rest = self._call(*self._fixed, *moments, *batch)
        total = rest.pop(0) if self._adding else loss
        measures = dict(zip(self._measured, rest, strict=False))
        rest = rest[len(measures) :]
        count = len(self._tapped)
        pre, post = dict(zip(self._tapped, rest, strict=False)), dict(zip(self._tapped, rest[count:], strict=False))
        return Computed(loss, norm, total, measures, pre, post, rest[2 * count :])

    def _flat_update(self, rate: Tensor, *tensors: Tensor) -> list[Tensor]:
        """The function; if compiled or recorded it runs once for each combination of shapes, and records the names each time."""
        rest = iter(tensors)
        named = dict(zip(self._names, islice(rest, len(self._names)), strict=True))
        buffers = dict(zip(self._buffer_names, islice(rest, len(self._buffer_names)), strict=True))
        running = {key: list(islice(rest, len(own))) for key, own in self._running.items()}
        moments = list(islice(rest, self._moments))
        moving = [*buffers.values(), *chain.from_iterable(running[id(method)] for method in self._measuring)]
        before = [value.clone() for value in moving] if self._rule is not None else []
        loss, total, gradients, measures, taps = self._differentiated(named, buffers, self._batch_type(*rest))
        for method in self._editing:
            method.edit_gradients(named, dict(zip(named, gradients, strict=True)), running[id(method)])
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        finite, share = (norm + total).isfinite(), torch.ones_like(norm)
        if self._max_gradient_norm is not None:
            share = torch.where(finite, self._max_gradient_norm / (norm + 1e-6), share).clamp(max=1.0)
        recorded = [taps.pre, taps.post] if self._records else []
        self._measured, self._tapped = list(measures), list(taps.pre) if self._records else []
        results = [
            loss,
            norm,
            *([total] if self._adding else []),
            *measures.values(),
            *(value.detach() for layer in recorded for value in layer.values()),
            *(gradients if self._gives_gradients else []),
        ]
        if self._rule is None:
            return results
        number, share = settled(finite, share)
        finite = number > 0
        if self._max_gradient_norm is not None:
            gradients = [gradient * share for gradient in gradients]
        self._rule.move(list(named.values()), gradients, moments, rate, finite)
        post = {name: value.detach() for name, value in taps.post.items()}
        for method in self._measuring:
            method.measure(named, post, running[id(method)])
        for value, old in zip(moving, before, strict=True):
            value.copy_(torch.where(finite, value, old))
        return results

    def _differentiated(
        self, named: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor, Sequence[Tensor], Measures, Taps]:
        """Returns the loss, the same with terms, the gradient of that for each parameter, the measures and the activations."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in named.items()}
            taps = Taps(keeps_graph=self._needs_graph)
            with torch.autocast(self._rate.device.type, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
                outputs = functional_call(self._network, {**leaves, **buffers}, (batch.inputs, taps)).float()
            loss, measures = self._objective(outputs, batch)
            terms = {name: method.term(loss, leaves, taps.live) for name, method in self._adding.items()}
            added = {f"{name}/loss": term for name, term in terms.items() if term is not None}
            total = loss + sum(added.values()) if added else loss
            gradients = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        values = {name: value.detach() for name, value in {**measures, **added}.items()}
        return loss.detach(), total.detach(), gradients, values, taps
