"""Metrics of firing over time, of the load-balancing layers that steer it, and of units that stay on one side of zero."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from plasticity.metrics.measures.balance import balanced_layers
from plasticity.metrics.measures.sides import one_sided_units, units_below_zero
from plasticity.metrics.metric import Measured, metric, of_units
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView, averages_of
from plasticity.networks.layers.load_balancing import LoadBalance

_of_balance = partial(metric, of="agent", cost="one pass over the buffers")


def _without_side(layer: LayerView) -> Undefined:
    return Undefined(f"{layer.activation_name} does not bend about zero")


@metric("one_sided_fraction", range="0 to 1", direction="rises", cost="one pass over the activations")
def _one_sided(layer: LayerView) -> Tensor | Undefined:
    """Fraction of units with all pre-activations on one side of zero, either one: zombies of any activation."""
    return one_sided_units(layer.pre).float() if layer.activation.sided else _without_side(layer)


@metric("below_zero_fraction", range="0 to 1", direction="rises", cost="one pass over the activations")
def _below_zero(layer: LayerView) -> Tensor | Undefined:
    """Fraction of units with no pre-activation above zero: dead ones of relu, saturated ones of gelu."""
    return units_below_zero(layer.pre).float() if layer.activation.sided else _without_side(layer)


@metric(
    "averaged_firing_rate",
    of="agent",
    range="0 to 1",
    direction="leaves the middle",
    cost="as firing_rate, shared",
    remembers=True,
)
def _averaged(views: Sequence[PartView]) -> Measured:
    """Mean of the units' exponentially averaged firing rate, decay 0.99 per update, rates held between measurements."""
    averages = {id(layer): view.once("averaged rates", averages_of) for view in views for layer in view.layers}

    def per_unit(layer: LayerView) -> Tensor | Undefined:
        rates = layer.rates
        return rates if isinstance(rates, Undefined) else averages[id(layer)][layer.name]

    return of_units(views, per_unit, torch.mean)


@_of_balance("load_balancing_rate", range="0 to 1", direction="leaves its bounds")
def _balanced_rate(views: Sequence[PartView]) -> Measured:
    """Mean of the averaged firing rates that load-balancing layers steer by, taken from every training batch."""
    return _balance(views, lambda balance: balance.firing_rate)


@_of_balance("load_balancing_offset", range="any number", direction="none")
def _offset(views: Sequence[PartView]) -> Measured:
    """Mean of the offsets by which load-balancing layers shift their units."""
    return _balance(views, lambda balance: balance.offset)


@_of_balance("load_balancing_offset_size", range="0 and up", direction="grows where units leave their bounds")
def _offset_size(views: Sequence[PartView]) -> Measured:
    """Mean absolute offset by which load-balancing layers shift their units."""
    return _balance(views, lambda balance: balance.offset.abs())


def _balance(views: Sequence[PartView], of: Callable[[LoadBalance], Tensor]) -> Measured:
    """Reads the load-balancing layers of all parts; pooled, every unit that has one counts equally."""
    values: Measured = {}
    pool: list[Tensor] = []
    for view in views:
        for name, balance in balanced_layers(view.part.network).items():
            units = of(balance).double()
            values[f"/{view.name}/{name}"] = units.mean()
            pool.append(units)
    return {"": torch.cat(pool).mean() if pool else Undefined("the network has no load-balancing layer")} | values
