"""The ``metric`` decorator, and how values of layers become one value.

A metric is a function in a file of its own, or among others:

    from plasticity.metrics.metric import metric

    @metric("negative_share", unit="share of pre-activations below 0", direction="falls", cost="one pass")
    def negative_share(layer):
        return (layer.pre < 0).float().mean()

With ``plugins=[my_file.py] metrics.names=[default,negative_share]`` a run logs ``plasticity/negative_share/<part>/<layer>`` for
every layer, and the pooled value ``plasticity/negative_share``. What the function is called with, what it returns and how its
values are pooled is set by ``of``, see ``metric``. A measurement changes nothing: gradients are off and generators are forked. A
value that does not exist is an ``Undefined`` with its reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from plasticity.metrics.log_values import Array, Matrix, Series
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView
from plasticity.networks.network import Network
from plasticity.settings.fields import require_choice
from plasticity.settings.registry import Registry

GROUP_NAMES: Final = ("default", "all")
Number = Tensor | float
Measured = dict[str, Number | Matrix | Array | Series]
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue.

    Attributes:
        description: One line.
        range: Possible values; "" where none are stated.
        direction: What a loss of plasticity does to it.
        cost: What one measurement costs.
        measure: Returns values by suffix: "" for the pooled one, ``/<part>/<layer>`` for the others.
        default: Whether it is measured unless metrics are asked for by name.
        remembers: Whether it compares with the measurement before.
    """

    description: str
    range: str
    direction: str
    cost: str
    measure: Callable[[Sequence[PartView]], Measured]
    default: bool
    remembers: bool

    @property
    def line(self) -> str:
        """Its line in ``list=metrics``."""
        return " ".join(filter(None, (self.description, self.range and f"Range {self.range}.", f"Cost: {self.cost}.")))


CATALOGUE: Final = Registry[Metric](
    "metric",
    "plasticity.metrics.groups",
    in_order=[
        f"plasticity.metrics.groups.{group}_metrics"
        for group in ("activity", "firing", "feature", "output", "parameter", "update", "loss", "curvature", "predictor")
    ],
    numbers=True,
)


def metric(
    name: str,
    *,
    direction: str,
    cost: str,
    unit: str = "",
    range: str = "",
    of: str = "units",
    summary: Callable[[Tensor], Number] = torch.mean,
    only_weights: bool = False,
    default: bool = False,
    remembers: bool = False,
    description: str = "",
) -> Callable[[_Function], _Function]:
    """Registers a function in the catalogue of metrics.

    Args:
        name: Its values are logged as ``plasticity/<name>``: lower-case words joined by underscores, optionally with a decimal
            fraction at the end.
        direction: What a loss of plasticity does to it: ``rises``, ``falls`` ...
        cost: What one measurement costs, in words.
        unit: What one value is, in words; may be left out if ``description`` or the docstring states it.
        range: Possible values, such as ``0 to 1``.
        of: What the function is called with, and how its results are used:

            - ``units``: a ``LayerView``, for each hidden layer. It returns a value for each unit, (units,), or one number that is
              their mean. ``summary`` makes the layer's value of them; pooled, it is taken over the units of all layers and
              parts together, in which every unit counts equally.
            - ``features``: a ``LayerView``. It returns the layer's value; pooled, the mean over parts of the mean over the layers
              that the head reads.
            - ``parts``: a ``PartView``, for each part: its network, optimizer and latest examples (``view.part``), the
              last traced update (``view.part.trace``), the sample (``view.inputs``). It returns the part's value; pooled, the
              mean over the parts that have one.
            - ``parameters``: a ``PartView`` and the names of a layer's parameters. It returns sums over these, (k,);
              ``summary`` makes the layer's value of them, and the pooled value of the sums of all layers and parts added up.
            - ``agent``: all ``PartView``s. It returns every value by suffix, "" for the pooled one; a
              tensor of one or two axes, an ``Array`` or a ``Matrix`` is kept as a file in ``arrays/``.
        summary: Of ``units`` and ``parameters``.
        only_weights: Of ``parameters``: whether biases are left out; normalisation always is.
        default: Whether it is measured unless metrics are asked for by name.
        remembers: Whether it compares with the measurement before, ``view.earlier``.
        description: One line; empty for the first line of the docstring, or the unit.

    Raises:
        ValueError: The name is taken or not of that form, ``of`` is unknown, or nothing states what a value is.
    """
    require_choice(f"metric {name}: of", of, ("units", "features", "parts", "parameters", "agent"))
    if name in GROUP_NAMES:
        raise ValueError(f"metric {name} must have another name: {' and '.join(GROUP_NAMES)} stand for groups of metrics")

    def add(function: _Function) -> _Function:
        lines = (description or function.__doc__ or "").strip().splitlines()
        said = lines[0] if lines else f"{unit[:1].upper()}{unit[1:]}." if unit else ""
        if not said:
            raise ValueError(f"metric {name} must be described: give it a unit or a docstring")
        measure = _measure(of, function, summary, only_weights)
        CATALOGUE.add(name, Metric(said, range, direction, cost, measure, default, remembers), function)
        return function

    return add


