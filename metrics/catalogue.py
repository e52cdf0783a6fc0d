"""The metrics that a run can log, each with what it is worth knowing about it.

A name gives a pooled value, ``plasticity/<name>``, and one for each layer, ``plasticity/<name>/<part>/<layer>``. How a pooled
value is made depends on the kind of metric: unit metrics pool all units of all parts; rank metrics take each part's last hidden
layer, the features that the head reads (of a convolution: before its pooling), and average over parts, since ranks of layers of
different widths have no meaningful mean; norms are joint norms over all parts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from metrics.activity import dead_units, dormancy_scores, dormant_fraction, firing_entropy, firing_rates, linearised_units
from metrics.norms import distance, norm
from metrics.rank import effective_rank, srank, stable_rank
from metrics.undefined import Undefined
from metrics.view import LayerView, PartView
from networks.network import Network

Number = Tensor | float
Measured = dict[str, Number]


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue.

    Attributes:
        description: One line.
        range: Possible values.
        direction: What a loss of plasticity does to it.
        cost: What one measurement costs.
        measure: Returns values by suffix: "" for the pooled one, ``/<part>/<layer>`` for the others.
    """

    description: str
    range: str
    direction: str
    cost: str
    measure: Callable[[Sequence[PartView]], Measured]


def _units(
    views: Sequence[PartView], per_unit: Callable[[LayerView], Tensor | Undefined], summary: Callable[[Tensor], Tensor]
) -> Measured:
    """Summarises per-unit values for each layer and for the units of all layers together.

    A layer that has no such value is left out of the pool; one that overflowed leaves the pool without a value.
    """
    values: Measured = {}
    pool: list[Tensor] = []
    reason = _reason(views)
    for view in views:
        for layer in view.layers:
            units = per_unit(layer) if layer.finite else Undefined("the activations are not finite")
            if isinstance(units, Undefined):
                values[f"/{view.name}/{layer.name}"], reason = units, units.reason
            else:
                values[f"/{view.name}/{layer.name}"] = summary(units)
                pool.append(units)
    if not all(layer.finite for view in views for layer in view.layers):
        return {"": Undefined("the activations are not finite")} | values
    return {"": summary(torch.cat(pool)) if pool else Undefined(reason)} | values


def _features(views: Sequence[PartView], of: Callable[[Tensor], float]) -> Measured:
    """Measures the singular values of every layer; pooled, the mean over parts of the last hidden layer's."""
    values: Measured = {}
    last: list[float] = []
    for view in views:
        for layer in view.layers:
            values[f"/{view.name}/{layer.name}"] = of(layer.singular_values)
        if view.layers:
            last.append(float(values[f"/{view.name}/{view.layers[-1].name}"]))
    if not last:
        return {"": Undefined(_reason(views))}
    undefined = [value for value in values.values() if isinstance(value, Undefined)]
    mean = sum(last) / len(last)
    return {"": undefined[0] if undefined and mean != mean else mean} | values


def _parameters(views: Sequence[PartView], of: Callable[[PartView, list[str]], Number], only_weights: bool) -> Measured:
    """Measures the parameters of every layer, and of all layers together as a joint norm."""
    values: Measured = {}
    squares: list[Tensor] = []
    for view in views:
        network = view.part.network
        for block in network.blocks:
            names = [name for name in block.parameters if _counts(network, name, only_weights)]
            value = of(view, names)
            values[f"/{view.name}/{block.name}"] = value
            squares.append(torch.as_tensor(value, dtype=torch.float64).square())
    return {"": torch.stack(squares).sum().sqrt()} | values


def _traced(views: Sequence[PartView], what: str) -> Measured:
    """Reports the norms of the last traced update; of several parts, the joint one."""
    values: Measured = {}
    squares: list[Tensor] = []
    for view in views:
        norms = view.part.trace.norms
        for block in view.part.network.blocks:
            entries = [norms[f"{what}/{name}"] for name in block.parameters if f"{what}/{name}" in norms]
            if entries:
                joint = torch.stack([torch.as_tensor(entry) for entry in entries]).norm()
                values[f"/{view.name}/{block.name}"] = joint
        if what in norms:
            squares.append(torch.as_tensor(norms[what]).square())
    pooled: Number = torch.stack(squares).sum().sqrt() if squares else Undefined("no update has been traced yet")
    return {"": pooled} | values


def _dead(layer: LayerView) -> Tensor:
    return dead_units(layer.post, layer.activation_name).float()


def _linearised(layer: LayerView) -> Tensor | Undefined:
    if not layer.activation.kinked:
        return Undefined(f"{layer.activation_name} has no linear side")
    return linearised_units(layer.pre, both_sides=layer.activation.both_sides).float()


