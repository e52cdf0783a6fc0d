"""``measure`` and ``probe``: what a module is like now, without this project's loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.adopt.describing import UnitsOf, described
from plasticity.adopt.finding import Found, find_units
from plasticity.adopt.initial_values import Fresh, initialisers_of
from plasticity.adopt.network import AdoptedNetwork
from plasticity.adopt.optimizer import AdoptedOptimizer
from plasticity.adopt.tracing import Forward, as_it_was, tensors_in
from plasticity.metrics.catalogue import chosen
from plasticity.metrics.log_values import Measurements
from plasticity.metrics.metric import Metric
from plasticity.metrics.probe import ProbeObserver, ProbeSettings
from plasticity.metrics.view import Part, PartView, View, view_part
from plasticity.networks.spec import HeadSpec

Loss = Callable[[Tensor, Tensor], Tensor]
_PART = "module"
_ONE: Final = "inputs that are one tensor"


class Labelled(NamedTuple):
    """Examples with what is to be learned of them.

    Attributes:
        inputs: (n, ...).
        targets: (n, ...).
    """

    inputs: Any
    targets: Tensor


class Missing(ValueError):
    """Raised when a metric asks for what it was not given."""


class _Examples:
    """The examples that were given, and their loss; refused where they were not."""

    def __init__(self, inputs: Any, targets: Tensor | None, loss: Loss | None) -> None:
        self._inputs, self._targets, self._loss = inputs, targets, loss

    @property
    def objective(self) -> Callable[[Tensor, Labelled], tuple[Tensor, Mapping[str, Tensor]]]:
        """The loss as a function of outputs and examples."""
        loss = self._loss
        if loss is None or self._targets is None:
            raise Missing("loss=, a function of outputs and targets that returns the mean over examples, and targets=")
        return lambda outputs, batch: (loss(outputs, batch.targets), {})

    def latest(self, count: int) -> Labelled:
        """Returns the first examples, at most ``count``."""
        if self._targets is None:
            raise Missing("targets=")
        return Labelled(_first(self._inputs, count), self._targets[:count])


class _GivenPart:
    """A module as a metric sees the parts of an agent; what was not given is refused when it is asked for."""

    value_errors = None
    max_gradient_norm = None
    steps = 0

    def __init__(
        self, network: AdoptedNetwork, optimizer: Optimizer | None, initial: nn.Module | None, examples: _Examples
    ) -> None:
        self.network, self.examples = network, examples
        self._optimizer, self._initial = optimizer, initial

    @property
    def optimizer(self) -> Optimizer:
        """The one that was given."""
        if self._optimizer is None:
            raise Missing("optimizer=")
        return self._optimizer

    @property
    def initial(self) -> dict[str, Tensor]:
        """Parameters of the module that was given as the initial one."""
        if self._initial is None:
            raise Missing("initial=, the module as it was at the start (copy.deepcopy)")
        return {name: value.detach() for name, value in self._initial.named_parameters()}

    @property
    def trace(self) -> NoReturn:
        """Refused: it is of an update of this project's loop."""
        raise Missing("a traced update, which this project's own loop makes and a module alone does not have")