def _measure(
    of: str, function: Callable[..., Any], summary: Callable[[Tensor], Number], only_weights: bool
) -> Callable[[Sequence[PartView]], Measured]:
    """Returns a function that makes all values of a metric from the values of its function for one layer or part."""
    if of == "units":
        return partial(of_units, per_unit=partial(_each_unit, function), summary=summary)
    if of == "parameters":
        return partial(of_blocks, of=function, pooled=summary, only_weights=only_weights)
    if of == "agent":
        return function
    return partial({"features": of_features, "parts": of_parts}[of], of=function)


def _each_unit(function: Callable[[LayerView], Tensor | float], layer: LayerView) -> Tensor | Undefined:
    """Returns a value for each unit; a number stands for each of them."""
    values = function(layer)
    if isinstance(values, Undefined):
        return values
    values = torch.as_tensor(values)
    if values.ndim > 1:
        name = getattr(function, "__name__", function)
        raise ValueError(f"{name} must return one number or a value for each unit, not {tuple(values.shape)}")
    values = values if values.is_floating_point() else values.float()
    return values.expand(layer.pre.shape[1]) if values.ndim == 0 else values


def of_units(
    views: Sequence[PartView], per_unit: Callable[[LayerView], Tensor | Undefined], summary: Callable[[Tensor], Number]
) -> Measured:
    """Summarises per-unit values for each layer, and for all units together, resettable or not (``LayerView.pooled``).

    A layer that has no such value is left out of the pool; one that overflowed leaves the pool without a value.
    """
    values: Measured = {}
    pool: list[Tensor] = []
    reason = reason_without_layers(views)
    for view in views:
        for layer in view.layers:
            units = per_unit(layer) if layer.finite else Undefined("the activations are not finite")
            if isinstance(units, Undefined):
                values[f"/{view.name}/{layer.name}"], reason = units, units.reason
            else:
                values[f"/{view.name}/{layer.name}"] = summary(units)
                pool.extend([units] if layer.pooled else [])
    if not all(layer.finite for view in views for layer in view.layers):
        return {"": Undefined("the activations are not finite")} | values
    return {"": summary(torch.cat(pool)) if pool else Undefined(reason)} | values


def of_features(views: Sequence[PartView], of: Callable[[LayerView], float]) -> Measured:
    """Measures every layer; pooled, the mean over parts of the mean over the layers that the head reads."""
    values: Measured = {}
    means: list[float] = []
    for view in views:
        own = {layer.name: of(layer) for layer in view.layers}
        values |= {f"/{view.name}/{name}": value for name, value in own.items()}
        if own:
            means.append(mean_of([own[layer.name] for layer in view.feature_layers]))
    return {"": mean_of(means) if means else Undefined(reason_without_layers(views))} | values


def of_parts(views: Sequence[PartView], of: Callable[[PartView], float]) -> Measured:
    """Measures every part as a whole; pooled, the mean over the parts that have a value."""
    values = {f"/{view.name}": of(view) for view in views}
    defined = [value for value in values.values() if not isinstance(value, Undefined)]
    return {"": mean_of(defined or list(values.values())), **values}


def of_blocks(
    views: Sequence[PartView],
    of: Callable[[PartView, list[str]], Tensor | Undefined],
    pooled: Callable[[Tensor], Number],
    only_weights: bool = False,
) -> Measured:
    """Measures the parameters of every layer, and of all layers together.

    Args:
        views: The parts.
        of: Returns sums over some parameters of a part, (k,), or why there are none.
        pooled: Makes the value, 0-dim, of such sums, whether of one layer or of all added up.
        only_weights: Whether biases are left out; normalisation always is.
    """
    values: Measured = {}
    sums: list[Tensor] = []
    reason = ""
    for view in views:
        network = view.part.network
        for block in network.blocks:
            names = [name for name in block.parameters if counts(network, name, only_weights)]
            own = of(view, names)
            if isinstance(own, Undefined):
                reason = own.reason
                continue
            values[f"/{view.name}/{block.name}"] = pooled(own)
            sums.append(own)
    return {"": pooled(torch.stack(sums).sum(0)) if sums else Undefined(reason)} | values


def mean_of(values: Sequence[float]) -> float:
    """Returns the mean, or the first undefined value, because a sum would lose its reason."""
    undefined = [value for value in values if isinstance(value, Undefined)]
    return undefined[0] if undefined else sum(values) / len(values)


def counts(network: Network, name: str, only_weights: bool) -> bool:
    """Returns whether a parameter is not of a normalisation and, if ``only_weights``, has at least two axes."""
    return name not in network.norm_parameters and (not only_weights or network.get_parameter(name).ndim >= 2)


def reason_without_layers(views: Sequence[PartView]) -> str:
    """Returns why there are no layers to measure."""
    return next((view.reason for view in views if view.reason), "the network has no hidden layer")
