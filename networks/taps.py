"""Taps: the activations of the training forward, kept for whoever asks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class Taps:
    """Holds the latest recorded activations of a network, by hidden layer name.

    Attributes:
        pre: Pre-activations, what the non-linearity received: (B, U) or (B, U, H, W), detached.
        post: Post-activations: (B, copies * U) or (B, copies * U, H, W), detached.
    """

    def __init__(self) -> None:
        self.recording = False
        self.pre: dict[str, Tensor] = {}
        self.post: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Taps":
        """A copied network gets empty taps of its own, so that its forward never writes into the original's."""
        return Taps()

    def store(self, name: str, pre: Tensor, post: Tensor) -> None:
        """Keeps one layer's activations."""
        self.pre[name] = pre.detach()
        self.post[name] = post.detach()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Records every forward inside the block; the last one stays readable afterwards."""
        before, self.recording = self.recording, True
        try:
            yield
        finally:
            self.recording = before
