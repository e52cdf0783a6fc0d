"""Taps: the activations of the training forward, kept for methods and metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class Taps:
    """Holds the latest recorded activations of a network, by hidden layer name.

    Attributes:
        pre: Pre-activations, what the non-linearity received: (B, U) or (B, U, H, W), detached.
        post: Post-activations: (B, copies * U) or (B, copies * U, H, W), detached.
        live: The same with their graph, if ``keeps_graph``.
        keeps_graph: Whether post-activations are kept with their graph as well, until ``live`` is cleared.
    """

    def __init__(self, keeps_graph: bool = False) -> None:
        self.recording, self.keeps_graph = False, keeps_graph
        self.live: dict[str, Tensor] = {}
        self.pre: dict[str, Tensor] = {}
        self.post: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Taps":
        """A copied network gets empty taps of its own, so that its forward never writes into the original's."""
        return Taps()

    def store(self, name: str, pre: Tensor, post: Tensor) -> None:
        """Keeps one layer's activations."""
        self.pre[name] = pre.detach()
        self.post[name] = post.detach()
        if self.keeps_graph:
            self.live[name] = post

    @contextmanager
    def record(self) -> Iterator[None]:
        """Records every forward inside the block; the last one stays readable afterwards."""
        before, self.recording = self.recording, True
        try:
            yield
        finally:
            self.recording = before
