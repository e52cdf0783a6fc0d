"""The largest eigenvalues of the loss's Hessian, by power iteration."""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from plasticity.metrics.measures.hessian import Product, of_hessian
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.settings.seeding import torch_generator

MOST_ITERATIONS: Final = 100
LEAST_ITERATIONS: Final = 20
TOLERANCE: Final = 1e-4


class Sharpness(NamedTuple):
    """The eigenvalue of largest magnitude, with its sign, and the largest one."""

    largest_magnitude: float
    largest: float


def sharpness(view: PartView) -> Sharpness | Undefined:
    """Measures the Hessian of ``of_hessian``."""

    def compute(product: Product, count: int, device: torch.device) -> Sharpness:
        start = torch.randn(count, generator=torch_generator(0, "sharpness")).to(device)
        return extreme_eigenvalues(product, start)

    return of_hessian(view, compute)


def extreme_eigenvalues(product: Product, start: Tensor) -> Sharpness:
    """Returns the eigenvalue of a symmetric map of largest magnitude, and the largest eigenvalue.

    Power iteration finds the first. If it is negative, a second iteration, of the map minus that eigenvalue times the identity,
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


def dominant_eigenvalue(product: Product, start: Tensor) -> float:
    """Returns the Rayleigh quotient after power iteration, whose magnitude is at most that of the dominant eigenvalue.

    It stops when an iteration changes the quotient by less than a share of 1e-4, after at least 20 and at most 100.
    Two eigenvalues of similar magnitude and opposite sign may keep it from converging: it then lies between them.

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
