"""What an agent requires of a replay, whether it draws uniformly, by age or by priority."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from plasticity.agents.replay.age_weights import AgeWeights
from plasticity.agents.replay.buffer import ReplayBatch
from plasticity.envs.experience import Transitions


class TransitionMemory(Protocol):
    """Keeps the latest transitions and draws minibatches of them."""

    @property
    def size(self) -> int:
        """Transitions held."""
        ...

    @property
    def total(self) -> int:
        """Transitions ever added since it was empty."""
        ...

    @property
    def age_weights(self) -> AgeWeights | None:
        """What transitions are drawn in proportion to, apart from priorities; None if nothing depends on their age."""
        ...

    def add(self, transitions: Transitions) -> None:
        """Appends one transition of each environment, overwriting the oldest when full."""
        ...

    def sample(self, count: int, generator: torch.Generator, beta: float) -> ReplayBatch:
        """Draws ``count`` transitions to learn from; raises ValueError if there are none.

        Args:
            count: Number of transitions.
            generator: On the memory's device.
            beta: How far importance weights correct for priorities, in [0, 1]; without priorities all weights are 1.
        """
        ...

    def sample_uniformly(self, count: int, generator: torch.Generator) -> ReplayBatch:
        """Draws ``count`` transitions, all equally likely; raises ValueError if there are none."""
        ...

    def set_priorities(self, rows: Tensor, priorities: Tensor) -> None:
        """Sets the priorities of (B,) rows that were sampled since the last addition; nothing happens where there are none."""
        ...

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns everything that it holds; with a folder, transitions are in files there."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned, with the folder that it was given."""
        ...