def rates(layer: LayerView) -> Tensor | Undefined:
    """Returns the firing rate of each unit of a layer, or why there is none."""
    if not layer.activation.threshold:
        return Undefined(f"{layer.activation_name} has no firing threshold")
    return firing_rates(layer.pre)


def _entropies(layer: LayerView) -> Tensor | Undefined:
    units = rates(layer)
    return units if isinstance(units, Undefined) else firing_entropy(units)


def _weight_norm(view: PartView, names: list[str]) -> Number:
    return norm({name: view.part.network.get_parameter(name).detach() for name in names})


def _distance(view: PartView, names: list[str]) -> Number:
    now = {name: view.part.network.get_parameter(name).detach() for name in names}
    return distance(now, {name: view.part.initial[name] for name in names})


def _counts(network: Network, name: str, only_weights: bool) -> bool:
    return name not in network.norm_parameters and (not only_weights or network.get_parameter(name).ndim >= 2)


def _reason(views: Sequence[PartView]) -> str:
    return next((view.reason for view in views if view.reason), "the network has no hidden layer")


def _dormant(threshold: float) -> Metric:
    return Metric(
        f"Fraction of units whose share of their layer's mean activity is at most {threshold:g} (ReDo, Sokar et al. 2023).",
        "0 to 1",
        "rises",
        "one forward",
        partial(
            _units, per_unit=lambda layer: dormancy_scores(layer.post), summary=partial(dormant_fraction, threshold=threshold)
        ),
    )


CATALOGUE: Final[Mapping[str, Metric]] = {
    "dormant_fraction": _dormant(0.025),
    "dormant_fraction_tau_0": _dormant(0.0),
    "dormant_fraction_tau_0.01": _dormant(0.01),
    "dormant_fraction_tau_0.1": _dormant(0.1),
    "dead_fraction": Metric(
        "Fraction of units that are 0 on every input (tanh: saturated on every input).",
        "0 to 1",
        "rises",
        "one forward",
        partial(_units, per_unit=_dead, summary=torch.mean),
    ),
    "linearised_fraction": Metric(
        "Fraction of zombie units, on the linear side of their kink on every input.",
        "0 to 1",
        "rises",
        "one forward",
        partial(_units, per_unit=_linearised, summary=torch.mean),
    ),
    "firing_rate": Metric(
        "Mean over units of the share of inputs with a positive pre-activation.",
        "0 to 1",
        "leaves the middle",
        "one forward",
        partial(_units, per_unit=rates, summary=torch.mean),
    ),
    "firing_entropy": Metric(
        "Mean over units of the binary entropy of the firing rate, in bits.",
        "0 to 1",
        "falls",
        "one forward",
        partial(_units, per_unit=_entropies, summary=torch.mean),
    ),
    "effective_rank": Metric(
        "Exponential of the entropy of the features' normalised singular values (Roy & Vetterli 2007).",
        "1 to features",
        "falls",
        "one forward and one singular value decomposition",
        partial(_features, of=effective_rank),
    ),
    "srank": Metric(
        "Least number of singular values that hold 99 % of their sum (Kumar et al. 2021).",
        "1 to features",
        "falls",
        "as effective_rank, shared",
        partial(_features, of=srank),
    ),
    "stable_rank": Metric(
        "Squared Frobenius norm of the features over their squared spectral norm.",
        "1 to features",
        "falls",
        "as effective_rank, shared",
        partial(_features, of=stable_rank),
    ),
    "weight_norm": Metric(
        "Frobenius norm of the weights, without biases and normalisation.",
        "0 and up",
        "rises",
        "one pass over the weights",
        partial(_parameters, of=_weight_norm, only_weights=True),
    ),
    "distance_from_initialisation": Metric(
        "Euclidean distance of weights and biases from their initial values.",
        "0 and up",
        "rises",
        "one pass over the parameters",
        partial(_parameters, of=_distance, only_weights=False),
    ),
    "gradient_norm": Metric(
        "Norm of the gradient of the last traced update (every 100th is), before clipping.",
        "0 and up",
        "shrinks or explodes",
        "one pass over the gradients",
        partial(_traced, what="gradient"),
    ),
    "update_norm": Metric(
        "Norm of what the optimizer changed in the last traced update.",
        "0 and up",
        "shrinks or explodes",
        "one copy of the parameters",
        partial(_traced, what="optimizer"),
    ),
    "intervention_update_norm": Metric(
        "Norm of what the interventions changed after it.",
        "0 and up",
        "none",
        "one copy of the parameters",
        partial(_traced, what="intervention"),
    ),
}
