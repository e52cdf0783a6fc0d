"""An optimizer's step as a function of tensors, to be compiled into an update."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from plasticity.optimizers.restart_factors import bias_factors
from plasticity.optimizers.unit_adam import UnitAdam


class StepRule(ABC):
    """What an optimizer does in a step, the same for all parameters.

    Attributes:
        key: What is constant in the compiled step.
    """

    key: tuple[Any, ...] = ()

    @abstractmethod
    def state(self) -> list[Tensor]:
        """Returns the optimizer's tensors that ``move`` reads and changes, in an order of its own; all exist from now on."""

    @abstractmethod
    def move(
        self, values: Sequence[Tensor], gradients: Sequence[Tensor], state: Sequence[Tensor], rate: Tensor, finite: Tensor
    ) -> None:
        """Makes the step in place; changes nothing where it is not ``finite``.

        Args:
            values: The parameters.
            gradients: One for each, clipped.
            state: What ``state`` returns.
            rate: 0-dim learning rate.
            finite: 0-dim bool.
        """

    def complete(self) -> None:  # noqa: B027 (most rules have nothing left to do)
        """Does on the host what the optimizer does besides ``move``, after a step that was made."""


class SgdRule(StepRule):
    """p <- p - rate * gradient."""

    def state(self) -> list[Tensor]:
        """There is none."""
        return []

    def move(
        self, values: Sequence[Tensor], gradients: Sequence[Tensor], state: Sequence[Tensor], rate: Tensor, finite: Tensor
    ) -> None:
        """See ``StepRule``."""
        for value, gradient in zip(values, gradients, strict=True):
            value.sub_(torch.where(finite, gradient * rate, 0.0))


class AdamRule(StepRule):
    """Algorithm 1 of Kingma and Ba 2015, as PyTorch's fused kernel computes it, with counts of their own for restarted entries.

    Args:
        optimizer: With one parameter group.
    """

    def __init__(self, optimizer: Adam) -> None:
        self._optimizer, self._group = optimizer, optimizer.param_groups[0]
        self._shaped: tuple[list[list[Tensor]], tuple[Any, ...]] = ([], ())

    @property
    def key(self) -> tuple[Any, ...]:  # type: ignore[override]
        """Decay rates, epsilon, and for each parameter the shapes of its vectors of restarts, which are none if none matters."""
        vectors = self._restarts()
        if vectors is not self._shaped[0]:
            self._shaped = (vectors, tuple(tuple(tuple(one.shape) for one in own) for own in vectors))
        return *self._group["betas"], self._group["eps"], self._shaped[1]

    def state(self) -> list[Tensor]:
        """First moments, second moments, the step counts, 0-dim float32, and the vectors of restarts."""
        states = [self._optimizer.state[parameter] for parameter in self._group["params"]]
        for parameter, own in zip(self._group["params"], states, strict=True):
            if "step" not in own:
                own["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                own["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                own["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [own[name] for name in ("exp_avg", "exp_avg_sq", "step") for own in states] + [*chain(*self._restarts())]

    def move(
        self, values: Sequence[Tensor], gradients: Sequence[Tensor], state: Sequence[Tensor], rate: Tensor, finite: Tensor
    ) -> None:
        """See ``StepRule``."""
        first_decay, second_decay, epsilon, shapes = self.key
        count = len(values)
        moments, squares, steps = state[:count], state[count : 2 * count], state[2 * count : 3 * count]
        counts = torch.stack(list(steps)).double() + 1
        # sqrt(1 - b2^k) is taken out of the fraction, so that there is one division for an entry.
        if shapes:
            factors = self._factors_of_restarts(counts.float().unbind(), iter(state[3 * count :]), rate)
        else:
            roots = (1 - second_decay**counts).sqrt()
            shared = settled(*(rate * roots / (1 - first_decay**counts)).unbind(), *(roots * epsilon).unbind())
            factors = list(zip(shared[:count], shared[count:], strict=True))
        for index, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            scale, small = factors[index]
            moment = moments[index] + (gradient - moments[index]) * (1 - first_decay)
            square = squares[index] * second_decay + gradient.square() * (1 - second_decay)
            change = scale * moment / (square.sqrt() + small)
            value.sub_(torch.where(finite, change, 0.0))
            moments[index].copy_(torch.where(finite, moment, moments[index]))
            squares[index].copy_(torch.where(finite, square, squares[index]))
            steps[index].add_(finite)

    def complete(self) -> None:
        """Counts the step."""
        if isinstance(self._optimizer, UnitAdam):
            self._optimizer.count_step()

    def _restarts(self) -> list[list[Tensor]]:
        """Returns each parameter's vectors of restarts; none at all if no restart matters any more."""
        if isinstance(self._optimizer, UnitAdam) and self._optimizer.restarts_matter():
            return self._optimizer.restart_vectors()
        return []

    def _factors_of_restarts(
        self, counts: Sequence[Tensor], vectors: Iterator[Tensor], rate: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Returns both factors of each parameter, broadcastable to it, by the count of an entry since its latest restart.

        See ``plasticity.optimizers.restart_correction``.
        """
        first_decay, second_decay, epsilon, shapes = self.key
        # An entry that was never restarted holds 0, and has the count of the parameter, as all have without a vector.
        never = torch.zeros((), device=rate.device)
        owned = [list(islice(vectors, len(own))) or [never] for own in shapes]
        pieces = [count - restarts.flatten() for count, own in zip(counts, owned, strict=True) for restarts in own]
        scale, small = bias_factors(torch.cat(pieces), (first_decay, second_decay), epsilon)
        # A product with the unit matrix for the same reason as in ``settled``.
        table = torch.eye(2, dtype=scale.dtype, device=scale.device) @ torch.stack([rate * scale, small])
        columns = iter(table.split([len(piece) for piece in pieces], 1))
        return [_latest(own, [next(columns) for _ in own]) for own in owned]


def _latest(restarts: Sequence[Tensor], factors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns both factors of the latest restart that concerns each entry."""
    latest = restarts[0]
    scale, small = (factor.view(latest.shape) for factor in factors[0])
    for own, (own_scale, own_small) in zip(restarts[1:], factors[1:], strict=True):
        later = own >= latest
        scale, small = (torch.where(later, new.view(own.shape), old) for new, old in ((own_scale, scale), (own_small, small)))
        latest = torch.maximum(latest, own)
    return scale, small


def settled(*scalars: Tensor) -> Sequence[Tensor]:
    """Returns 0-dim tensors as float32; none may be infinite or not a number.

    It is written as a product with the unit matrix, which the compiler does not merge with what reads the result: otherwise a
    kernel would compute them again for every entry of a parameter, one by one.
    """
    row = torch.stack([scalar.double() for scalar in scalars]).expand(2, -1)
    return (row @ torch.eye(len(scalars), dtype=torch.float64, device=row.device)).float()[0].unbind()


def step_rule(optimizer: Optimizer) -> StepRule | None:
    """Returns the rule of an optimizer, or None where there is none for its kind, its settings, or several groups."""
    if len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    simple = not any(group.get(setting) for setting in ("momentum", "weight_decay", "maximize", "amsgrad"))
    if type(optimizer) is SGD and simple:  # a subclass may step in another way
        return SgdRule()
    if type(optimizer) in (Adam, UnitAdam) and simple:
        assert isinstance(optimizer, Adam)
        return AdamRule(optimizer)
    return None
