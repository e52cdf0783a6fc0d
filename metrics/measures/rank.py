"""How many directions a layer's features span: ranks of the same singular values under the names that papers give them.

Features are an (n, d) matrix, one row per input and one column per feature, not centred; flatten spatial axes first. All
ranks lie between 1 and min(n, d), so n inputs can show at most n directions: use n of at least 4d where the data allow.
Higher means richer features. They are measured rarely, so each returns a plain float and waits for the device.
"""

import math

import torch
from torch import Tensor

from plasticity.metrics.measures.shapes import require_matrix, require_vector
from plasticity.metrics.undefined import Undefined

# n * d * min(n, d) above which the Gram matrix is used: an SVD of this size takes about 0.1 s on one CPU core.
SVD_WORK_LIMIT = 5e8

# Sums of singular values are compared up to this share of the total, far above float64 rounding, far below any useful delta.
SRANK_TIE_TOLERANCE = 1e-9


# The message of a function of singular values when it is given something else.
_EXPECTED = "it must be (k,), singular values; of features (n, d) take singular_values(features), or see feature_ranks"


def singular_values(features: Tensor) -> Tensor:
    """Returns the singular values of the features, in float64, largest first.

    Up to ``SVD_WORK_LIMIT`` they come from an SVD, accurate to about 1e-15 of the largest. Beyond it they are the roots of the
    eigenvalues of the smaller Gram matrix, which takes a quarter of the time but squares the condition number: values below
    roughly 1e-6 of the largest (the root of max(n, d) times the float64 epsilon) cannot be distinguished from zero and are
    returned as 0.

    Args:
        features: Shape (n, d), any floating dtype.

    Returns:
        Shape (min(n, d),), float64, non-negative and descending, on the features' device. All NaN if a feature is not finite:
        the rank functions turn that into an ``Undefined``.

    Raises:
        ValueError: If features is not a matrix.
    """
    require_matrix("features", features, "it must be (n, d)")
    n, d = features.shape
    # LAPACK is two to four times faster on tall matrices, and transposing does not change the singular values.
    tall = features.detach().double() if n >= d else features.detach().double().T
    if tall.numel() and not bool(torch.stack(tall.aminmax()).isfinite().all()):
        return torch.full((min(n, d),), float("nan"), dtype=torch.float64, device=features.device)
    if n * d * min(n, d) > SVD_WORK_LIMIT:
        return _singular_values_from_gram(tall)
    values: Tensor = torch.linalg.svdvals(tall)
    return values


def effective_rank(sigma: Tensor) -> float:
    """Returns exp(-sum_i p_i ln p_i) with p = sigma / sum(sigma) (Roy and Vetterli 2007).

    Args:
        sigma: Singular values, (k,), in any order.

    Returns:
        A number in [1, k]: 1 for a single direction, k for k equally strong ones. ``Undefined`` if all values are zero, one is
        not finite, or there are none.

    Raises:
        ValueError: If sigma is not a vector, such as the features themselves.
    """
    sigma, reason = _checked(sigma)
    if reason:
        return Undefined(reason)
    entropy = torch.special.entr(sigma / sigma.sum()).sum()
    # Rounding may carry k equal values past k in the last digit.
    return min(max(math.exp(entropy), 1.0), float(len(sigma)))


