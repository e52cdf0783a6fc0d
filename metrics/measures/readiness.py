"""How strong and how similar the gradients of minibatches are, which is claimed to predict whether a network still learns.

Source: Wang et al. 2026, "Predicting Plasticity in Deep Continual Learning: A Theoretical Perspective", arXiv 2605.09044. With
minibatch gradients g_B, their mean g and a smoothness constant L of the loss:

    strength S = |g|^2 / L,  reliability R = |g|^2 / E|g_B|^2,  readiness = R S.

These formulas are from its abstract and a summary; the paper itself could not be read. So its own choice of L is not known here,
nor are its minibatches. A step of size 1 / L along the gradient of an L-smooth loss lowers the loss by at least S / 2.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.metrics.measures.minibatches import LossExamples, drawn, gradients_of, loss_examples
from plasticity.metrics.measures.sharpness import sharpness
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView


class SquaredNorms(NamedTuple):
    """Of the gradients of some minibatches.

    Attributes:
        of_mean: Squared norm of their mean, |g|^2.
        mean: Mean of their squared norms, E|g_B|^2; at least ``of_mean``.
    """

    of_mean: float
    mean: float


def squared_norms(gradients: Iterable[Tensor]) -> SquaredNorms | Undefined:
    """Returns both, summed in float64.

    Args:
        gradients: One of each minibatch, (P,); at least one.
    """
    total, squares = torch.zeros((), dtype=torch.float64), list[float]()
    for gradient in gradients:
        exact = gradient.double()
        total = total.to(exact.device) + exact
        squares.append(float(exact.square().sum()))
    found = SquaredNorms(float((total / len(squares)).square().sum()), sum(squares) / len(squares))
    return found if found.mean < float("inf") else Undefined("the gradients are not finite")


def reliability(norms: SquaredNorms) -> float:
    """Returns |g|^2 / E|g_B|^2, in [0, 1]: 1 if all minibatches have the same gradient, 1 / B if B of them are orthogonal."""
    return norms.of_mean / norms.mean if norms.mean > 0 else Undefined("the gradient is 0")


def strength(norms: SquaredNorms, smoothness: float) -> float:
    """Returns |g|^2 / L, at least 0, for a smoothness constant L above 0."""
    return norms.of_mean / smoothness


def readiness(norms: SquaredNorms, smoothness: float) -> float:
    """Returns the product of both, at least 0 and at most the strength."""
    return reliability(norms) * strength(norms, smoothness) if norms.mean > 0 else reliability(norms)


def minibatch_norms(view: PartView) -> list[SquaredNorms | Undefined] | Undefined:
    """Draws minibatches of the part's latest examples in each repeat, and takes their gradients, in evaluation mode.

    A minibatch holds no example twice; another one may hold it again.

    Returns:
        One of each repeat, or why there is none.
    """
    examples = loss_examples(view, fewest=2)
    if isinstance(examples, Undefined):
        return examples
    with view.part.network.evaluating():
        return [squared_norms(_minibatch_gradients(view, examples, repeat)) for repeat in range(view.draws.settings.repeats)]


def _minibatch_gradients(view: PartView, examples: LossExamples, repeat: int) -> Iterator[Tensor]:
    settings, generator = view.draws.settings, view.draws.generator("readiness", repeat)
    size, rows = min(settings.minibatch_examples, examples.count // 2), torch.arange(examples.count)
    for _ in range(settings.minibatches):
        gradients = gradients_of(view.part.network, examples.rows(drawn(rows, size, generator)))
        yield torch.cat([gradient.flatten() for gradient in gradients])


def estimated_smoothness(view: PartView) -> float:
    """Returns the largest magnitude of an eigenvalue of the Hessian of the loss on the latest examples.

    That is L at the present weights, for all of the examples together; it is the same in all repeats.
    """
    both = view.once("sharpness", sharpness)
    if isinstance(both, Undefined):
        return both
    size = abs(both.largest_magnitude)
    if not size < float("inf"):
        return Undefined("the curvature is not finite")
    return size if size > 0 else Undefined("the loss has no curvature")
