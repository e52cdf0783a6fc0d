"""Metrics of a layer's features as a whole; pooled, those of the layers that the head reads, the mean over parts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from torch import Tensor

from plasticity.metrics.measures.drift import linear_cka, relative_change
from plasticity.metrics.measures.rank import approximate_rank, effective_rank, feature_rank, numerical_rank, srank, stable_rank
from plasticity.metrics.metric import Measured, Metric, mean_of, of_features, of_parts
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView, activations_on

_SHARED: Final = "as effective_rank, shared"


def _rank(of: Callable[[LayerView], float], description: str, cost: str = _SHARED, low: int = 1) -> Metric:
    return Metric(description, f"{low} to features", "falls", cost, partial(of_features, of=of))


def _feature_norm(layer: LayerView) -> float:
    norm = float(layer.post.flatten(1).float().norm(dim=1).double().mean())
    return norm if norm < float("inf") else Undefined("the features are not finite")


def _compare(views: Sequence[PartView], of: Callable[[Tensor, Tensor], float]) -> Measured:
    """Compares features of the inputs of the measurement before: now, and then."""

    def part(view: PartView) -> float:
        if not view.layers:
            return Undefined(view.reason)
        if view.earlier is None:
            return Undefined("there was no measurement before")
        earlier = view.earlier
        now = view.once("earlier inputs", lambda view: activations_on(view.part.network, earlier.inputs))
        return mean_of([of(now[name].flatten(1), then) for name, then in earlier.features.items()])

    return of_parts(views, part)


FEATURES: Final[Mapping[str, Metric]] = {
    "effective_rank": _rank(
        lambda layer: effective_rank(layer.singular_values),
        "Exponential of the entropy of the features' normalised singular values (Roy & Vetterli 2007).",
        "one forward and one singular value decomposition",
    ),
    "srank": _rank(
        lambda layer: srank(layer.singular_values),
        "Least number of singular values that hold 99 % of their sum (Kumar et al. 2021).",
    ),
    "stable_rank": _rank(
        lambda layer: stable_rank(layer.singular_values),
        "Squared Frobenius norm of the features over their squared spectral norm.",
    ),
    "feature_rank": _rank(
        lambda layer: feature_rank(layer.singular_values, len(layer.rank_features)),
        "Number of singular values of the features, divided by the root of the number of inputs, above 0.01 (Lyle et al. 2022).",
        low=0,
    ),
    "approximate_rank": _rank(
        lambda layer: approximate_rank(layer.singular_values),
        "Least number of squared singular values that hold 99 % of their sum, the variance.",
    ),
    "numerical_rank": _rank(
        lambda layer: numerical_rank(layer.singular_values, *layer.rank_features.shape),
        "Number of singular values above the rounding of float32; near its maximum until units die.",
    ),
    "feature_norm": Metric(
        "Mean Euclidean norm of a layer's activations; grows with the root of its width.",
        "0 and up",
        "rises",
        "one pass over the activations",
        partial(of_features, of=_feature_norm),
    ),
    "feature_drift": Metric(
        "1 - CKA (linear, centred) between features of the same inputs at this measurement and at the one before.",
        "0 to 1",
        "none; how fast features change",
        "one forward of 256 inputs",
        partial(_compare, of=lambda now, then: _minus(linear_cka(now, then))),
        default=False,
        remembers=True,
    ),
    "feature_change": Metric(
        "Distance of features from those of the same inputs at the measurement before, relative to their norm then.",
        "0 and up",
        "none; how fast features change",
        "as feature_drift, shared",
        partial(_compare, of=relative_change),
        default=False,
        remembers=True,
    ),
}


def _minus(alignment: float) -> float:
    return alignment if isinstance(alignment, Undefined) else 1 - alignment
