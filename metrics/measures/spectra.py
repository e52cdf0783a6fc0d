"""Singular values of weights: how far a layer can stretch its inputs, and how unevenly."""

import torch
from torch import Tensor

from plasticity.metrics.measures.rank import singular_values
from plasticity.metrics.measures.shapes import require_vector
from plasticity.metrics.undefined import Undefined


def weight_singular_values(weight: Tensor) -> Tensor:
    """Returns the singular values of a weight, (min(out, in),), in float64, largest first.

    Args:
        weight: (out, in), or (out, channels, *kernel), which is flattened to (out, channels * kernel): the map of one patch, not
            that of a whole image.

    Raises:
        ValueError: If it has fewer than two axes.
    """
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; it must be (out, in) or (out, channels, *kernel)")
    return singular_values(weight.detach().flatten(1))


def condition_number(sigma: Tensor) -> float:
    """Returns the largest singular value over the smallest, at least 1; ``Undefined`` if that is 0 up to float32 rounding.

    Args:
        sigma: Singular values, (k,), k >= 1.

    Raises:
        ValueError: If sigma is not a vector, such as the weight itself, or empty.
    """
    _require_values(sigma)
    largest, smallest = float(sigma.max()), float(sigma.min())
    if not largest < float("inf"):
        return Undefined("the weights are not finite")
    if smallest <= torch.finfo(torch.float32).eps * largest:
        return Undefined("the weights are singular")
    return largest / smallest


def deviation_from_isometry(sigma: Tensor) -> float:
    """Returns the squared Frobenius norm of W^T W - I, or of W W^T - I if W has more columns than rows: sum (sigma^2 - 1)^2.

    Source: the measure that FIRE (2026) and Parseval regularisation reduce. At least 0; 0 for orthogonal rows or columns.

    Args:
        sigma: Singular values, (k,), k >= 1.

    Raises:
        ValueError: If sigma is not a vector, such as the weight itself, or empty.
    """
    _require_values(sigma)
    return float((sigma.square() - 1).square().sum())


def _require_values(sigma: Tensor) -> None:
    allowed = "it must be (k,), at least one singular value; of a weight take weight_singular_values(weight)"
    require_vector("sigma", sigma, allowed)
    if len(sigma) == 0:
        raise ValueError(f"sigma has shape (0,); {allowed}")
