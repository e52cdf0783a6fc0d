"""Refusals of tensors that have the wrong number of axes: a matrix where a vector is meant gives a number, and a wrong one."""

from torch import Tensor


def require_vector(name: str, x: Tensor, allowed: str) -> None:
    """Raises ValueError naming the shape of ``x`` and what is ``allowed`` unless it has one axis."""
    _require_axes(name, x, 1, allowed)


def require_matrix(name: str, x: Tensor, allowed: str) -> None:
    """Raises ValueError naming the shape of ``x`` and what is ``allowed`` unless it has two axes."""
    _require_axes(name, x, 2, allowed)


def require_square(name: str, x: Tensor, allowed: str) -> None:
    """Raises ValueError naming the shape of ``x`` and what is ``allowed`` unless it has two axes of the same length."""
    _require_axes(name, x, 2, allowed)
    if x.shape[0] != x.shape[1]:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; {allowed}")


def require_same_shape(names: str, first: Tensor, second: Tensor) -> None:
    """Raises ValueError naming both shapes unless they are equal; ``names`` are those of the two tensors."""
    if first.shape != second.shape:
        raise ValueError(f"{names} have shapes {tuple(first.shape)} and {tuple(second.shape)}; they must be equal")


def sample_axes(name: str, x: Tensor) -> tuple[int, ...]:
    """Returns every axis of activations but that of the units, 1, after checking that there is something to average.

    Raises:
        ValueError: If x has fewer than two axes or no values.
    """
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be (B, U) or (B, U, *spatial) with at least one value")
    return (0, *range(2, x.ndim))


def _require_axes(name: str, x: Tensor, axes: int, allowed: str) -> None:
    if x.ndim != axes:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; {allowed}")
