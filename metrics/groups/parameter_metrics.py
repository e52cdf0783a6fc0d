"""Metrics of weights: of each layer, and of all layers together."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from plasticity.metrics.measures.adam import adam_sums
from plasticity.metrics.measures.norms import distance, mean_magnitude, norm
from plasticity.metrics.measures.rank import stable_rank
from plasticity.metrics.measures.spectra import condition_number, deviation_from_isometry, weight_singular_values
from plasticity.metrics.metric import Measured, Metric, Number, of_blocks
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView


def _weights(view: PartView, names: list[str]) -> dict[str, Tensor]:
    return {name: view.part.network.get_parameter(name).detach() for name in names}


def _squared_norm(view: PartView, names: list[str]) -> Tensor | Undefined:
    size = norm(_weights(view, names))
    return size if isinstance(size, Undefined) else size.square()


def _magnitudes(view: PartView, names: list[str]) -> Tensor | Undefined:
    weights = _weights(view, names)
    mean, count = mean_magnitude(weights), sum(weight.numel() for weight in weights.values())
    return mean if isinstance(mean, Undefined) else torch.stack([mean * count, torch.full_like(mean, count)])


def _distances(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Returns squared distance from, and squared norm of, the initial values, and their number."""
    initial = {name: view.part.initial[name] for name in names}
    moved, size = distance(_weights(view, names), initial), norm(initial)
    if isinstance(moved, Undefined) or isinstance(size, Undefined):
        return Undefined("there are no parameters")
    count = torch.full_like(size, sum(value.numel() for value in initial.values()))
    return torch.stack([moved.square(), size.square(), count])


def _relative(sums: Tensor) -> Number:
    return (sums[0] / sums[1]).sqrt() if float(sums[1]) else Undefined("the initial values are all 0")


def _spectral(
    views: Sequence[PartView],
    of: Callable[[Tensor], float],
    within: Callable[[list[float]], float],
    over: Callable[[list[float]], float],
) -> Measured:
    """Measures the singular values of every weight; ``within`` a layer and ``over`` all layers say how they become one value."""
    values: dict[str, float] = {}
    for view in views:
        spectra = view.once("weight spectra", _spectra)
        for block in view.part.network.blocks:
            own = [of(spectra[name]) for name in block.parameters if name in spectra]
            if own:
                values[f"/{view.name}/{block.name}"] = _unless_undefined(own, within)
    return {"": _unless_undefined(list(values.values()), over), **values}


def _spectra(view: PartView) -> dict[str, Tensor]:
    weights = view.part.network.weights()
    return {name: weight_singular_values(weight) for name, weight in weights.items()}


def _unless_undefined(values: list[float], of: Callable[[list[float]], float]) -> float:
    return next((value for value in values if isinstance(value, Undefined)), None) or of(values)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _largest(sigma: Tensor) -> float:
    largest = float(sigma.max())
    return largest if largest < float("inf") else Undefined("the weights are not finite")


def _isometry(sigma: Tensor) -> float:
    return deviation_from_isometry(sigma) if bool(sigma.isfinite().all()) else Undefined("the weights are not finite")


def _adam(view: PartView, names: list[str]) -> Tensor | Undefined:
    return adam_sums(view.part.optimizer, [view.part.network.get_parameter(name) for name in names])


_ADAM: Final = "one pass over the optimizer's moments"
_SPECTRA: Final = "as weight_spectral_norm, shared"

PARAMETERS: Final[Mapping[str, Metric]] = {
    "weight_norm": Metric(
        "Frobenius norm of the weights, without biases and normalisation.",
        "0 and up",
        "rises",
        "one pass over the weights",
        partial(of_blocks, of=_squared_norm, pooled=torch.sqrt, only_weights=True),
    ),
    "weight_magnitude": Metric(
        "Mean absolute weight, without biases and normalisation (Dohare et al. 2024).",
        "0 and up",
        "rises",
        "one pass over the weights",
        partial(of_blocks, of=_magnitudes, pooled=lambda sums: sums[0] / sums[1], only_weights=True),
    ),
    "distance_from_initialisation": Metric(
        "Euclidean distance of weights and biases from their initial values.",
        "0 and up",
        "rises",
        "one pass over the parameters",
        partial(of_blocks, of=_distances, pooled=lambda sums: sums[0].sqrt()),
    ),
    "relative_distance_from_initialisation": Metric(
        "That distance over the norm of the initial values.",
        "0 and up",
        "rises",
        "one pass over the parameters",
        partial(of_blocks, of=_distances, pooled=_relative),
    ),
    "rms_distance_from_initialisation": Metric(
        "That distance over the root of the number of parameters.",
        "0 and up",
        "rises",
        "one pass over the parameters",
        partial(of_blocks, of=_distances, pooled=lambda sums: (sums[0] / sums[2]).sqrt()),
        default=False,
    ),
    "weight_spectral_norm": Metric(
        "Largest singular value of a layer's weight; pooled, the largest of all layers.",
        "0 and up",
        "rises",
        "one singular value decomposition of every weight",
        partial(_spectral, of=_largest, within=max, over=max),
        default=False,
    ),
    "weight_condition_number": Metric(
        "Largest over smallest singular value of a layer's weight; pooled, the largest of all layers.",
        "1 and up",
        "rises",
        _SPECTRA,
        partial(_spectral, of=condition_number, within=max, over=max),
        default=False,
    ),
    "weight_stable_rank": Metric(
        "Squared Frobenius over squared spectral norm of a layer's weight; pooled, the mean over layers.",
        "1 to features",
        "falls",
        _SPECTRA,
        partial(_spectral, of=stable_rank, within=_mean, over=_mean),
        default=False,
    ),
    "weight_deviation_from_isometry": Metric(
        "Squared Frobenius norm of W^T W - I (of the smaller side) of a layer's weight; pooled, the sum over layers.",
        "0 and up",
        "rises",
        _SPECTRA,
        partial(_spectral, of=_isometry, within=sum, over=sum),
        default=False,
    ),
    "adam_step": Metric(
        "Mean |m| / (sqrt(v) + eps) of Adam's moments, its step in units of the learning rate.",
        "0 and up",
        "jumps at a change of the problem",
        _ADAM,
        partial(of_blocks, of=_adam, pooled=lambda sums: sums[1] / sums[0]),
        default=False,
    ),
    "adam_tiny_fraction": Metric(
        "Fraction of weights whose sqrt(v) is below Adam's eps, which then rules the step.",
        "0 to 1",
        "rises",
        _ADAM,
        partial(of_blocks, of=_adam, pooled=lambda sums: sums[2] / sums[0]),
        default=False,
    ),
    "effective_learning_rate": Metric(
        "Geometric mean over weights of Adam's learning rate / (sqrt(v) + eps).",
        "0 and up",
        "rises where gradients vanish",
        _ADAM,
        partial(of_blocks, of=_adam, pooled=lambda sums: (sums[3] / sums[0]).exp()),
        default=False,
    ),
}
