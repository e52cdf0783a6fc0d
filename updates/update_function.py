"""One update as one function of tensors: forward, loss, gradient, finite check and, for plain SGD, the step itself."""

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from plasticity.interventions.base import Intervention
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch, Objective
from plasticity.networks.taps import Taps
from plasticity.updates.execution import Execution

Measures = dict[str, Tensor]


class Computed(NamedTuple):
    """What an update as a function returns.

    Attributes:
        loss: 0-dim.
        norm: Joint norm of the gradient, before clipping.
        measures: What the objective measured in addition to the loss.
        pre: Pre-activations by layer; empty if they were not requested.
        post: Post-activations by layer.
        gradients: One for each parameter; empty if the step was made inside.
    """

    loss: Tensor
    norm: Tensor
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
        steps: Whether p <- p - learning rate * gradient is made inside, and then the ``measure`` of the interventions that have
            one; neither changes anything if the loss or gradient is not finite.
        measuring: The interventions with a ``measure``.
        max_gradient_norm: Bound of the joint norm for ``steps``.
        execution: How the function is run.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective[Any],
        records: bool,
        steps: bool,
        measuring: Sequence[Intervention],
        max_gradient_norm: float | None,
        execution: Execution,
    ) -> None:
        self._network, self._objective, self._records, self._steps = network, objective, records, steps
        self._max_gradient_norm, self._autocast = max_gradient_norm, execution.autocast
        self._measuring = list(measuring) if steps else []
        self._running = [method.running() for method in self._measuring]
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
        self._fixed = [self._rate, *self._values, *self._buffers, *chain.from_iterable(self._running)]
        self._call = execution.of(self._flat_update, len(self._fixed))

    def __call__(self, batch: Batch, learning_rate: float) -> Computed:
        """Makes the update for one batch."""
        if learning_rate != self._host_rate:
            self._host_rate = learning_rate
            self._rate.fill_(learning_rate)
        self._batch_type = type(batch)
        self._network.train()
        loss, norm, *rest = self._call(*self._fixed, *batch)
        measures = dict(zip(self._measured, rest, strict=False))
        rest = rest[len(measures) :]
        count = len(self._tapped)
        pre, post = dict(zip(self._tapped, rest, strict=False)), dict(zip(self._tapped, rest[count:], strict=False))
        return Computed(loss, norm, measures, pre, post, rest[2 * count :])

    def _flat_update(self, rate: Tensor, *tensors: Tensor) -> list[Tensor]:
        """The function; if compiled or recorded it runs once for each combination of shapes, and records the names each time."""
        rest = iter(tensors)
        named = dict(zip(self._names, islice(rest, len(self._names)), strict=True))
        buffers = dict(zip(self._buffer_names, islice(rest, len(self._buffer_names)), strict=True))
        running = [list(islice(rest, len(own))) for own in self._running]
        moving = [*buffers.values(), *chain.from_iterable(running)]
        before = [value.clone() for value in moving] if self._steps else []
        loss, gradients, measures, taps = self._differentiated(named, buffers, self._batch_type(*rest))
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        finite = (norm + loss).isfinite()
        recorded = [taps.pre, taps.post] if self._records else []
        self._measured, self._tapped = list(measures), list(taps.pre) if self._records else []
        results = [loss, norm, *measures.values(), *(value.detach() for layer in recorded for value in layer.values())]
        if not self._steps:
            return [*results, *gradients]
        if self._max_gradient_norm is not None:
            rate = rate * (self._max_gradient_norm / (norm + 1e-6)).clamp(max=1.0)
        for value, gradient in zip(named.values(), gradients, strict=True):
            value.sub_(torch.where(finite, gradient * rate, 0.0))
        post = {name: value.detach() for name, value in taps.post.items()}
        for method, own in zip(self._measuring, running, strict=True):
            method.measure(named, post, own)
        for value, old in zip(moving, before, strict=True):
            value.copy_(torch.where(finite, value, old))
        return results

    def _differentiated(
        self, named: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Sequence[Tensor], Measures, Taps]:
        """Returns the loss, its gradient for each parameter, the objective's measures and the activations."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in named.items()}
            taps = Taps()
            with torch.autocast(self._rate.device.type, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
                outputs = functional_call(self._network, {**leaves, **buffers}, (batch.inputs, taps)).float()
            loss, measures = self._objective(outputs, batch)
            gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return loss.detach(), gradients, {name: value.detach() for name, value in measures.items()}, taps
