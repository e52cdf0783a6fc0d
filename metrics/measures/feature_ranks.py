"""The ranks of ``plasticity.metrics.measures.rank`` as functions of the features themselves.

Features are an (n, d) matrix, one row per input, not centred; flatten spatial axes first. Each function takes the singular values
itself: where several ranks are wanted, take them once with ``plasticity.metrics.measures.rank.singular_values``. All raise
ValueError if the features are not a matrix, and return ``Undefined`` if they are all zero, not finite, or none.
"""

from torch import Tensor

from plasticity.metrics.measures import rank


def effective_rank(features: Tensor) -> float:
    """Returns ``plasticity.metrics.measures.rank.effective_rank`` of features (n, d), in [1, min(n, d)]."""
    return rank.effective_rank(rank.singular_values(features))


def srank(features: Tensor, delta: float = 0.01) -> float:
    """Returns ``plasticity.metrics.measures.rank.srank`` of features (n, d), in [1, min(n, d)]; delta is in [0, 1)."""
    return rank.srank(rank.singular_values(features), delta)


def stable_rank(features: Tensor) -> float:
    """Returns ``plasticity.metrics.measures.rank.stable_rank`` of features (n, d), in [1, min(n, d)]."""
    return rank.stable_rank(rank.singular_values(features))


def feature_rank(features: Tensor, epsilon: float = 0.01) -> float:
    """Returns ``plasticity.metrics.measures.rank.feature_rank`` of features (n, d), in [0, min(n, d)]; epsilon is at least 0."""
    return rank.feature_rank(rank.singular_values(features), len(features), epsilon)


def approximate_rank(features: Tensor, delta: float = 0.01) -> float:
    """Returns ``plasticity.metrics.measures.rank.approximate_rank`` of features (n, d), in [1, min(n, d)]; delta is in [0, 1)."""
    return rank.approximate_rank(rank.singular_values(features), delta)


def numerical_rank(features: Tensor) -> float:
    """Returns ``plasticity.metrics.measures.rank.numerical_rank`` of features (n, d), in [1, min(n, d)]."""
    return rank.numerical_rank(rank.singular_values(features), *features.shape)
