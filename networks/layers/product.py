"""Dense maps on the fastest kernel that the processor has.

PyTorch multiplies float32 matrices on an x86 processor by MKL, which leaves the 512-bit units of some processors unused; oneDNN,
which makes its convolutions, uses them: on an AMD EPYC with AVX-512 products of a few hundred rows and columns take half the
time. On an AMD EPYC with AVX2 alone oneDNN is slower: 1.1 to 1.2 times forward, and 1.2 to 1.4 times with the backward
pass, for (256, 113) by (113, 256) and (256, 256) by (256, 256). So the choice is made once, by the instructions that the
processor has. The results of the two differ by rounding: a run is repeated and resumed bit for bit only on processors of one
kind.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional

_WORTHWHILE: Final = 2_000_000  # multiplications from which on the more expensive call pays off
_THINNEST: Final = 32  # rows, inputs and outputs
# PyTorch's own choice of kernels, which ATEN_CPU_CAPABILITY can lower.
_HAS_WIDE_UNITS: Final = torch.backends.cpu.get_cpu_capability() == "AVX512"


class Dense(nn.Linear):
    """``nn.Linear``, by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, in) to (B, out)."""
        return linear(input, self.weight, self.bias)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As ``torch.nn.functional.linear``, by oneDNN where that is faster: large float32 products by 512-bit units."""
    if _by_onednn(input, weight):
        return _product(input, weight, bias)
    return functional.linear(input, weight, bias)


def _by_onednn(input: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_WIDE_UNITS
        and input.shape[0] * weight.numel() >= _WORTHWHILE  # first, since it settles the case of small products
        and input.ndim == 2
        and min(input.shape[0], *weight.shape) >= _THINNEST
        and type(weight) is nn.Parameter  # a traced or differentiated call replaces it
        and weight.dtype == input.dtype == torch.float32
        and weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and get_proxy_mode() is None  # the compiler has no such product of weights that change
    )


def _product(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    if torch.is_grad_enabled():
        apply: Callable[..., Tensor] = _Product.apply  # which has no annotations in PyTorch
        recorded = apply(a, b, c)
        return recorded
    plain: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, c, "none", [], "")
    return plain


class _Product(torch.autograd.Function):
    """a b^T + c for (M, K), (N, K) and (N,); gradients are such products again, so that it can be differentiated repeatedly."""

    @staticmethod
    def forward(context: Any, a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        context.save_for_backward(a, b)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, c, "none", [], "")
        return product

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        a, b = context.saved_tensors
        (gradient,) = gradients
        for_a, for_b, for_c = context.needs_input_grad
        return (
            _product(gradient, b.t()) if for_a else None,
            _product(gradient.t(), a.t()) if for_b else None,
            gradient.sum(0) if for_c else None,
        )
