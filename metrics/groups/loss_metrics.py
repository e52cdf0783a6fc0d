"""Metrics of the loss landscape: gradients of single examples and curvature; they cost many backward passes."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from plasticity.metrics.log_values import Matrix
from plasticity.metrics.measures.gradients import (
    aligned_fraction,
    clustered,
    cosines,
    eigenvalues,
    loss_gram,
    mean_cosine,
    opposed_fraction,
    tangent_gram,
    with_gradient,
)
from plasticity.metrics.measures.hessian import hessian_effective_rank, hessian_trace
from plasticity.metrics.measures.rank import effective_rank, srank
from plasticity.metrics.measures.sharpness import Sharpness, sharpness
from plasticity.metrics.metric import Measured, metric
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView

_of_gradients = partial(metric, of="parts", cost="as gradient_cosine, shared")
_of_kernel = partial(metric, of="parts", direction="falls", range="1 to examples")
_curvature = partial(metric, of="parts", direction="rises", range="any number")


def _gram(view: PartView) -> Tensor | Undefined:
    return view.once("gram of the gradients", loss_gram)


def _kernel(view: PartView) -> Tensor | Undefined:
    return view.once("tangent kernel", tangent_gram)


def _cosines(view: PartView) -> Tensor | Undefined:
    gram = _gram(view)
    return gram if isinstance(gram, Undefined) else cosines(gram)


def _of_cosines(view: PartView, of: Callable[[Tensor], float]) -> float:
    matrix = _cosines(view)
    return matrix if isinstance(matrix, Undefined) else of(matrix)


def _rank_of(gram: Tensor | Undefined, rank: Callable[[Tensor], float]) -> float:
    return gram if isinstance(gram, Undefined) else _gradient_words(rank(eigenvalues(gram)))


def _gradient_words(rank: float) -> float:
    """Replaces "features" by "gradients" in the rank's reason."""
    return Undefined(rank.reason.replace("features", "gradients")) if isinstance(rank, Undefined) else rank


@_of_gradients("gradient_cosine", range="-1 to 1", direction="rises", cost="50 backward passes of one example")
def _gradient_cosine(view: PartView) -> float:
    """Mean cosine between the loss gradients of two of the latest 50 examples."""
    return _of_cosines(view, mean_cosine)


@_of_gradients("gradient_cosine_above_0.9", range="0 to 1", direction="rises")
def _aligned_fraction(view: PartView) -> float:
    """Fraction of pairs of these examples whose gradients have a cosine above 0.9."""
    return _of_cosines(view, aligned_fraction)


@_of_gradients("gradient_cosine_below_0", range="0 to 1", direction="rises or falls")
def _opposed_fraction(view: PartView) -> float:
    """Fraction of pairs of these examples whose gradients oppose each other."""
    return _of_cosines(view, opposed_fraction)


@_of_gradients("gradient_effective_rank", range="1 to examples", direction="falls")
def _gradient_rank(view: PartView) -> float:
    """Effective rank of the Gram matrix of these gradients."""
    return _rank_of(_gram(view), effective_rank)


@_of_gradients("gradient_cosine_matrix", of="agent", range="-1 to 1", direction="shows blocks")
def _matrices(views: Sequence[PartView]) -> Measured:
    """Matrix of these cosines; its image has similar examples side by side (Lyle et al. 2023)."""
    values: Measured = {}
    for view in views:
        gram, matrix = _gram(view), _cosines(view)
        if isinstance(gram, Undefined) or isinstance(matrix, Undefined):
            values[f"/{view.name}"] = matrix
            continue
        names = [str(number) for number in with_gradient(gram).tolist()]
        values[f"/{view.name}"] = Matrix(matrix, -1.0, 1.0, "example, similar ones together", names, clustered(matrix))
    return values


@_of_kernel("ntk_effective_rank", cost="50 backward passes of one input")
def _kernel_effective_rank(view: PartView) -> float:
    """Effective rank of the empirical neural tangent kernel of the sum of the outputs, on 50 inputs."""
    return _rank_of(_kernel(view), effective_rank)


@_of_kernel("ntk_srank", cost="as ntk_effective_rank, shared")
def _kernel_srank(view: PartView) -> float:
    """Least number of eigenvalues of that kernel that hold 99 % of their sum."""
    return _rank_of(_kernel(view), srank)


@_curvature("sharpness", cost="20 to 200 Hessian-vector products")
def _largest(view: PartView) -> float:
    """Largest eigenvalue of the Hessian of the loss on the latest 64 examples."""
    return _sharpness(view, lambda both: both.largest)


@_curvature("sharpness_magnitude", cost="as sharpness, shared")
def _largest_magnitude(view: PartView) -> float:
    """Eigenvalue of that Hessian of largest magnitude, with its sign."""
    return _sharpness(view, lambda both: both.largest_magnitude)


@_curvature("hessian_trace", cost="64 Hessian-vector products, or one for each of up to 500 parameters")
def _trace(view: PartView) -> float:
    """Trace of that Hessian: exact for up to 500 parameters, beyond them an estimate by 64 vectors of random signs."""
    return hessian_trace(view)


@metric(
    "hessian_effective_rank",
    of="parts",
    direction="falls",
    range="1 and up",
    cost="480 Hessian-vector products, or as hessian_trace, shared, for up to 500 parameters; none for more than 500,000",
)
def _hessian_rank(view: PartView) -> float:
    """Effective rank of the magnitudes of that Hessian's eigenvalues, beyond 500 parameters estimated by Lanczos' method."""
    return hessian_effective_rank(view)


def _sharpness(view: PartView, of: Callable[[Sharpness], float]) -> float:
    both = view.once("sharpness", sharpness)
    if isinstance(both, Undefined):
        return both
    value = of(both)
    return value if value == value else Undefined("the curvature is not finite")
