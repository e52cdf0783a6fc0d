"""What observers see: the parts of an agent, read-only, and a sample of the inputs they are trained on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from metrics.rank import singular_values
from networks.activations import Activation, activation_named
from networks.network import Network
from networks.taps import Taps


class Trace(Protocol):
    """Norms of a recent update."""

    norms: dict[str, Tensor | int]


class Part(Protocol):
    """One trained part of an agent, as far as a measurement needs it."""

    network: Network
    initial: dict[str, Tensor]

    @property
    def trace(self) -> Trace:
        """Norms of one recent update."""
        ...


class Measurable(Protocol):
    """An agent, as far as a measurement needs it."""

    @property
    def parts(self) -> Mapping[str, Part]:
        """The trained parts by name."""
        ...

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns inputs of a part's network, or None when there are none yet."""
        ...


@dataclass(frozen=True)
class View:
    """One moment of a run.

    Attributes:
        step: The stream's step.
        task: The task that the agent was last told of.
        agent: Its parts and inputs; observers leave them as they are.
    """

    step: int
    task: int
    agent: Measurable


@dataclass(frozen=True)
class LayerView:
    """Activations of one hidden layer on the sample.

    Attributes:
        name: The layer's name.
        activation: Its non-linearity.
        pre: Pre-activations (n, U) or (n, U, H, W).
        post: Post-activations (n, copies * U, ...).
    """

    name: str
    activation: Activation
    activation_name: str
    pre: Tensor
    post: Tensor

    @cached_property
    def finite(self) -> bool:
        """Whether every activation is finite; a mask over units means nothing otherwise."""
        return bool(self.pre.isfinite().all() & self.post.isfinite().all())

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values of the post-activations as an (n, features) matrix, shared by the rank metrics."""
        return singular_values(self.post.flatten(1))


@dataclass(frozen=True)
class PartView:
    """One part at one moment.

    Attributes:
        name: The part's name.
        part: The part.
        layers: Hidden layers in forward order; empty without hidden layers or without inputs.
        reason: Why ``layers`` is empty, or "".
    """

    name: str
    part: Part
    layers: tuple[LayerView, ...]
    reason: str = ""


@contextmanager
def evaluation_mode(network: Network) -> Iterator[None]:
    """Puts a network into evaluation mode for the block and then back."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@torch.no_grad()
def view_part(name: str, part: Part, inputs: Tensor | None) -> PartView:
    """Runs a part's network on ``inputs`` in evaluation mode and keeps the activations.

    The taps of the training forward stay as they are.

    Args:
        name: The part's name.
        part: The part.
        inputs: (n, *input_shape), or None.
    """
    network = part.network
    if not network.units.layers:
        return PartView(name, part, (), "the network has no hidden layer")
    if inputs is None:
        return PartView(name, part, (), "there are no inputs yet")
    taps = Taps()
    with evaluation_mode(network):
        network(inputs, taps)
    layers = []
    for unit_layer in network.units.layers:
        activation = activation_named(unit_layer.activation)
        pre, post = taps.pre[unit_layer.name], taps.post[unit_layer.name]
        layers.append(LayerView(unit_layer.name, activation, unit_layer.activation, pre, post))
    return PartView(name, part, tuple(layers))
