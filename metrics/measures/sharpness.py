"""The largest eigenvalues of the loss's Hessian, by power iteration."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch, Objective
from plasticity.settings.seeding import torch_generator

EXAMPLES: Final = 64
MOST_ITERATIONS: Final = 100
LEAST_ITERATIONS: Final = 20
TOLERANCE: Final = 1e-4


class Sharpness(NamedTuple):
    """The eigenvalue of largest magnitude, with its sign, and the largest one."""

    largest_magnitude: float
    largest: float


def sharpness(view: PartView) -> Sharpness | Undefined:
    """Measures the Hessian of the mean loss of the latest examples, by all parameters, in evaluation mode.

    A Hessian-vector product is exact but for the kinks of the activations, whose curvature it cannot see.
    """
    network, objective = view.part.network, view.part.examples.objective
    batch = view.part.examples.latest(EXAMPLES)
    if objective is None:
        return Undefined("the part's loss is not a function of its outputs alone")
    if batch is None:
        return Undefined("nothing has been learned yet")
    # Fused attention has no second derivative.
    with network.evaluating(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradient = _flat_gradient(_loss(network, objective, batch), parameters, create_graph=True)
        start = torch.randn(gradient.shape, generator=torch_generator(0, "sharpness")).to(gradient.device)
        if not bool(gradient.isfinite().all()):
            return Undefined("the gradient is not finite")
        if not gradient.requires_grad:
            return Sharpness(0.0, 0.0)
        return extreme_eigenvalues(lambda vector: _product(gradient, parameters, vector), start)


def extreme_eigenvalues(product: Callable[[Tensor], Tensor], start: Tensor) -> Sharpness:
    """Returns the eigenvalue of a symmetric map of largest magnitude, and the largest eigenvalue.

    Power iteration finds the first. If it is negative, a second iteration, of the map less that eigenvalue times the identity,
    whose eigenvalues are then all at least 0, finds the other end of the spectrum.

    Args:
        product: Multiplies a vector by the map.
        start: A vector of the same length, not 0, that no eigenvector is orthogonal to.
    """
    first = dominant_eigenvalue(product, start)
    if first >= 0:
        return Sharpness(first, first)
    shifted = dominant_eigenvalue(lambda vector: product(vector) - first * vector, start)
    return Sharpness(first, shifted + first)


def dominant_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """Returns the Rayleigh quotient after power iteration, whose magnitude is at most that of the dominant eigenvalue.

    It stops when an iteration changes the quotient by less than a share of 1e-4, after 20 at the least and 100 at the most.
    Two eigenvalues of like magnitude and opposite sign may keep it from settling: it then lies between them.

    Args:
        product: Multiplies a vector by a symmetric map.
        start: The first vector, not 0.
    """
    vector = start / start.norm()
    quotient = 0.0
    for iteration in range(MOST_ITERATIONS):
        image = product(vector)
        last, quotient = quotient, float((vector.double() * image.double()).sum())
        length = image.norm()
        if not float(length) > 0:
            return quotient
        vector = image / length
        if iteration >= LEAST_ITERATIONS and abs(quotient - last) <= TOLERANCE * abs(quotient):
            break
    return quotient


def _loss(network: Network, objective: Objective[Any], batch: Batch) -> Tensor:
    return objective(network(batch.inputs).float(), batch)[0]


def _flat_gradient(value: Tensor, parameters: Sequence[Tensor], create_graph: bool) -> Tensor:
    gradients = torch.autograd.grad(
        value, parameters, create_graph=create_graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def _product(gradient: Tensor, parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    return _flat_gradient(gradient @ vector, parameters, create_graph=False).detach()
