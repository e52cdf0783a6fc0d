"""Metrics of the loss landscape: gradients of single examples and curvature; they cost many backward passes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

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
)
from plasticity.metrics.measures.rank import effective_rank, srank
from plasticity.metrics.measures.sharpness import Sharpness, sharpness
from plasticity.metrics.metric import Measured, Metric, of_parts
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView


def _gram(view: PartView) -> Tensor | Undefined:
    return view.once("gram of the gradients", loss_gram)


def _kernel(view: PartView) -> Tensor | Undefined:
    return view.once("tangent kernel", tangent_gram)


def _cosines(view: PartView) -> Tensor | Undefined:
    gram = _gram(view)
    return gram if isinstance(gram, Undefined) else cosines(gram)


def _of_cosines(views: Sequence[PartView], of: Callable[[Tensor], float]) -> Measured:
    def part(view: PartView) -> float:
        matrix = _cosines(view)
        return matrix if isinstance(matrix, Undefined) else of(matrix)

    return of_parts(views, part)


def _spectrum(
    views: Sequence[PartView], of: Callable[[PartView], Tensor | Undefined], rank: Callable[[Tensor], float]
) -> Measured:
    def part(view: PartView) -> float:
        gram = of(view)
        return gram if isinstance(gram, Undefined) else _gradient_words(rank(eigenvalues(gram)))

    return of_parts(views, part)


def _gradient_words(rank: float) -> float:
    """Says gradients where the rank's reason says features."""
    return Undefined(rank.reason.replace("features", "gradients")) if isinstance(rank, Undefined) else rank


def _matrices(views: Sequence[PartView]) -> Measured:
    values: Measured = {}
    for view in views:
        matrix = _cosines(view)
        values[f"/{view.name}"] = (
            matrix if isinstance(matrix, Undefined) else Matrix(clustered(matrix), -1.0, 1.0, "example, similar ones together")
        )
    return values


def _sharpness(views: Sequence[PartView], of: Callable[[Sharpness], float]) -> Measured:
    def part(view: PartView) -> float:
        both = view.once("sharpness", sharpness)
        if isinstance(both, Undefined):
            return both
        value = of(both)
        return value if value == value else Undefined("the curvature is not finite")

    return of_parts(views, part)


_SHARED: Final = "as gradient_cosine, shared"

LOSS: Final[Mapping[str, Metric]] = {
    "gradient_cosine": Metric(
        "Mean cosine between the loss gradients of two of the latest 50 examples.",
        "-1 to 1",
        "rises",
        "50 backward passes of one example",
        partial(_of_cosines, of=mean_cosine),
        default=False,
    ),
    "gradient_cosine_above_0.9": Metric(
        "Fraction of pairs of these examples whose gradients have a cosine above 0.9.",
        "0 to 1",
        "rises",
        _SHARED,
        partial(_of_cosines, of=aligned_fraction),
        default=False,
    ),
    "gradient_cosine_below_0": Metric(
        "Fraction of pairs of these examples whose gradients oppose each other.",
        "0 to 1",
        "rises or falls",
        _SHARED,
        partial(_of_cosines, of=opposed_fraction),
        default=False,
    ),
    "gradient_effective_rank": Metric(
        "Effective rank of the Gram matrix of these gradients.",
        "1 to examples",
        "falls",
        _SHARED,
        partial(_spectrum, of=_gram, rank=effective_rank),
        default=False,
    ),
    "gradient_cosine_matrix": Metric(
        "Image of these cosines, similar examples side by side (Lyle et al. 2023).",
        "-1 to 1",
        "shows blocks",
        _SHARED,
        _matrices,
        default=False,
    ),
    "ntk_effective_rank": Metric(
        "Effective rank of the empirical neural tangent kernel of the sum of the outputs, on 50 inputs.",
        "1 to examples",
        "falls",
        "50 backward passes of one input",
        partial(_spectrum, of=_kernel, rank=effective_rank),
        default=False,
    ),
    "ntk_srank": Metric(
        "Least number of eigenvalues of that kernel that hold 99 % of their sum.",
        "1 to examples",
        "falls",
        "as ntk_effective_rank, shared",
        partial(_spectrum, of=_kernel, rank=srank),
        default=False,
    ),
    "sharpness": Metric(
        "Largest eigenvalue of the Hessian of the loss on the latest 64 examples.",
        "any number",
        "rises",
        "20 to 200 Hessian-vector products",
        partial(_sharpness, of=lambda both: both.largest),
        default=False,
    ),
    "sharpness_magnitude": Metric(
        "Eigenvalue of that Hessian of largest magnitude, with its sign.",
        "any number",
        "rises",
        "as sharpness, shared",
        partial(_sharpness, of=lambda both: both.largest_magnitude),
        default=False,
    ),
}
