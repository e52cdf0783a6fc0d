"""Metrics of weights: of each layer, and of all layers together."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from plasticity.metrics.measures.adam import adam_sums
from plasticity.metrics.measures.norms import distance, mean_magnitude, norm
from plasticity.metrics.measures.rank import stable_rank
from plasticity.metrics.measures.spectra import condition_number, deviation_from_isometry, weight_singular_values
from plasticity.metrics.metric import Measured, Number, metric
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView


def _weights(view: PartView, names: list[str]) -> dict[str, Tensor]:
    return {name: view.part.network.get_parameter(name).detach() for name in names}


def _distances(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Returns squared distance from, and squared norm of, the initial values, and their number."""
    initial = {name: view.part.initial[name] for name in names}
    moved, size = distance(_weights(view, names), initial), norm(initial)
    if isinstance(moved, Undefined) or isinstance(size, Undefined):
        return Undefined("there are no parameters")
    count = torch.full_like(size, sum(value.numel() for value in initial.values()))
    return torch.stack([moved.square(), size.square(), count])


def _spectral(
    views: Sequence[PartView],
    of: Callable[[Tensor], float],
    within: Callable[[list[float]], float],
    over: Callable[[list[float]], float],
) -> Measured:
    """Measures the singular values of every weight; ``within`` a layer and ``over`` all layers reduce them to one value."""
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


_one_pass = partial(metric, of="parameters", direction="rises", range="0 and up")
_spectrum = partial(metric, of="agent", direction="rises", range="0 and up", cost="as weight_spectral_norm, shared")
_moments = partial(metric, of="parameters", range="0 and up", cost="one pass over the optimizer's moments")


@_one_pass("weight_norm", summary=torch.sqrt, only_weights=True, cost="one pass over the weights", default=True)
def _squared_norm(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Frobenius norm of the weights, without biases and normalisation."""
    size = norm(_weights(view, names))
    return size if isinstance(size, Undefined) else size.square()


@_one_pass(
    "weight_magnitude",
    summary=lambda sums: sums[0] / sums[1],
    only_weights=True,
    cost="one pass over the weights",
    default=True,
)
def _magnitudes(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Mean absolute weight, without biases and normalisation (Dohare et al. 2024)."""
    weights = _weights(view, names)
    mean, count = mean_magnitude(weights), sum(weight.numel() for weight in weights.values())
    return mean if isinstance(mean, Undefined) else torch.stack([mean * count, torch.full_like(mean, count)])


@_one_pass("distance_from_initialisation", summary=lambda sums: sums[0].sqrt(), cost="one pass over the parameters", default=True)
def _distance(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Euclidean distance of weights and biases from their initial values."""
    return _distances(view, names)


def _relative(sums: Tensor) -> Number:
    return (sums[0] / sums[1]).sqrt() if float(sums[1]) else Undefined("the initial values are all 0")


@_one_pass("relative_distance_from_initialisation", summary=_relative, cost="one pass over the parameters", default=True)
def _relative_distance(view: PartView, names: list[str]) -> Tensor | Undefined:
    """That distance over the norm of the initial values."""
    return _distances(view, names)


@_one_pass(
    "rms_distance_from_initialisation", summary=lambda sums: (sums[0] / sums[2]).sqrt(), cost="one pass over the parameters"
)
def _rms_distance(view: PartView, names: list[str]) -> Tensor | Undefined:
    """That distance over the root of the number of parameters."""
    return _distances(view, names)


def _largest(sigma: Tensor) -> float:
    largest = float(sigma.max())
    return largest if largest < float("inf") else Undefined("the weights are not finite")


@_spectrum("weight_spectral_norm", cost="one singular value decomposition of every weight")
def _spectral_norm(views: Sequence[PartView]) -> Measured:
    """Largest singular value of a layer's weight; pooled, the largest of all layers."""
    return _spectral(views, of=_largest, within=max, over=max)


@_spectrum("weight_condition_number", range="1 and up")
def _condition_number(views: Sequence[PartView]) -> Measured:
    """Largest over smallest singular value of a layer's weight; pooled, the largest of all layers."""
    return _spectral(views, of=condition_number, within=max, over=max)


@_spectrum("weight_stable_rank", range="1 to features", direction="falls")
def _stable_rank(views: Sequence[PartView]) -> Measured:
    """Squared Frobenius over squared spectral norm of a layer's weight; pooled, the mean over layers."""
    return _spectral(views, of=stable_rank, within=_mean, over=_mean)


def _isometry(sigma: Tensor) -> float:
    return deviation_from_isometry(sigma) if bool(sigma.isfinite().all()) else Undefined("the weights are not finite")


@_spectrum("weight_deviation_from_isometry")
def _deviation_from_isometry(views: Sequence[PartView]) -> Measured:
    """Squared Frobenius norm of W^T W - I (of the smaller side) of a layer's weight; pooled, the sum over layers."""
    return _spectral(views, of=_isometry, within=sum, over=sum)


def _adam(view: PartView, names: list[str]) -> Tensor | Undefined:
    return adam_sums(view.part.optimizer, [view.part.network.get_parameter(name) for name in names])


@_moments("adam_step", summary=lambda sums: sums[1] / sums[0], direction="jumps at a change of the problem")
def _adam_step(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Mean |m| / (sqrt(v) + eps) of Adam's moments, its step in units of the learning rate."""
    return _adam(view, names)


@_moments("adam_tiny_fraction", summary=lambda sums: sums[2] / sums[0], range="0 to 1", direction="rises")
def _tiny_fraction(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Fraction of weights whose sqrt(v) is below Adam's eps, which then dominates the step."""
    return _adam(view, names)


@_moments("effective_learning_rate", summary=lambda sums: (sums[3] / sums[0]).exp(), direction="rises where gradients vanish")
def _effective_rate(view: PartView, names: list[str]) -> Tensor | Undefined:
    """Geometric mean over weights of Adam's learning rate / (sqrt(v) + eps)."""
    return _adam(view, names)
