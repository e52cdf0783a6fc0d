"""The difference between an Adam step of restarted entries and that of a fresh Adam, for all parameters of a group together."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor

from plasticity.optimizers.restart_factors import RestartFactors

RESTARTED_AT: Final = "restarted_at"
UNTIL: Final = "restart_matters_until_update"
_LARGE: Final = 2**14
_MANY: Final = 4
State = dict[str, Any]


class RestartCorrection:
    """Corrects steps of one parameter group of Adam, for the restarts that exist when this is built.

    With moments m and v after the step and its own count k, an entry should move by

        lr m scale(k) / (sqrt(v) + epsilon(k)),  scale(k) = sqrt(1 - b2^k) / (1 - b1^k),  epsilon(k) = eps sqrt(1 - b2^k),

    which is algorithm 1 of Kingma & Ba 2015 with sqrt(1 - b2^k) taken out of the fraction. The fused step has used the count t of
    the tensor; the parameter gets the difference. The factors are one vector for all parameters, over units rather than entries.
    Parameters are joined into one vector, since small ones cost by the number of operations, and on the CPU, where the host may
    read values, only restarted entries are gathered if they are few. Otherwise a large parameter whose restarts are all by row,
    or all by column, is corrected in place, where its factors broadcast. An entry that was never restarted has the factors of t,
    to the last bit, and so a difference of exactly 0.

    Args:
        group: A parameter group.
        state: The optimizer's state.
    """

    def __init__(self, group: dict[str, Any], state: Mapping[Tensor, State]) -> None:
        self._group, self._state = group, state
        self._members = [entry for entry in group["params"] if state.get(entry, {}).get(UNTIL, 0) >= group["updates"]]
        self._states = [state[parameter] for parameter in self._members]
        self._until = max((own[UNTIL] for own in self._states), default=-1)
        if not self._members:
            return
        parts = [_Part.of(parameter, state[parameter]) for parameter in self._members]
        self._factors = RestartFactors(group["betas"], group["eps"], [part.restarts for part in parts])
        numbered = list(zip(range(len(parts)), parts, self._factors.starts, strict=True))
        joined = [entry for entry in numbered if not entry[1].large]
        self._joined = _Joined(joined, self._factors.restarted) if joined else None
        self._large = [entry for entry in numbered if entry[1].large]

    def matches(self, group: dict[str, Any], state: Mapping[Tensor, State]) -> bool:
        """Whether it was built for this group and state, which loading a checkpoint replaces."""
        return self._group is group and self._state is state

    @torch.no_grad()
    def apply(self, refused: Tensor | None) -> None:
        """Corrects the step just made by parameters with a ``grad``; changes nothing if ``refused`` is given and not 0."""
        updates, rate = self._group["updates"], self._group["lr"]
        if self._until < updates:
            return
        moved = [
            parameter.grad is not None and own[UNTIL] >= updates
            for parameter, own in zip(self._members, self._states, strict=True)
        ]
        scales, epsilons = self._factors.at([own["step"] for own in self._states])
        if refused is not None:
            # In that case there was no step, and a count of 0 may have factors that are not numbers.
            scales, epsilons = torch.where(refused == 0, scales, 1.0), torch.where(refused == 0, epsilons, 1.0)
        if self._joined is not None:
            self._joined.correct(scales, epsilons, self._factors.shared(), moved, rate)
        for index, part, start in self._large:
            if moved[index]:
                part.correct(scales, epsilons, index, start, rate)


class _Part(NamedTuple):
    """What is corrected of one parameter.

    Attributes:
        parameter: The parameter.
        state: Adam's state of it.
        restarts: Its vectors of restarts.
        large: Whether it is corrected in place.
    """

    parameter: Tensor
    state: State
    restarts: list[Tensor]
    large: bool

    @classmethod
    def of(cls, parameter: Tensor, state: State) -> Self:
        """Checks, on the CPU alone, where reading does not wait, whether much of a large parameter was restarted."""
        restarts, on_host = list(state[RESTARTED_AT].values()), parameter.device.type == "cpu"
        if on_host:  # a compiled step makes vectors of entries that were never restarted
            restarts = [vector for vector in restarts if bool(vector.any())] or restarts[:1]
        large = len(restarts) == 1 and parameter.numel() >= _LARGE and on_host
        return cls(parameter, state, restarts, large and _MANY * int(restarts[0].count_nonzero()) > restarts[0].numel())

    def correct(self, scales: Tensor, epsilons: Tensor, index: int, start: int, rate: float) -> None:
        """Corrects the parameter in place; its own factors begin at ``start``, and the plain ones are at ``index``."""
        restarts = self.restarts[0]
        scale, epsilon = (row[start : start + restarts.numel()].view(restarts.shape) for row in (scales, epsilons))
        difference = _difference(self.state["exp_avg_sq"].sqrt(), scale, epsilon, scales[index], epsilons[index])
        self.parameter.sub_(difference.mul_(self.state["exp_avg"]), alpha=rate)


class _Joined:
    """Parameters that are corrected as one vector.

    Args:
        numbered: Index of each, what is corrected of it, and the number of its first factor.
        restarted: Whether a factor is of a restart, by number.
    """

    def __init__(self, numbered: Sequence[tuple[int, _Part, int]], restarted: Tensor) -> None:
        self._numbers, self._parts = [index for index, _, _ in numbered], [part for _, part, _ in numbered]
        latest = [_latest(part.restarts, start).expand(part.parameter.shape).flatten() for _, part, start in numbered]
        self._own = torch.cat(latest)
        self._plain = torch.cat([torch.full_like(own, index) for own, index in zip(latest, self._numbers, strict=True)])
        self._differences = self._parts[0].parameter.new_zeros(len(self._own))
        pieces = self._differences.split([len(own) for own in latest])
        self._pieces = [piece.view(part.parameter.shape) for piece, part in zip(pieces, self._parts, strict=True)]
        # A view stays valid; a tensor in channels-last layout has none.
        self._views = {name: [_view(part.state[name]) for part in self._parts] for name in ("exp_avg", "exp_avg_sq")}
        self._few: Tensor | None = None
        if self._own.device.type == "cpu":
            few = restarted.index_select(0, self._own).nonzero().flatten()
            if _MANY * len(few) < len(self._own):
                self._few, self._own, self._plain = few, self._own[few], self._plain[few]

    def correct(self, scales: Tensor, epsilons: Tensor, shared: bool, moved: Sequence[bool], rate: float) -> None:
        """Corrects the parameters that ``moved``; ``shared`` means that all have the same count."""
        scale, epsilon = scales.index_select(0, self._own), epsilons.index_select(0, self._own)
        plain_scale = scales[0] if shared else scales.index_select(0, self._plain)
        plain_epsilon = epsilons[0] if shared else epsilons.index_select(0, self._plain)
        difference = _difference(self._joined("exp_avg_sq").sqrt_(), scale, epsilon, plain_scale, plain_epsilon)
        difference.mul_(self._joined("exp_avg"))
        if self._few is None:
            self._differences.copy_(difference)
        else:
            self._differences.index_copy_(0, self._few, difference)
        own = zip(self._numbers, self._parts, self._pieces, strict=True)
        pairs = [(part.parameter, piece) for index, part, piece in own if moved[index]]
        if pairs:
            torch._foreach_sub_([pair[0] for pair in pairs], [pair[1] for pair in pairs], alpha=rate)

    def _joined(self, name: str) -> Tensor:
        """Returns the entries to correct of a moment of all parameters."""
        views = zip(self._parts, self._views[name], strict=True)
        joined = torch.cat([part.state[name].flatten() if view is None else view for part, view in views])
        return joined if self._few is None else joined.index_select(0, self._few)


def _view(values: Tensor) -> Tensor | None:
    return values.view(-1) if values.is_contiguous() else None


def _difference(root: Tensor, scale: Tensor, epsilon: Tensor, plain_scale: Tensor, plain_epsilon: Tensor) -> Tensor:
    """Returns scale(k) / (root + epsilon(k)) - scale(t) / (root + epsilon(t)); ``root`` is overwritten."""
    right = root + epsilon
    torch.div(scale, right, out=right)
    # Both quotients are made of operations that round once, or the difference of entries never restarted would not be 0.
    return right.addcdiv_(plain_scale, root.add_(plain_epsilon), value=-1.0)


def _latest(restarts: Sequence[Tensor], start: int) -> Tensor:
    """Returns for every entry the number of the latest restart that concerns it, counting those of the vectors from ``start``."""
    latest, chosen = restarts[0], torch.zeros((), dtype=torch.int64, device=restarts[0].device)
    for vector in restarts:
        numbers = torch.arange(start, start + vector.numel(), device=vector.device).view(vector.shape)
        chosen, latest = torch.where(vector >= latest, numbers, chosen), torch.maximum(vector, latest)
        start += vector.numel()
    return chosen
