"""Metrics of single units: pooled, all units of all layers and parts that have a non-linearity count alike."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
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
from plasticity.metrics.metric import Measured, Metric, of_units
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView
from plasticity.networks.layers.activations import activation_named

NEARLY_LINEAR: Final = 0.95
CONSTANT_SLOPE: Final = 1e-4


def _dead(layer: LayerView) -> Tensor:
    return dead_units(layer.post, layer.activation_name).float()


def _linearised(layer: LayerView) -> Tensor | Undefined:
    if not layer.activation.sided:
        return Undefined(f"{layer.activation_name} has no linear side")
    return linearised_units(layer.pre, both_sides=layer.activation.both_sides).float()


def _nearly_linearised(layer: LayerView) -> Tensor | Undefined:
    if not layer.activation.sided:
        return Undefined(f"{layer.activation_name} has no linear side")
    rates = layer.rates
    if isinstance(rates, Undefined):
        return rates
    below = (rates < 1 - NEARLY_LINEAR) & layer.activation.both_sides
    return ((rates > NEARLY_LINEAR) | below).float()


def _constant_slope(layer: LayerView) -> Tensor | Undefined:
    if layer.activation.learned is not None or layer.activation.copies > 1:
        return Undefined(f"{layer.activation_name} is not one fixed function of one number")
    return (slope_variances(layer.pre, layer.activation.function) < CONSTANT_SLOPE).float()


def _rates(layer: LayerView) -> Tensor | Undefined:
    return layer.rates


def _entropies(layer: LayerView) -> Tensor | Undefined:
    return layer.rates if isinstance(layer.rates, Undefined) else firing_entropy(layer.rates)


def _correlations(layer: LayerView) -> Tensor | Undefined:
    if not layer.activation.threshold:
        return Undefined(f"{layer.activation_name} has no firing threshold")
    units = firing_correlations(layer.pre)
    return units if len(units) else Undefined("fewer than two units fire on some inputs and not on others")


def _drm(views: Sequence[PartView]) -> Measured:
    """Dormancy as DrM measures it: pre-activations, and the outputs as one more layer."""
    with_outputs = [
        view if view.outputs is None else replace(view, layers=(*view.layers, _output_layer(view, view.outputs)))
        for view in views
    ]
    return of_units(with_outputs, lambda layer: dormancy_scores(layer.pre), partial(dormant_fraction, threshold=0.025))


def _output_layer(view: PartView, outputs: Tensor) -> LayerView:
    # As many rows as the layer before has: of a sequence, a row for each token.
    rows = outputs.reshape(len(view.layers[-1].post), -1)
    return LayerView("head", activation_named("identity"), "identity", rows, rows)


def _dormant(threshold: float, words: str) -> Metric:
    return Metric(
        f"Fraction of units whose share of their layer's mean activity is {words} (ReDo, Sokar et al. 2023).",
        "0 to 1",
        "rises",
        "one forward",
        partial(of_units, per_unit=lambda layer: layer.scores, summary=partial(dormant_fraction, threshold=threshold)),
    )


ACTIVITY: Final[Mapping[str, Metric]] = {
    "dormant_fraction": _dormant(0.025, "at most 0.025"),
    "dormant_fraction_tau_0": _dormant(0.0, "exactly 0"),
    "dormant_fraction_tau_0.01": _dormant(0.01, "at most 0.01"),
    "dormant_fraction_tau_0.1": _dormant(0.1, "at most 0.1"),
    "dormant_fraction_drm": Metric(
        "As dormant_fraction, of pre-activations and with the outputs as one more layer (DrM, Xu et al. 2024).",
        "0 to 1",
        "rises",
        "one more pass over the activations",
        _drm,
        default=False,
    ),
    "dead_fraction": Metric(
        "Fraction of units that are 0 on every input (tanh: saturated on every input).",
        "0 to 1",
        "rises",
        "one forward",
        partial(of_units, per_unit=_dead, summary=torch.mean),
    ),
    "active_fraction": Metric(
        "Fraction of activations, over inputs, units and positions, that are not exactly 0 (FAU, Ma et al. 2023).",
        "0 to 1",
        "falls",
        "one forward",
        partial(of_units, per_unit=lambda layer: active_fractions(layer.post), summary=torch.mean),
    ),
    "linearised_fraction": Metric(
        "Fraction of zombie units, on the linear side of their kink (gelu, swish: of their bend) on every input.",
        "0 to 1",
        "rises",
        "one forward",
        partial(of_units, per_unit=_linearised, summary=torch.mean),
    ),
    "linearised_fraction_0.95": Metric(
        "Fraction of units on the linear side of their kink (gelu, swish: of their bend) on more than 95 % of the inputs.",
        "0 to 1",
        "rises",
        "as firing_rate, shared",
        partial(of_units, per_unit=_nearly_linearised, summary=torch.mean),
    ),
    "constant_slope_fraction": Metric(
        f"Fraction of units whose slope varies over the inputs by less than {CONSTANT_SLOPE:g} (variance), dead ones included.",
        "0 to 1",
        "rises",
        "one more pass over the activations",
        partial(of_units, per_unit=_constant_slope, summary=torch.mean),
        default=False,
    ),
    "firing_rate": Metric(
        "Mean over units of the share of inputs with a positive pre-activation.",
        "0 to 1",
        "leaves the middle",
        "one forward",
        partial(of_units, per_unit=_rates, summary=torch.mean),
    ),
    "firing_entropy": Metric(
        "Mean over units of the binary entropy of the firing rate, in bits; read it beside firing_correlation.",
        "0 to 1",
        "falls",
        "as firing_rate, shared",
        partial(of_units, per_unit=_entropies, summary=torch.mean),
    ),
    "firing_correlation": Metric(
        "Mean |correlation| of the firing of two units of a layer, of those neither always on nor always off.",
        "0 to 1",
        "rises",
        "a product of the layer's units with each other",
        partial(of_units, per_unit=_correlations, summary=torch.mean),
        default=False,
    ),
}
