"""Sizes of, and distances between, sets of named tensors: weights, gradients, updates.

A set is one long vector: norms are joint over all its tensors. Which tensors belong (weights only, biases too, normalisation
scales) is the caller's choice and changes the number, so name it where the value is logged.

Everything is summed in float64 and comes back as a 0-dim float64 tensor without waiting for the device. Float32 is not
enough: on the CPU its norm of four million values is off by one part in ten thousand. Where there are no values at all the
result is an ``Undefined``, since a missing gradient is not a gradient of norm 0. A non-finite entry gives NaN or infinity.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity.metrics.undefined import Undefined


def norm(tensors: Mapping[str, Tensor]) -> Tensor | Undefined:
    """Returns the joint Frobenius norm, the root of the sum of all squared entries; at least 0.

    Args:
        tensors: Tensors of any shape and floating dtype, on one device.
    """
    return _norm_of([tensor.detach() for tensor in tensors.values()])


def distance(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Tensor | Undefined:
    """Returns the joint Frobenius norm of ``tensors - reference``, tensors paired by name; at least 0, 0 if equal.

    Args:
        tensors: Tensors of any shape and floating dtype, on one device.
        reference: As many tensors with the same names and shapes, e.g. the weights at initialisation.

    Raises:
        ValueError: If a name is missing on either side, or a pair differs in shape.
    """
    if tensors.keys() != reference.keys():
        unmatched = ", ".join(sorted(tensors.keys() ^ reference.keys()))
        raise ValueError(f"tensors and reference must have the same names; only one of them has {unmatched}")
    for name, tensor in tensors.items():
        if tensor.shape != reference[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(reference[name].shape)}"
            raise ValueError(f"{name} has shapes {shapes} in tensors and reference; they must be equal")
    if not tensors:
        return _norm_of([])
    # Subtracted in float32 at least: the difference of two bf16 weights need not be a bf16 number.
    minuends = [_at_least_float32(tensor) for tensor in tensors.values()]
    subtrahends = [_at_least_float32(reference[name]) for name in tensors]
    return _norm_of(list(torch._foreach_sub(minuends, subtrahends)))


def mean_magnitude(tensors: Mapping[str, Tensor]) -> Tensor | Undefined:
    """Returns the mean of abs(w) over all entries of all tensors (weight magnitude, Dohare et al. 2024); at least 0.

    Args:
        tensors: Tensors of any shape and floating dtype, on one device.
    """
    values = [tensor.detach() for tensor in tensors.values()]
    if _count(values) == 0:
        return Undefined("there are no values")
    return torch.stack(torch._foreach_norm(values, 1, torch.float64)).sum() / _count(values)


def root_mean_square(tensors: Mapping[str, Tensor]) -> Tensor | Undefined:
    """Returns the root of the mean squared entry, ``norm`` freed of the number of entries; at least 0.

    Args:
        tensors: Tensors of any shape and floating dtype, on one device.
    """
    values = [tensor.detach() for tensor in tensors.values()]
    norm, root = _norm_of(values), _count(values) ** 0.5
    return norm if isinstance(norm, Undefined) else norm / root


def _norm_of(values: list[Tensor]) -> Tensor | Undefined:
    if _count(values) == 0:
        return Undefined("there are no values")
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values, 2, torch.float64)))
    return norm


def _count(values: list[Tensor]) -> int:
    return sum(value.numel() for value in values)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
