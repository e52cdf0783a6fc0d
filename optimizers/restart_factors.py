"""The factors of Adam's bias correction for entries with their own step counts."""

from collections.abc import Sequence
from math import log
from typing import Final

import torch
from torch import Tensor

_AHEAD: Final = 16


class RestartFactors:
    """scale(k) = sqrt(1 - b2^k) / (1 - b1^k) and epsilon(k) = eps sqrt(1 - b2^k) for the counts k of some parameters' entries.

    The factors are numbered: first those of each parameter's own count, then those of its vectors of restarts, one parameter's
    after the other's. Where a vector holds 0, never restarted, the factors are those of the parameter's own count, bit for bit.
    On the CPU the host can follow the counts, and factors are computed for several steps ahead in the same few operations.

    Args:
        betas: Decay rates of both moments, in [0, 1).
        eps: Adam's.
        vectors: For each parameter its vectors of restarts: the parameter's count when an entry was restarted, 0 for never.

    Attributes:
        starts: For each parameter the number of the first factor of its vectors.
        restarted: Whether a factor is that of a restart, (F,).
    """

    def __init__(self, betas: Sequence[float], eps: float, vectors: Sequence[Sequence[Tensor]]) -> None:
        like, count = vectors[0][0], len(vectors)
        lengths = [sum(vector.numel() for vector in own) for own in vectors]
        self.starts = [count + sum(lengths[:index]) for index in range(count)]
        self._at = torch.cat([like.new_zeros(count), *(vector.flatten() for own in vectors for vector in own)])
        owners = torch.arange(count, device=like.device)
        self._owner = torch.cat([owners, *(owners[index].expand(length) for index, length in enumerate(lengths))])
        self.restarted = self._at > 0
        self._betas, self._eps, self._on_host = betas, eps, like.device.type == "cpu"
        self._steps_ahead = torch.arange(_AHEAD if self._on_host else 1, device=like.device).unsqueeze(1)
        self._first: list[float] = []
        self._computed: list[tuple[Tensor, Tensor]] = []

    def at(self, steps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns all scales, (F,), and all epsilons.

        Args:
            steps: Count of each parameter, 0-dim.
        """
        if not self._on_host:
            return self._compute(steps)[0]
        now = [float(step) for step in steps]
        ahead = int(now[0] - self._first[0]) if self._first else _AHEAD
        if not 0 <= ahead < _AHEAD or now != [first + ahead for first in self._first]:
            self._first, ahead = now, 0
            self._computed = self._compute(steps)
        return self._computed[ahead]

    def shared(self) -> bool:
        """Whether it is known that all parameters had the same count in the last call of ``at``."""
        return self._on_host and len(set(self._first)) == 1

    def _compute(self, steps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        counts = torch.stack(list(steps)).to(self._at.device, self._at.dtype).index_select(0, self._owner).sub_(self._at)
        factors = torch.stack(bias_factors(counts + self._steps_ahead, self._betas, self._eps))
        scales, epsilons = torch.where(self.restarted, factors, factors.index_select(2, self._owner))
        return list(zip(scales.unbind(), epsilons.unbind(), strict=True))


def bias_factors(counts: Tensor, betas: Sequence[float], eps: float) -> tuple[Tensor, Tensor]:
    """Returns scale(k) and epsilon(k), see ``RestartFactors``, in the shape of the counts k, which are at least 1."""
    first, second = (torch.expm1(counts * log_of(beta)).neg() for beta in betas)  # 1 - b^k
    root = second.sqrt()
    return root / first, root * eps


def log_of(beta: float) -> float:
    """Returns log beta, -inf for 0."""
    return log(beta) if beta > 0 else -float("inf")
