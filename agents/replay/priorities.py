"""Prioritised sampling from a replay (Schaul et al. 2016, "Prioritized experience replay")."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.agents.replay.buffer import Replay, ReplayBatch
from plasticity.envs.experience import Transitions
from plasticity.settings.fields import require_range

_WIDTH: Final = 64  # few levels, since what counts is the number of operations


class SumTree:
    """Non-negative numbers with sums for drawing one in proportion; each node has 64 children.

    A node keeps the running sums of its children, so that one search per level finds a leaf. All operations are batched, and none
    of them waits for the device.

    Args:
        size: Number of leaves.
        device: Where they are.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self._values: list[Tensor] = []  # by level, leaves first: (nodes * width,), padded with zeros
        self._sums: list[Tensor] = []  # (nodes, width + 1), each row from 0 to the node's value
        while not self._values or size > 1:
            size = -(-size // _WIDTH)
            self._values.append(torch.zeros(size * _WIDTH, dtype=torch.float64, device=device))
            self._sums.append(torch.zeros((size, _WIDTH + 1), dtype=torch.float64, device=device))

    @property
    def total(self) -> Tensor:
        """Sum of all leaves, 0-dim."""
        return self._sums[-1][0, -1]

    def read(self, leaves: Tensor) -> Tensor:
        """Returns the (B,) values of (B,) leaves."""
        return self._values[0].index_select(0, leaves)

    def write(self, leaves: Tensor, values: Tensor) -> None:
        """Sets (B,) leaves to (B,) values, to the largest where a leaf occurs more than once; the same on every device."""
        self._values[0].index_fill_(0, leaves, 0).scatter_reduce_(0, leaves, values.to(torch.float64), "amax")
        for level, sums in enumerate(self._sums):
            leaves = leaves // _WIDTH
            children = self._values[level].view(-1, _WIDTH).index_select(0, leaves)
            # A device may round running sums so that they fall, or rise at a child of value zero: there they must stay.
            running = torch.where(children > 0, children.cumsum(1), 0).cummax(1).values
            sums[:, 1:].index_copy_(0, leaves, running)
            if level + 1 < len(self._values):
                self._values[level + 1].index_copy_(0, leaves, running[:, -1])

    def find(self, fractions: Tensor) -> Tensor:
        """Returns the (B,) leaves at (B,) float64 ``fractions`` in [0, 1) of the total, never one of value zero if any is not."""
        targets = (fractions * self.total).unsqueeze(1)
        nodes, zero = torch.zeros_like(fractions, dtype=torch.int64), torch.zeros_like(targets)
        for level in reversed(range(len(self._sums))):
            sums = self._sums[level].index_select(0, nodes)
            targets = torch.minimum(targets, sums[:, -1:].nextafter(zero))  # rounding may have put it at the end or beyond
            child = torch.searchsorted(sums, targets, right=True) - 1
            targets = targets - sums.gather(1, child)
            last = (self._sums[level - 1].shape[0] if level else self.size) - 1
            nodes = (nodes * _WIDTH + child.squeeze(1)).clamp_(max=last)
        return nodes

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of values and sums; recomputed sums might be rounded differently."""
        return {"values": [level.clone() for level in self._values], "sums": [level.clone() for level in self._sums]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        for name, levels in (("values", self._values), ("sums", self._sums)):
            for level, saved in zip(levels, state[name], strict=True):
                level.copy_(saved)


class Priorities:
    """How likely each row of a replay is to be drawn.

    P(i) = (1 - u) p_i^alpha / sum of p^alpha + u / size, with a part u drawn uniformly. Rows that were just filled have the
    largest priority recorded so far, 1 before the first.

    Args:
        capacity: Number of rows.
        device: Device of the priorities.
        alpha: Exponent, in [0, 1]; 0 is uniform.
        uniform_fraction: u, in [0, 1].
        stratified: Whether a batch of B takes one draw from each B-th of the total, as in the paper, instead of independent ones.

    Attributes:
        largest: The largest priority recorded, before the exponent; 0-dim.
    """

    def __init__(
        self, capacity: int, device: torch.device, alpha: float = 0.5, uniform_fraction: float = 0.0, stratified: bool = True
    ) -> None:
        require_range("agent.priority_exponent", alpha, 0, 1)
        require_range("agent.priority_uniform_fraction", uniform_fraction, 0, 1)
        self.alpha, self.uniform_fraction, self.stratified = alpha, uniform_fraction, stratified
        self.tree = SumTree(capacity, device)
        self.largest = torch.ones((), dtype=torch.float64, device=device)

    def fill(self, rows: Tensor) -> None:
        """Gives (B,) rows the largest priority recorded."""
        self.tree.write(rows, (self.largest**self.alpha).expand(rows.shape[0]))

    def update(self, rows: Tensor, priorities: Tensor) -> None:
        """Sets the priorities of (B,) rows to (B,) finite numbers of at least 0, such as absolute errors.

        Where a row occurs more than once, its largest priority counts.
        """
        priorities = priorities.detach().to(torch.float64)
        self.largest = torch.maximum(self.largest, priorities.amax())
        self.tree.write(rows, torch.where(priorities > 0, priorities**self.alpha, 0))

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Returns (count,) rows of the ``size`` that are filled, with a generator on the priorities' device."""
        device = self.largest.device
        fractions = torch.rand(count, dtype=torch.float64, generator=generator, device=device)
        if self.stratified:
            fractions = (fractions + torch.arange(count, device=device)) / count
        rows = self.tree.find(fractions)
        if self.uniform_fraction == 0:
            return rows
        uniform = torch.rand(count, generator=generator, device=device) < self.uniform_fraction
        return torch.where(uniform, torch.randint(size, (count,), generator=generator, device=device), rows)

    def weights(self, rows: Tensor, size: int, beta: float) -> Tensor:
        """Returns the (B,) float32 importance weights (size P(i))^-beta, divided by the largest of them.

        Args:
            rows: (B,) rows that were drawn.
            size: Number of rows filled.
            beta: Exponent, in [0, 1]; 1 corrects the bias in full.
        """
        chances = (1 - self.uniform_fraction) * self.tree.read(rows) / self.tree.total + self.uniform_fraction / size
        weights = (size * chances) ** -beta
        return (weights / weights.amax()).float()

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of all priorities and sums."""
        return {"tree": self.tree.state_dict(), "largest": self.largest.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.tree.load_state_dict(state["tree"])
        self.largest = state["largest"].to(self.largest.device, copy=True)


class PrioritisedReplay:
    """A replay whose rows are drawn by priority.

    Args:
        replay: Holds the transitions; add them here, not there.
        priorities: Of as many rows, on the replay's device.

    Raises:
        ValueError: If the two do not fit together, or a method weighs samples by age.
    """

    def __init__(self, replay: Replay, priorities: Priorities) -> None:
        if replay.capacity != priorities.tree.size:
            raise ValueError(f"priorities of {priorities.tree.size} rows do not fit a replay of {replay.capacity}")
        if replay.age_weights is not None:
            raise ValueError(
                f"{next(iter(replay.age_weights.methods))} draws transitions by age, and agent.prioritised=true by priority; "
                "choose agent.prioritised=false"
            )
        self.replay, self.priorities = replay, priorities
        self.age_weights = None

    @property
    def size(self) -> int:
        """Transitions held."""
        return self.replay.size

    @property
    def total(self) -> int:
        """Transitions ever added."""
        return self.replay.total

    def add(self, transitions: Transitions) -> None:
        """Appends one transition of each environment, with the largest priority recorded; see ``Replay.add``."""
        first = self.replay.total
        self.replay.add(transitions)
        rows = torch.arange(first, self.replay.total, device=self.replay.device) % self.replay.capacity
        self.priorities.fill(rows)

    def sample(self, count: int, generator: torch.Generator, beta: float) -> ReplayBatch:
        """Draws ``count`` transitions by priority, with a generator on the replay's device, and weighs them; see ``Priorities``.

        Raises:
            ValueError: If the replay is empty.
        """
        if self.size == 0:
            raise ValueError("the replay is empty")
        rows = self.priorities.draw(count, self.size, generator)
        return self.replay.batch(rows)._replace(weights=self.priorities.weights(rows, self.size, beta))

    def sample_uniformly(self, count: int, generator: torch.Generator) -> ReplayBatch:
        """Draws ``count`` transitions, all equally likely; see ``Replay.sample_uniformly``."""
        return self.replay.sample_uniformly(count, generator)

    def set_priorities(self, rows: Tensor, priorities: Tensor) -> None:
        """Sets the priorities of rows that were sampled since the last addition; see ``Priorities.update``."""
        self.priorities.update(rows, priorities)

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns transitions and priorities; with a folder the former as files, see ``Replay.state_dict``."""
        return {"replay": self.replay.state_dict(folder), "priorities": self.priorities.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned, with the folder that it was given."""
        self.replay.load_state_dict(state["replay"], folder)
        self.priorities.load_state_dict(state["priorities"])
