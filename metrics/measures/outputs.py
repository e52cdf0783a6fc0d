"""The outputs of an output map: how large and how undecided they are, and which directions of the features produce them."""

from typing import NamedTuple

import torch
from torch import Tensor

from plasticity.metrics.measures.shapes import require_matrix
from plasticity.metrics.undefined import Undefined


def mean_norm(outputs: Tensor) -> float:
    """Returns the mean Euclidean norm of outputs along their last axis, at least 0.

    Args:
        outputs: (..., K): K logits of one categorical, or K values of one input.
    """
    return _finite(float(outputs.double().norm(dim=-1).mean()))


def mean_entropy(logits: Tensor) -> float:
    """Returns the mean entropy, in nats, of the categoricals that logits stand for, in [0, ln K].

    Args:
        logits: (..., K).
    """
    log_shares = logits.double().log_softmax(-1)
    return _finite(float(-(log_shares.exp() * log_shares).sum(-1).mean()))


class Directions(NamedTuple):
    """What each right singular vector of the features contributes to the outputs, that of the largest singular value first.

    Attributes:
        singular_values: (k,), k = min(n, d).
        scores: Coordinates of the inputs along each direction, features @ directions, (n, k).
        answers: The output map's response to a step of length 1 along each direction, (k, outputs).
    """

    singular_values: Tensor
    scores: Tensor
    answers: Tensor

    @property
    def energies(self) -> Tensor:
        """Sum over inputs and outputs of the squared contribution of each direction, (k,)."""
        return self.scores.square().sum(0) * self.answers.square().sum(1)


def directions(features: Tensor, weight: Tensor) -> Directions:
    """Splits ``features @ weight.T`` into one contribution for each principal direction of the features, not centred.

    "Towards perpetually trainable neural networks", appendix D.1 and figure 15: the features are projected onto a direction and
    read by the weights of the last layer. The contributions, ``outer(scores[:, i], answers[i])``, add up to the outputs without
    their bias.

    Args:
        features: (n, d).
        weight: Of the output map, (outputs, d).

    Returns:
        All in float64; the sign of a direction, which is arbitrary, is the one that makes the sum of its scores at least 0.

    Raises:
        ValueError: If features or weight is no matrix.
    """
    require_matrix("features", features, "it must be (n, d)")
    require_matrix("weight", weight, "it must be (outputs, d)")
    left, sigma, right = torch.linalg.svd(features.double(), full_matrices=False)
    scores = left * sigma
    signs = torch.where(scores.sum(0) < 0, -1.0, 1.0).double()
    return Directions(sigma, scores * signs, (right * signs.unsqueeze(1)) @ weight.double().T)


def top_share(energies: Tensor) -> float:
    """Returns the first of some energies over their sum, in [0, 1].

    Args:
        energies: (k,), at least 0.
    """
    total = float(energies.sum())
    if not total < float("inf"):
        return Undefined("the features are not finite")
    return float(energies[0]) / total if total else Undefined("no direction contributes anything")


def constancy(scores: Tensor) -> float:
    """Returns how constant a contribution is over inputs, the squared mean over the mean square, in [0, 1]: 1 for a pure bias.

    Args:
        scores: Coordinates of the inputs along one direction, (n,).
    """
    square = float(scores.double().square().mean())
    return min(1.0, float(scores.double().mean().square()) / square) if square else Undefined("the direction has no scores")


def _finite(value: float) -> float:
    return value if abs(value) < float("inf") else Undefined("the outputs are not finite")