@dataclass(frozen=True)
class _Given:
    """One module and its inputs as an agent."""

    parts: Mapping[str, Part]
    inputs: Any

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns the first inputs, at most ``count``."""
        return _first(self.inputs, count)


def _first(inputs: Any, count: int) -> Tensor:
    """Returns the first inputs, at most ``count``; refused where they are several tensors."""
    if not isinstance(inputs, Tensor):
        raise Missing(_ONE)
    return inputs[:count]


def measure(
    module: nn.Module,
    inputs: Any,
    names: Sequence[str] = ("default",),
    *,
    forward: Forward | None = None,
    units: Sequence[UnitsOf] | None = None,
    optimizer: Optimizer | None = None,
    initial: nn.Module | None = None,
    targets: Tensor | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Measurements:
    """Measures metrics of a module on inputs, in evaluation mode; nothing of it is changed.

    Args:
        module: Any module whose forward can be traced.
        inputs: A batch of inputs: a tensor, a dict of tensors, or a tuple of several inputs; a thousand tell more than ten.
        names: Metrics of the catalogue, or the groups ``default`` and ``all``. Of a group those that need more than is given
            are left out; one that is named is refused without it.
        forward: As for ``adopt``.
        units: As for ``adopt``.
        optimizer: For metrics of its state. With what ``adopt`` returned for this module, it is traced in the first measurement
            alone, and the others take a fraction of its time.
        initial: The module as it was at the start, for distances from there.
        targets: For metrics of the loss.
        loss: The same: a function of outputs, several of them flattened and joined, and targets; the mean over examples.
        seed: From which the generators of sampled metrics are derived.

    Returns:
        ``<metric>`` for the value of all units together, and ``<metric>/<layer>`` for each layer. A value that does not exist is
        a NaN that carries its reason.

    Raises:
        ValueError: In one line: the module cannot be traced or fails on the inputs, a metric is unknown, or needs what was not
            given.
    """
    _require(module, inputs, names)
    metrics = chosen(list(names), "names")
    with _network(module, inputs, forward, None, units, optimizer) as network:
        if loss is not None and targets is not None:
            _require_loss(network, inputs, targets, loss)
        part = cast(Part, _GivenPart(network, optimizer, initial, _Examples(inputs, targets, loss)))
        with torch.random.fork_rng(_devices(module)), torch.no_grad():
            torch.manual_seed(seed)
            seen = view_part(_PART, part, inputs)
            return _measured(seen, metrics, names)


def _require_loss(network: AdoptedNetwork, inputs: Any, targets: Tensor, loss: Loss) -> None:
    """Raises ValueError if a loss is not a number, fails, or has not a target for each input."""
    rows = len(tensors_in(inputs)[0])
    if len(targets) != rows:
        raise ValueError(f"targets has {len(targets)} rows and inputs {rows}")
    with torch.no_grad(), network.evaluating():
        outputs = network(inputs)
        try:
            value = loss(outputs, targets)
        except Exception as error:  # of any kind: it is the user's code
            raise ValueError(
                f"loss= failed on outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}: {error}"
            ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss= must return a number, the mean over examples, and not {kind}")


def _measured(seen: PartView, metrics: Mapping[str, Metric], named: Sequence[str]) -> Measurements:
    """Returns the values of metrics by name and layer; those of a group that need more than there is are left out."""
    found: Measurements = {}
    for name, metric in metrics.items():
        try:
            values = metric.measure([seen])
        except (Missing, ValueError, AttributeError, TypeError) as error:
            if isinstance(error, AttributeError | TypeError):
                if isinstance(seen.inputs, Tensor):
                    raise
                error = Missing(_ONE)  # it takes rows of its inputs
            if name in named:
                raise ValueError(f"{name} needs more than a module and inputs: {error}") from error
            continue
        for suffix, value in values.items():
            key = f"{name}{suffix.removeprefix(f'/{_PART}')}"
            found[key] = float(value) if isinstance(value, Tensor) and value.ndim == 0 else value
    return found


def probe(
    module: nn.Module,
    inputs: Tensor,
    settings: ProbeSettings | None = None,
    *,
    forward: Forward | None = None,
    fresh: Fresh | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Trains copies of a module, and of a fresh one, on new targets: how well can it still learn?

    Args:
        module: Any module with one tensor as its input, whose forward can be traced.
        inputs: A batch of inputs, (n, ...).
        settings: Of the probe; None for its defaults.
        forward: As for ``adopt``; several outputs are flattened and joined.
        fresh: Builds the module again; None for the defaults of PyTorch's modules.
        seed: Of targets, batches and the fresh module.

    Returns:
        ``loss``, ``fresh_loss``, ``relative_loss``, ``explained_variance``, ``auc``, ``fresh_auc`` and what else the settings
        ask for; see ``plasticity.metrics.probe.ProbeObserver``.

    Raises:
        ValueError: In one line: the module cannot be traced, fails on the inputs, or cannot be built again.
    """
    _require(module, inputs, ())
    if not isinstance(inputs, Tensor):
        raise ValueError("probe: inputs must be one tensor")
    with _network(module, inputs, forward, fresh) as network:
        _require_double(network, inputs)
        part = cast(Part, _GivenPart(network, None, None, _Examples(inputs, None, None)))
        observer = ProbeObserver(settings or ProbeSettings(), seed)
        with torch.random.fork_rng(_devices(module)), torch.no_grad():
            values = observer.measure(View(0, 0, _Given({_PART: part}, inputs)))
    prefix = "probe/"
    found = {name.removeprefix(prefix): value for name, value in values.items() if name.count("/") == 1}
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _require_double(network: AdoptedNetwork, inputs: Tensor) -> None:
    """Raises ValueError if a module cannot run in float64, in which the targets of the probe are drawn."""
    exact = inputs.double() if inputs.is_floating_point() else inputs
    try:
        with torch.no_grad():
            deepcopy(network).double().eval()(exact[:2])
    except RuntimeError as error:
        raise ValueError(
            f"probe: the module does not run in float64, as it has to for the targets: {' '.join(str(error).split())}; cast what "
            "it reads to the type of its parameters, and not by float()"
        ) from error


