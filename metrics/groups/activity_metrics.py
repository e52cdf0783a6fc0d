"""Metrics of single units: pooled, all units of all layers and parts that have a non-linearity count equally."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from torch import Tensor

from plasticity.metrics.measures.activity import (
    active_fractions,
    dead_units,
    dormancy_scores,
    dormant_fraction,
    firing_correlations,
    firing_entropy,
    linearised_units,
    slope_variances,
)
from plasticity.metrics.metric import Measured, metric, of_units
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView
from plasticity.networks.layers.activations import activation_named

NEARLY_LINEAR: Final = 0.95
CONSTANT_SLOPE: Final = 1e-4


def _scores(layer: LayerView) -> Tensor:
    return layer.scores


def _dormant(name: str, threshold: float, words: str) -> None:
    metric(
        name,
        description=f"Fraction of units whose share of their layer's mean activity is {words} (ReDo, Sokar et al. 2023).",
        range="0 to 1",
        direction="rises",
        cost="one forward",
        summary=partial(dormant_fraction, threshold=threshold),
        default=True,
    )(_scores)


_dormant("dormant_fraction", 0.025, "at most 0.025")
_dormant("dormant_fraction_tau_0", 0.0, "exactly 0")
_dormant("dormant_fraction_tau_0.01", 0.01, "at most 0.01")
_dormant("dormant_fraction_tau_0.1", 0.1, "at most 0.1")


@metric("dormant_fraction_drm", range="0 to 1", direction="rises", cost="one more pass over the activations", of="agent")
def _drm(views: Sequence[PartView]) -> Measured:
    """As dormant_fraction, of pre-activations and with the outputs as one more layer (DrM, Xu et al. 2024)."""
    with_outputs = [
        view if view.outputs is None else replace(view, layers=(*view.layers, _output_layer(view, view.outputs)))
        for view in views
    ]
    return of_units(with_outputs, lambda layer: dormancy_scores(layer.pre), partial(dormant_fraction, threshold=0.025))


def _output_layer(view: PartView, outputs: Tensor) -> LayerView:
    # As many rows as the layer before has: of a sequence, a row for each token.
    rows = outputs.reshape(len(view.layers[-1].post), -1)
    return LayerView("head", activation_named("identity"), "identity", rows, rows)


@metric("dead_fraction", range="0 to 1", direction="rises", cost="one forward", default=True)
def _dead(layer: LayerView) -> Tensor:
    """Fraction of units that are 0 on every input (tanh: saturated on every input)."""
    return dead_units(layer.post, layer.activation_name).float()


@metric("active_fraction", range="0 to 1", direction="falls", cost="one forward", default=True)
def _active(layer: LayerView) -> Tensor:
    """Fraction of activations, over inputs, units and positions, that are not exactly 0 (FAU, Ma et al. 2023)."""
    return active_fractions(layer.post)


@metric("linearised_fraction", range="0 to 1", direction="rises", cost="one forward", default=True)
def _linearised(layer: LayerView) -> Tensor | Undefined:
    """Fraction of zombie units, on the linear side of their kink (gelu, swish: of their bend) on every input."""
    if not layer.activation.sided:
        return Undefined(f"{layer.activation_name} has no linear side")
    return linearised_units(layer.pre, both_sides=layer.activation.both_sides).float()


@metric("linearised_fraction_0.95", range="0 to 1", direction="rises", cost="as firing_rate, shared", default=True)
def _nearly_linearised(layer: LayerView) -> Tensor | Undefined:
    """Fraction of units on the linear side of their kink (gelu, swish: of their bend) on more than 95 % of the inputs."""
    if not layer.activation.sided:
        return Undefined(f"{layer.activation_name} has no linear side")
    rates = layer.rates
    if isinstance(rates, Undefined):
        return rates
    below = (rates < 1 - NEARLY_LINEAR) & layer.activation.both_sides
    return ((rates > NEARLY_LINEAR) | below).float()


@metric("constant_slope_fraction", range="0 to 1", direction="rises", cost="one more pass over the activations")
def _constant_slope(layer: LayerView) -> Tensor | Undefined:
    """Fraction of units whose slope varies over the inputs by less than 0.0001 (variance), dead ones included."""
    if layer.activation.learned is not None or layer.activation.copies > 1:
        return Undefined(f"{layer.activation_name} is not one fixed function of one number")
    return (slope_variances(layer.pre, layer.activation.function) < CONSTANT_SLOPE).float()


@metric("firing_rate", range="0 to 1", direction="leaves the middle", cost="one forward", default=True)
def _rates(layer: LayerView) -> Tensor | Undefined:
    """Mean over units of the share of inputs with a positive pre-activation."""
    return layer.rates


@metric("firing_entropy", range="0 to 1", direction="falls", cost="as firing_rate, shared", default=True)
def _entropies(layer: LayerView) -> Tensor | Undefined:
    """Mean over units of the binary entropy of the firing rate, in bits; read it together with firing_correlation."""
    return layer.rates if isinstance(layer.rates, Undefined) else firing_entropy(layer.rates)


@metric("firing_correlation", range="0 to 1", direction="rises", cost="a product of the layer's units with each other")
def _correlations(layer: LayerView) -> Tensor | Undefined:
    """Mean |correlation| of the firing of two units of a layer, of those neither always on nor always off."""
    if not layer.activation.threshold:
        return Undefined(f"{layer.activation_name} has no firing threshold")
    units = firing_correlations(layer.pre)
    return units if len(units) else Undefined("fewer than two units fire on some inputs and not on others")
