"""What observers see: the parts of an agent, read-only, and a sample of the inputs they are trained on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.metrics.draws import Draws
from plasticity.metrics.measures.activity import dormancy_scores, firing_rates
from plasticity.metrics.measures.rank import singular_values
from plasticity.metrics.measures.sides import averaged_rates
from plasticity.metrics.undefined import Undefined
from plasticity.networks.layers.activations import Activation, activation_named
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch, Objective
from plasticity.networks.taps import Taps

# Beyond this much work, n * d * min(n, d), ranks are taken of the first RANK_INPUTS inputs: the layers are those of large
# convolutions, which have more features than there are inputs in practice, so that their ranks depend on the number of inputs
# anyway.
RANK_WORK_LIMIT: Final = 2e9
RANK_INPUTS: Final = 512

_Shared = TypeVar("_Shared")


class Trace(Protocol):
    """A recent update: norms, and the network's outputs for some inputs before and after it; see ``plasticity.updates.trace``."""

    norms: dict[str, Tensor | int]
    details: dict[str, Tensor]
    outputs: tuple[Tensor, Tensor] | None


class KeptExamples(Protocol):
    """The latest examples that a part learned from."""

    @property
    def objective(self) -> Objective[Any] | None:
        """Maps outputs and a batch to the loss, the mean over the examples of the batch; None if there is none."""
        ...

    def latest(self, count: int) -> Batch | None:
        """Returns the latest examples, at most ``count``, as a named tuple with a field ``inputs``; None before the first."""
        ...


class Part(Protocol):
    """One trained part of an agent, as far as a measurement needs it.

    Attributes:
        value_errors: How it learns values that are categoricals; see ``plasticity.updates.updater.Updater``.
        max_gradient_norm: Bound of the joint gradient norm, or None.
        steps: Updates so far.
    """

    network: Network
    initial: dict[str, Tensor]
    optimizer: Optimizer
    max_gradient_norm: float | None
    value_errors: Callable[[Tensor, Tensor], Tensor] | None
    steps: int

    @property
    def trace(self) -> Trace:
        """One recent update."""
        ...

    @property
    def examples(self) -> KeptExamples:
        """What it learned from."""
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
        task: The last task that was announced to the agent.
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
        activation_name: The name of the non-linearity.
        pre: Pre-activations (n, U) or (n, U, H, W).
        post: Post-activations (n, copies * U, ...).
        pooled: Whether its units count where the units of all layers are taken together: all that have a non-linearity do,
            whether they can be reset one by one or not. A residual stream that is only a sum of layers' outputs has none, and
            counts if ``metrics.pool_streams`` is set.
    """

    name: str
    activation: Activation
    activation_name: str
    pre: Tensor
    post: Tensor
    pooled: bool = True

    @cached_property
    def finite(self) -> bool:
        """Whether every activation is finite; a mask over units means nothing otherwise."""
        # A maximum is NaN if an entry is; this is much faster than a test of every entry.
        ends = torch.stack([end for activations in (self.pre, self.post) for end in activations.aminmax()])
        return bool(ends.isfinite().all())

    @cached_property
    def scores(self) -> Tensor:
        """Dormancy scores of the post-activations, shared by the thresholds."""
        return dormancy_scores(self.post)

    @cached_property
    def rates(self) -> Tensor | Undefined:
        """The firing rate of each unit, or why there is none."""
        if not self.activation.threshold:
            return Undefined(f"{self.activation_name} has no firing threshold")
        return firing_rates(self.pre)

    @cached_property
    def rank_features(self) -> Tensor:
        """Post-activations as an (n, features) matrix, of fewer inputs where all would take too long."""
        n, d = len(self.post), self.post[0].numel()
        too_much = n * d * min(n, d) > RANK_WORK_LIMIT
        return (self.post[:RANK_INPUTS] if too_much else self.post).flatten(1)

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values of ``rank_features``, shared by the rank metrics."""
        return singular_values(self.rank_features)


