"""The one interface through which reinforcement and supervised learners get their data."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from plasticity.envs.experience import Examples, Experience


class Stream(Protocol):
    """An endless source of experience.

    An environment stream calls ``act`` to choose its actions; a data stream ignores it. That single choice lets every
    kind of learner share one loop.
    """

    @property
    def step(self) -> int:
        """Progress: environment steps over all environments so far, or minibatches of a data stream."""
        ...

    @property
    def task(self) -> int:
        """The announced task of the latest experience; 0 while task switches are hidden."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one observation or example, without the batch axis."""
        ...

    @property
    def input_dtype(self) -> torch.dtype:
        """Dtype of observations or inputs; uint8 means values from 0 to 255."""
        ...

    def advance(self, act: Callable[[Tensor], Tensor]) -> Experience:
        """Advances by one step and returns what was observed.

        Args:
            act: maps observations (N, *input_shape) to actions, (N,) int64 or (N, A) float32.
        """
        ...

    def peek(self, count: int) -> Examples:
        """Returns up to ``count`` examples of the task of the next minibatch, in the order in which they will come.

        Nothing is moved: neither the place in the stream nor any generator.

        Args:
            count: at least 1; fewer are returned where the epoch has fewer left.

        Raises:
            ValueError: the stream has nothing to show before it is acted in.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors, numbers, strings and containers of them: all that ``load_state_dict`` needs to continue."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state saved by a stream that was built with the same settings."""
        ...

    def close(self) -> None:
        """Releases environments, processes and files."""
        ...
