"""The Hessian of the loss by products with vectors: its trace, and how many directions its curvature is spread over."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch, Objective
from plasticity.settings.seeding import torch_generator

EXAMPLES: Final = 64
MOST_EXACT: Final = 500  # parameters up to which the whole matrix is made
TRACE_PROBES: Final = 64
SPECTRUM_PROBES: Final = 4
# Most eigenvalues are next to 0, where too few steps place some that stand for thousands: at 30 steps ranks of networks of 2,700
# parameters came out up to 1.8 times too large, at 120 within 6 %, as did that of one of 100,000 against 480 steps.
LANCZOS_STEPS: Final = 120
MOST_ESTIMATED: Final = 500_000  # parameters whose Lanczos vectors, 120 of them, take 240 MB
SMALLEST_SHARE: Final = 1e-6  # of the largest magnitude; float32 products cannot distinguish less from 0

Product = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


class Spectrum(NamedTuple):
    """Eigenvalues, and how many each of them stands for.

    Attributes:
        values: (k,) float64.
        counts: (k,) float64, at least 0, with the number of parameters as their sum.
    """

    values: Tensor
    counts: Tensor


def of_hessian(view: PartView, compute: Callable[[Product, int, torch.device], Result]) -> Result | Undefined:
    """Computes something from products with the Hessian of the mean loss of the latest examples, by all parameters.

    In evaluation mode, without dropout. A product is exact except at the kinks of the activations, whose curvature it does not
    include.

    Args:
        view: The part.
        compute: Called with the product, which maps (P,) to (P,), the number of parameters P and their device.
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
        if not bool(gradient.isfinite().all()):
            return Undefined("the gradient is not finite")
        product = _zero if not gradient.requires_grad else lambda vector: _product(gradient, parameters, vector)
        return compute(product, gradient.numel(), gradient.device)


def hessian_trace(view: PartView) -> float:
    """Returns the sum of the eigenvalues: of the whole matrix up to ``MOST_EXACT`` parameters, otherwise ``estimated_trace``."""
    if _parameters(view) <= MOST_EXACT:
        exact = view.once("hessian", whole_spectrum)
        return exact if isinstance(exact, Undefined) else _finite(float(exact.values.sum()))
    estimate = of_hessian(view, lambda product, count, device: estimated_trace(product, count, device, TRACE_PROBES))
    return estimate if isinstance(estimate, Undefined) else _finite(estimate)


def hessian_effective_rank(view: PartView) -> float:
    """Returns the effective rank of the magnitudes of the eigenvalues.

    Source: Lewandowski et al. 2023, "Directions of Curvature as an Explanation for Loss of Plasticity", where that rank falls.
    The whole Hessian, of the latest examples, and the exponential of the entropy are this testbed's reading.

    Of the whole matrix up to ``MOST_EXACT`` parameters, of ``estimated_spectrum`` up to ``MOST_ESTIMATED``.
    """
    count = _parameters(view)
    if count > MOST_ESTIMATED:
        return Undefined(f"the network has {count} parameters; the rank of the Hessian is estimated for up to {MOST_ESTIMATED}")
    if count <= MOST_EXACT:
        spectrum = view.once("hessian", whole_spectrum)
    else:
        spectrum = of_hessian(
            view, lambda product, count, device: estimated_spectrum(product, count, device, SPECTRUM_PROBES, LANCZOS_STEPS)
        )
    return spectrum if isinstance(spectrum, Undefined) else rank_of(spectrum)


def whole_spectrum(view: PartView) -> Spectrum | Undefined:
    """Returns the eigenvalues of the whole matrix, from as many products as there are parameters."""

    def compute(product: Product, count: int, device: torch.device) -> Spectrum:
        matrix = torch.stack([product(row) for row in torch.eye(count, device=device)]).double()
        values = (
            torch.linalg.eigvalsh((matrix + matrix.T) / 2) if bool(matrix.isfinite().all()) else matrix.new_full((1,), torch.nan)
        )
        return Spectrum(values, torch.ones_like(values))

    return of_hessian(view, compute)


def estimated_trace(product: Product, count: int, device: torch.device, probes: int) -> float:
    """Returns the mean of z^T H z over vectors z of random signs (Hutchinson 1990).

    Its expectation is the trace and its variance 2 / probes times the sum of the squared entries off the diagonal.

    Args:
        product: Multiplies a vector by H.
        count: Length of a vector.
        device: Where vectors live.
        probes: Vectors, drawn by a separate generator.
    """
    generator = torch_generator(0, "hessian trace")
    drawn = (_signs(count, generator, device) for _ in range(probes))
    return sum(float((signs.double() * product(signs).double()).sum()) for signs in drawn) / probes