def srank(sigma: Tensor, delta: float = 0.01) -> float:
    """Returns the least k whose k largest singular values hold at least 1 - delta of the sum of all (Kumar et al. 2021).

    Dohare et al. (2024) plot this quantity under the name "stable rank"; ``stable_rank`` here is another one.
    A partial sum that misses the mark by no more than ``SRANK_TIE_TOLERANCE`` of the total counts as reaching it: 99 of 100
    equal values hold exactly 99 %, and rounding in the SVD must not turn that into 100.

    Args:
        sigma: Singular values, (k,), in any order.
        delta: Share of the sum that may be left out, in [0, 1).

    Returns:
        A whole number in [1, k], higher for richer features.
        ``Undefined`` if all values are zero, one is not finite, or there are none.

    Raises:
        ValueError: If delta is outside [0, 1), or sigma is not a vector, such as the features themselves.
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}; it must be in [0, 1)")
    sigma, reason = _checked(sigma)
    if reason:
        return Undefined(reason)
    share = sigma.sort(descending=True).values.cumsum(0) / sigma.sum()
    short = int((share < 1 - delta - SRANK_TIE_TOLERANCE).sum())
    return float(short + 1)


def stable_rank(sigma: Tensor) -> float:
    """Returns the squared Frobenius norm over the squared spectral norm, sum_i sigma_i^2 / max_i sigma_i^2.

    Args:
        sigma: Singular values, (k,), in any order.

    Returns:
        A number in [1, k], higher for richer features, never above the rank.
        ``Undefined`` if all values are zero, one is not finite, or there are none.

    Raises:
        ValueError: If sigma is not a vector, such as the features themselves.
    """
    sigma, reason = _checked(sigma)
    if reason:
        return Undefined(reason)
    return float(sigma.square().sum())


def feature_rank(sigma: Tensor, inputs: int, epsilon: float = 0.01) -> float:
    """Returns the number of singular values of features / sqrt(n) above epsilon (Lyle et al. 2022).

    The one rank here that depends on the scale of the features, and so also shows features that shrink.

    Args:
        sigma: Singular values of the features, (k,), in any order.
        inputs: n, the rows of the features. Some code leaves out the root; its thresholds compare with sqrt(n) times this one.
        epsilon: At least 0.

    Returns:
        A whole number in [0, k], higher for richer features.
        ``Undefined`` if all values are zero, one is not finite, or there are none.

    Raises:
        ValueError: If sigma is not a vector, such as the features themselves, or there are no inputs.
    """
    if inputs < 1:
        raise ValueError(f"inputs is {inputs}; it must be at least 1")
    _, reason = _checked(sigma)
    if reason:
        return Undefined(reason)
    return float((sigma.detach().double() / math.sqrt(inputs) > epsilon).sum())


def approximate_rank(sigma: Tensor, delta: float = 0.01) -> float:
    """Returns the least k whose k largest values hold at least 1 - delta of the sum of squares, the share of variance.

    ``srank`` asks the same of the sum of the values themselves, which is also in use under this name.

    Args:
        sigma: Singular values, (k,), in any order.
        delta: Share of the sum of squares that may be left out, in [0, 1).

    Returns:
        As ``srank``, never above it for the same delta.

    Raises:
        ValueError: If delta is outside [0, 1), or sigma is not a vector, such as the features themselves.
    """
    scaled, reason = _checked(sigma)
    return Undefined(reason) if reason else srank(scaled.square(), delta)


def numerical_rank(sigma: Tensor, n: int, d: int, epsilon: float = torch.finfo(torch.float32).eps) -> float:
    """Returns the number of singular values above epsilon * max(n, d) times the largest: the rank up to rounding.

    Args:
        sigma: Singular values of the (n, d) features, (k,), in any order.
        n: Rows.
        d: Columns.
        epsilon: Rounding of the features, those of a float32 network here although the values are computed in float64.

    Returns:
        A whole number in [1, k], higher for richer features.
        ``Undefined`` if all values are zero, one is not finite, or there are none.

    Raises:
        ValueError: If sigma is not a vector, such as the features themselves.
    """
    sigma, reason = _checked(sigma)
    if reason:
        return Undefined(reason)
    return float((sigma > epsilon * max(n, d)).sum())


def _checked(sigma: Tensor) -> tuple[Tensor, str]:
    """Returns sigma scaled to a largest value of 1, in float64, and why no rank can be taken of it ("" if one can).

    The ranks do not depend on the scale, and at this one neither sums nor squares leave the range of float64.

    Raises:
        ValueError: If it is not a vector.
    """
    require_vector("sigma", sigma, _EXPECTED)
    sigma = sigma.detach().double()
    if len(sigma) == 0:
        return sigma, "there are no features"
    largest = float(sigma.max())
    if not math.isfinite(largest):
        return sigma, "the features are not finite"
    if largest == 0:
        return sigma, "all features are zero"
    return sigma / largest, ""


def _singular_values_from_gram(tall: Tensor) -> Tensor:
    """Returns the singular values of a tall (n, d) float64 matrix from the eigenvalues of its (d, d) Gram matrix."""
    eigenvalues = torch.linalg.eigvalsh(tall.T @ tall).flip(0)
    noise = len(tall) * torch.finfo(torch.float64).eps * eigenvalues[:1]
    return torch.where(eigenvalues > noise, eigenvalues, 0.0).sqrt()