@dataclass(frozen=True)
class Remembered:
    """What is kept of a part from one measurement to the next.

    Attributes:
        inputs: Some of the sample, (n, *input_shape).
        features: Post-activations of its feature layers on these, (n, features), by layer.
        rates: Exponentially averaged firing rates, (U,), by layer.
        updates: Updates of the part by then.
    """

    inputs: Tensor
    features: dict[str, Tensor]
    rates: dict[str, Tensor]
    updates: int


@dataclass(frozen=True)
class PartView:
    """One part at one moment.

    Attributes:
        name: The part's name.
        part: The part.
        layers: Hidden layers in forward order; empty without hidden layers or without inputs.
        reason: Why ``layers`` is empty, or "".
        inputs: The sample, or None.
        outputs: The head's outputs for it, or None without layers.
        earlier: What was kept at the measurement before, if there was one.
        draws: What metrics draw at random.
    """

    name: str
    part: Part
    layers: tuple[LayerView, ...]
    reason: str = ""
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    earlier: Remembered | None = None
    draws: Draws = field(default_factory=Draws)
    _shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, key: str, compute: Callable[["PartView"], _Shared]) -> _Shared:
        """Returns the result of ``compute`` for this view, computed once, for the first metric that requests ``key``."""
        if key not in self._shared:
            self._shared[key] = compute(self)
        return cast(_Shared, self._shared[key])

    @cached_property
    def feature_layers(self) -> tuple[LayerView, ...]:
        """The layers that the head reads: one for each stream of a dueling head and for each member of an ensemble."""
        read = self.part.network.feature_layers
        return tuple(layer for layer in self.layers if layer.name in read) or self.layers[-1:]


def averages_of(view: PartView) -> dict[str, Tensor]:
    """Returns the exponentially averaged firing rates, (U,), of the layers that have rates; see ``averaged_rates``.

    They start at 0.5 with the part's first update. A layer that is not finite keeps the average that it had.
    """
    updates = view.part.steps - (view.earlier.updates if view.earlier else 0)
    before = view.earlier.rates if view.earlier else {}
    averages: dict[str, Tensor] = {}
    for layer in view.layers:
        if not isinstance(layer.rates, Undefined):
            start = before.get(layer.name, torch.full_like(layer.rates, 0.5))
            averages[layer.name] = averaged_rates(start, layer.rates, updates) if layer.finite else start
    return averages


@torch.no_grad()
def activations_on(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    """Returns the post-activations of all layers on inputs (n, *input_shape), in evaluation mode."""
    taps = Taps()
    with network.evaluating():
        network(inputs, taps)
    return taps.post


@torch.no_grad()
def view_part(
    name: str,
    part: Part,
    inputs: Tensor | None,
    earlier: Remembered | None = None,
    pool_streams: bool = False,
    draws: Draws | None = None,
) -> PartView:
    """Runs a part's network on ``inputs`` in evaluation mode and keeps the activations.

    The taps of the training forward stay as they are.

    Args:
        name: The part's name.
        part: The part.
        inputs: (n, *input_shape), or None.
        earlier: What was kept of the part.
        pool_streams: Whether residual streams without a non-linearity count where the units of all layers are taken together.
        draws: What metrics draw at random; None for the default settings and seed 0.
    """
    network, draws = part.network, draws or Draws()
    if not network.units.layers:
        return PartView(name, part, (), "the network has no hidden layer", inputs, None, earlier, draws)
    if inputs is None:
        return PartView(name, part, (), "there are no inputs yet", inputs, None, earlier, draws)
    taps = Taps()
    with network.evaluating():
        outputs = network(inputs, taps)
    activations = {layer.name: layer.activation for layer in network.units.layers}
    streams = {layer.name: layer.activation for layer in network.units.excluded}
    layers = []
    for tapped, pre in taps.pre.items():  # in forward order
        kind = activations.get(tapped) or streams.get(tapped)
        if kind is None:
            continue
        is_sum = tapped in streams and kind == "identity"
        layers.append(LayerView(tapped, activation_named(kind), kind, pre, taps.post[tapped], pool_streams or not is_sum))
    return PartView(name, part, tuple(layers), "", inputs, outputs, earlier, draws)