def estimated_spectrum(product: Product, count: int, device: torch.device, probes: int, steps: int) -> Spectrum:
    """Returns eigenvalues with counts that stand for the spectrum of H in sums over it (stochastic Lanczos quadrature).

    From each vector z of random signs, ``steps`` steps of Lanczos make a tridiagonal matrix T. The eigenvalues of T, weighted by
    the squared first entries of its eigenvectors, integrate functions of H's eigenvalues as seen from z: exactly, if H has no
    more distinct eigenvalues than there are steps. The mean over z estimates the sum over all of them, with an error of the
    order of probes^-1/2 (Ubaru, Chen & Saad 2017).

    Args:
        product: Multiplies a vector by H.
        count: Length of a vector.
        device: Where vectors live.
        probes: Vectors, drawn by a separate generator.
        steps: Products for each of them.
    """
    generator = torch_generator(0, "hessian spectrum")
    found = []
    for _ in range(probes):
        values, vectors = torch.linalg.eigh(tridiagonal(product, _signs(count, generator, device), steps))
        found.append(Spectrum(values, vectors[0].square() * (count / probes)))
    return Spectrum(*(torch.cat(own) for own in zip(*found, strict=True)))


def tridiagonal(product: Product, start: Tensor, steps: int) -> Tensor:
    """Returns the matrix of Lanczos' method with complete reorthogonalisation, (k, k) float64 with k <= steps.

    It ends early where the vectors so far span a space that the map does not leave.

    Args:
        product: Multiplies a vector by a symmetric map.
        start: (P,), not 0.
        steps: Most products.
    """
    most = min(steps, len(start))
    basis = start.new_empty(most, len(start))
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    next_to_it: list[float] = []
    for step in range(most):
        image = product(basis[step])
        diagonal.append(float((basis[step].double() * image.double()).sum()))
        held = basis[: step + 1]
        for _ in range(2):  # once leaves rounding of the size of what it takes out
            image = image - held.T @ (held @ image)
        length = float(image.norm())
        if step + 1 == most or not length > SMALLEST_SHARE * max(map(abs, (*diagonal, *next_to_it))):
            break
        next_to_it.append(length)
        basis[step + 1] = image / length
    off = torch.diag(torch.tensor(next_to_it, dtype=torch.float64), 1)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + off + off.T


def rank_of(spectrum: Spectrum) -> float:
    """Returns the effective rank exp(-sum p ln p), p being the shares of the eigenvalues in the sum of all magnitudes.

    An eigenvalue that stands for c of them counts c times. Those below ``SMALLEST_SHARE`` of the largest magnitude count as 0.
    """
    magnitudes, counts = spectrum.values.abs(), spectrum.counts
    if not bool(magnitudes.isfinite().all()):
        return Undefined("the curvature is not finite")
    magnitudes = torch.where(magnitudes > SMALLEST_SHARE * magnitudes.max(), magnitudes, 0.0)
    total = (counts * magnitudes).sum()
    if not float(total) > 0:
        return Undefined("the loss has no curvature")
    return float((counts * torch.special.entr(magnitudes / total)).sum().exp().clamp(1.0, float(counts.sum())))


def _parameters(view: PartView) -> int:
    return sum(parameter.numel() for parameter in view.part.network.parameters() if parameter.requires_grad)


def _signs(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return (torch.randint(2, (count,), generator=generator) * 2.0 - 1.0).to(device)


def _finite(value: float) -> float:
    return value if value == value and abs(value) < float("inf") else Undefined("the curvature is not finite")


def _zero(vector: Tensor) -> Tensor:
    return torch.zeros_like(vector)


def _loss(network: Network, objective: Objective[Any], batch: Batch) -> Tensor:
    return objective(network(batch.inputs).float(), batch)[0]


def _flat_gradient(value: Tensor, parameters: Sequence[Tensor], create_graph: bool) -> Tensor:
    gradients = torch.autograd.grad(
        value, parameters, create_graph=create_graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def _product(gradient: Tensor, parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    return _flat_gradient(gradient @ vector, parameters, create_graph=False).detach()
