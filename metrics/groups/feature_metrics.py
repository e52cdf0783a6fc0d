"""Metrics of a layer's features as a whole; pooled, those of the layers that the head reads, the mean over parts."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from plasticity.metrics.measures.drift import linear_cka, relative_change
from plasticity.metrics.measures.rank import approximate_rank, effective_rank, feature_rank, numerical_rank, srank, stable_rank
from plasticity.metrics.metric import mean_of, metric
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView, activations_on

_rank = partial(metric, of="features", direction="falls", default=True, cost="as effective_rank, shared", range="1 to features")
_drift = partial(metric, of="parts", direction="none; how fast features change", remembers=True)


@_rank("effective_rank", cost="one forward and one singular value decomposition")
def _effective_rank(layer: LayerView) -> float:
    """Exponential of the entropy of the features' normalised singular values (Roy & Vetterli 2007)."""
    return effective_rank(layer.singular_values)


@_rank("srank")
def _srank(layer: LayerView) -> float:
    """Least number of singular values that hold 99 % of their sum (Kumar et al. 2021)."""
    return srank(layer.singular_values)


@_rank("stable_rank")
def _stable_rank(layer: LayerView) -> float:
    """Squared Frobenius norm of the features over their squared spectral norm."""
    return stable_rank(layer.singular_values)


@_rank("feature_rank", range="0 to features")
def _feature_rank(layer: LayerView) -> float:
    """Number of singular values of the features, divided by the root of the number of inputs, above 0.01 (Lyle et al. 2022)."""
    return feature_rank(layer.singular_values, len(layer.rank_features))


@_rank("approximate_rank")
def _approximate_rank(layer: LayerView) -> float:
    """Least number of squared singular values that hold 99 % of their sum, the variance."""
    return approximate_rank(layer.singular_values)


@_rank("numerical_rank")
def _numerical_rank(layer: LayerView) -> float:
    """Number of singular values above the rounding of float32; near its maximum until units die."""
    return numerical_rank(layer.singular_values, *layer.rank_features.shape)


@metric("feature_norm", of="features", range="0 and up", direction="rises", cost="one pass over the activations", default=True)
def _feature_norm(layer: LayerView) -> float:
    """Mean Euclidean norm of a layer's activations; grows with the root of its width."""
    norm = float(layer.post.flatten(1).float().norm(dim=1).double().mean())
    return norm if norm < float("inf") else Undefined("the features are not finite")


@_drift("feature_drift", range="0 to 1", cost="one forward of 256 inputs")
def _feature_drift(view: PartView) -> float:
    """1 - CKA (linear, centred) between features of the same inputs at this measurement and at the one before."""
    alignment = _compare(view, linear_cka)
    return alignment if isinstance(alignment, Undefined) else 1 - alignment


@_drift("feature_change", range="0 and up", cost="as feature_drift, shared")
def _feature_change(view: PartView) -> float:
    """Distance of features from those of the same inputs at the measurement before, relative to their norm then."""
    return _compare(view, relative_change)


def _compare(view: PartView, of: Callable[[Tensor, Tensor], float]) -> float:
    """Compares features of the inputs of the measurement before: now, and then; the mean over the layers that the head reads."""
    if not view.layers:
        return Undefined(view.reason)
    if view.earlier is None:
        return Undefined("there was no measurement before")
    earlier = view.earlier
    now = view.once("earlier inputs", lambda view: activations_on(view.part.network, earlier.inputs))
    return mean_of([of(now[name].flatten(1), then) for name, then in earlier.features.items()])