def _require(module: nn.Module, inputs: Any, names: Sequence[str]) -> None:
    """Raises ValueError for arguments of another kind than is meant."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    if isinstance(names, str):
        raise ValueError(f"names={names!r} must be a list, [{names!r}]")
    tensors = tensors_in(inputs)
    if not tensors or any(each.ndim == 0 for each in tensors):
        raise ValueError(f"inputs must be a batch, a tensor, a dict or a tuple of tensors, not {type(inputs).__name__}")
    if len({len(each) for each in tensors}) > 1:
        raise ValueError(f"inputs have different numbers of rows: {', '.join(str(len(each)) for each in tensors)}")
    if len(tensors[0]) < 2:
        raise ValueError("inputs must hold two rows at least: most metrics compare them")


def _found(module: nn.Module, inputs: Any, forward: Forward | None, optimizer: Optimizer | None) -> Found:
    """Returns the units of a module; what an earlier measurement with the same adopted optimizer found, if there was one."""
    if not isinstance(optimizer, AdoptedOptimizer) or optimizer.network.module is not module:
        return find_units(module, inputs, forward, evaluated=True)
    trained, kept = tuple(each.requires_grad for each in module.parameters()), optimizer.evaluated
    if kept is None or kept[0] is not forward or kept[1] != trained:
        kept = optimizer.evaluated = forward, trained, find_units(module, inputs, forward, evaluated=True)
    return kept[2]


@contextmanager
def _network(
    module: nn.Module,
    inputs: Any,
    forward: Forward | None,
    fresh: Fresh | None,
    units: Sequence[UnitsOf] | None = None,
    optimizer: Optimizer | None = None,
) -> Iterator[AdoptedNetwork]:
    """Speaks for a module inside the block."""
    found = _found(module, inputs, forward, optimizer) if units is None else described(module, units, None)
    network = AdoptedNetwork(module, forward, found, initialisers_of(module, fresh, None), fresh, inputs)
    with as_it_was(module):  # a forward may change buffers in evaluation mode too, as a running mean of observations does
        try:
            with torch.no_grad(), network.evaluating():
                outputs = network(inputs)
            network.declare_outputs(HeadSpec("regression", outputs.shape[-1] if outputs.ndim > 1 else 1))
            yield network
        finally:
            network.recorder.remove()


def _devices(module: nn.Module) -> list[torch.device]:
    return list({value.device for value in module.parameters() if value.device.type == "cuda"})
