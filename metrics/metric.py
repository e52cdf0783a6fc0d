"""An entry of the catalogue, and how values of layers become one value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.metrics.log_values import Matrix
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView
from plasticity.networks.network import Network

Number = Tensor | float
Measured = dict[str, Number | Matrix]


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue.

    Attributes:
        description: One line.
        range: Possible values.
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
    default: bool = True
    remembers: bool = False


def of_units(
    views: Sequence[PartView], per_unit: Callable[[LayerView], Tensor | Undefined], summary: Callable[[Tensor], Number]
) -> Measured:
    """Summarises per-unit values for each layer, and for all units together, resettable or not (``LayerView.pooled``).

    A layer that has no such value is left out of the pool; one that overflowed leaves the pool without a value.
    """
    values: Measured = {}
    pool: list[Tensor] = []
    reason = reason_for_nothing(views)
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
    return {"": mean_of(means) if means else Undefined(reason_for_nothing(views))} | values


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
    """Returns the mean, or the first undefined value, whose reason the sum would lose."""
    undefined = [value for value in values if isinstance(value, Undefined)]
    return undefined[0] if undefined else sum(values) / len(values)


def counts(network: Network, name: str, only_weights: bool) -> bool:
    """Tells whether a parameter is neither of a normalisation nor, if ``only_weights``, of fewer than two axes."""
    return name not in network.norm_parameters and (not only_weights or network.get_parameter(name).ndim >= 2)


def reason_for_nothing(views: Sequence[PartView]) -> str:
    """Returns why there are no layers to look at."""
    return next((view.reason for view in views if view.reason), "the network has no hidden layer")
