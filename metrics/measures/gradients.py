"""Gradients of single examples: how far what is learned from one helps, or undoes, what is learned from another."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from plasticity.metrics.measures.shapes import require_square
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch

EXAMPLES: Final = 50
MOST_ENTRIES: Final = 200_000_000  # of all gradients together, 800 MB; large networks are measured on fewer examples
_CHUNK: Final = 1_000_000
_CLUSTERS: Final = 5
_ROUNDS: Final = 50
# The messages of functions of such matrices when they are given something else.
_INNER_PRODUCTS: Final = "it must be (n, n), inner products; of gradients (n, p) take gradients @ gradients.T"
_COSINES: Final = "it must be (k, k), cosines"


def loss_gram(view: PartView) -> Tensor | Undefined:
    """Returns the Gram matrix, (n, n), of the gradients of the losses of the latest examples that a part learned from."""
    examples = view.part.examples
    network, objective = view.part.network, examples.objective
    batch = examples.latest(_affordable(network))
    if objective is None:
        return Undefined("the part's loss is not a function of its outputs alone")
    if batch is None:
        return Undefined("nothing has been learned yet")
    return _gram(network, lambda row: objective(*_one(network, batch, row))[0], batch.inputs.shape[0])


def tangent_gram(view: PartView) -> Tensor | Undefined:
    """Returns the empirical neural tangent kernel, (n, n), of the sum of the outputs, on the first inputs of the sample."""
    network, inputs = view.part.network, view.inputs
    if inputs is None:
        return Undefined("there are no inputs yet")
    count = min(_affordable(network), inputs.shape[0])
    return _gram(network, lambda row: network(inputs[row : row + 1]).sum(), count)


def gram_of(network: Network, scalar: Callable[[int], Tensor], count: int) -> Tensor:
    """Returns the inner products of the gradients of ``scalar(0)`` ... ``scalar(count - 1)`` by all parameters.

    Args:
        network: In evaluation mode; its parameters' ``grad`` stays as it is.
        scalar: Computes a number with a graph.
        count: How many there are.

    Returns:
        (count, count) float64, summed in float64.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rows: list[Tensor] = []
    for row in range(count):
        with torch.enable_grad():
            gradients = torch.autograd.grad(scalar(row), parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    gram = torch.zeros(count, count, dtype=torch.float64, device=rows[0].device)
    for start in range(0, rows[0].numel(), _CHUNK):
        part = torch.stack([row[start : start + _CHUNK] for row in rows]).double()
        gram += part @ part.T
    return gram


def cosines(gram: Tensor) -> Tensor | Undefined:
    """Returns the cosine between any two gradients, (k, k), of the k examples whose gradient is not 0.

    Args:
        gram: Inner products of gradients, (n, n).

    Raises:
        ValueError: If it is not square, such as the gradients themselves.
    """
    require_square("gram", gram, _INNER_PRODUCTS)
    if not bool(gram.isfinite().all()):
        return Undefined("the gradients are not finite")
    lengths = gram.diagonal().clamp(min=0).sqrt()
    kept = with_gradient(gram)
    if len(kept) < 2:
        return Undefined("fewer than two examples have a gradient")
    gram, lengths = gram[kept][:, kept], lengths[kept]
    return (gram / torch.outer(lengths, lengths)).clamp(-1, 1)


def with_gradient(gram: Tensor) -> Tensor:
    """Returns the indices of the examples whose gradient is not 0, (k,), in order; of a Gram matrix, (n, n)."""
    return (gram.diagonal() > 0).nonzero().flatten()


def mean_cosine(matrix: Tensor) -> float:
    """Returns the mean of the entries off the diagonal, in [-1, 1]."""
    return float(_off_diagonal(matrix).mean())


def aligned_fraction(matrix: Tensor, threshold: float = 0.9) -> float:
    """Returns the share of the entries off the diagonal above the threshold."""
    return float((_off_diagonal(matrix) > threshold).double().mean())


def opposed_fraction(matrix: Tensor) -> float:
    """Returns the share of the entries off the diagonal below 0: pairs of which one undoes what is learned from the other."""
    return float((_off_diagonal(matrix) < 0).double().mean())


def clustered(matrix: Tensor) -> list[int]:
    """Returns an order of rows and columns, as indices, that puts similar ones side by side.

    Rows are grouped by k-means with five clusters, the first around the row closest to the mean, each further one around the row
    that is farthest from those before; so nothing is drawn at random. Large clusters come first, within one the rows closest to
    its mean. It is for pictures: the stored matrix keeps its order.

    Args:
        matrix: Cosines, (k, k).
    """
    require_square("matrix", matrix, _COSINES)
    groups = _k_means(matrix, min(_CLUSTERS, len(matrix)))
    order: list[int] = []
    sizes = torch.bincount(groups)
    for group in sizes.argsort(descending=True, stable=True).tolist():
        rows = (groups == group).nonzero().flatten()
        if len(rows):
            distances = (matrix[rows] - matrix[rows].mean(0)).norm(dim=1)
            order.extend(rows[distances.argsort(stable=True)].tolist())
    return order


def nullspace_ratio(gram: Tensor, tolerance: float = 1e-5) -> float:
    """Returns 1 - rank / n of n gradients, each scaled to length 1, in [0, 1): the share of directions that are combinations.

    After the measure in public code of GraMa (Liu et al. 2025), which samples parameters; here all of them count. The rank is the
    number of singular values above ``tolerance`` times the largest. A gradient of 0 stays 0, and adds to the null space.

    Args:
        gram: Inner products of gradients, (n, n).
        tolerance: At least 0; below 1e-6 the rounding of the gradients counts as rank.

    Raises:
        ValueError: If it is not square, such as the gradients themselves.
    """
    require_square("gram", gram, _INNER_PRODUCTS)
    if not bool(gram.isfinite().all()):
        return Undefined("the gradients are not finite")
    kept = (gram.diagonal() > 0).nonzero().flatten()
    if not len(kept):
        return Undefined("no example has a gradient")
    lengths = gram.diagonal()[kept].sqrt()
    squares = torch.linalg.eigvalsh(gram[kept][:, kept].double() / torch.outer(lengths, lengths))
    return 1 - int((squares > tolerance**2 * squares[-1]).sum()) / len(gram)


def eigenvalues(gram: Tensor) -> Tensor:
    """Returns the eigenvalues of a Gram matrix, (n,) float64, largest first, those within rounding of 0 as 0.

    Raises:
        ValueError: If it is not square, such as the gradients themselves.
    """
    require_square("gram", gram, _INNER_PRODUCTS)
    if not bool(gram.isfinite().all()):
        return torch.full_like(gram.diagonal(), float("nan"))
    values = torch.linalg.eigvalsh(gram).flip(0)
    # The gradients are float32, and products of them add up in float64.
    return torch.where(values > torch.finfo(torch.float32).eps ** 2 * len(gram) * values[:1], values, 0.0)


def _gram(network: Network, scalar: Callable[[int], Tensor], count: int) -> Tensor:
    with network.evaluating():
        return gram_of(network, scalar, count)


def _one(network: Network, batch: Batch, row: int) -> tuple[Tensor, Batch]:
    """Returns the outputs for one example, and the batch that holds it alone."""
    make: Callable[..., Batch] = type(batch)
    alone = make(*(column[row : row + 1] for column in batch))
    return network(alone.inputs).float(), alone


def _affordable(network: Network) -> int:
    return max(2, min(EXAMPLES, MOST_ENTRIES // sum(parameter.numel() for parameter in network.parameters())))


def _off_diagonal(matrix: Tensor) -> Tensor:
    require_square("matrix", matrix, _COSINES)
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


def _k_means(rows: Tensor, clusters: int) -> Tensor:
    """Returns the cluster of each row, (k,)."""
    distances = (rows - rows.mean(0)).norm(dim=1)
    chosen = [int(distances.argmin())]
    while len(chosen) < clusters:
        chosen.append(int(torch.cdist(rows, rows[chosen]).amin(1).argmax()))
    centres = rows[chosen]
    groups = torch.cdist(rows, centres).argmin(1)
    for _ in range(_ROUNDS):
        means = [rows[groups == group].mean(0) if bool((groups == group).any()) else centres[group] for group in range(clusters)]
        centres = torch.stack(means)
        moved = torch.cdist(rows, centres).argmin(1)
        if bool((moved == groups).all()):
            break
        groups = moved
    return groups
