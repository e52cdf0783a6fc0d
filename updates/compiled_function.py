"""Compiling a function of tensors so that a call costs little more than its arithmetic."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]
MOST_LAYOUTS: Final = 16  # for which a function is kept, such as sizes of minibatches; calls with others run uncompiled


class CompiledFunction:
    """A function of tensors, traced and compiled for each combination of shapes, strides and types at its first occurrence.

    ``torch.compile`` checks at every call that nothing it traced has changed; on a network of a hundred thousand weights these
    checks cost as much as the arithmetic. Here nothing else is checked, so the function must depend on its tensors alone:
    everything else that it reads must never change.

    After ``MOST_LAYOUTS`` combinations others are no longer compiled: each takes time, and memory that is never released.

    Args:
        function: Maps tensors to a sequence of tensors; it may change its arguments in place. It may not read values on the host.
        fixed: How many of its first tensors have the same layout in every call, so that it need not be checked.
    """

    def __init__(self, function: Function, fixed: int = 0) -> None:
        self._function, self._fixed = function, fixed
        self._ready: dict[tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...], Function] = {}

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Calls the function, without a graph."""
        layout = tuple([(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors[self._fixed :]])
        ready = self._ready.get(layout)
        with torch.no_grad():
            if ready is None:
                if len(self._ready) == MOST_LAYOUTS:
                    return self._function(*tensors)
                ready = self._ready[layout] = self._compile(tensors)
            return ready(*tensors)

    def _compile(self, tensors: Sequence[Tensor]) -> Function:
        # The compiler takes longer to import than everything else together, and most commands never compile.
        import torch._inductor
        from torch.fx.experimental.proxy_tensor import make_fx

        # The tracer runs the function, so it gets copies to change.
        graph = make_fx(lambda *copies: list(self._function(*copies)))(*[tensor.clone() for tensor in tensors])
        for node in graph.graph.nodes:
            node.meta.clear()  # the compiler writes its own metadata, and refuses that of the tracer
        # The C++ wrapper spares a Python call for every kernel.
        options = {"cpp_wrapper": True} if tensors[0].device.type == "cpu" else {}
        ready: Function = torch._inductor.compile(graph, list(tensors), options=options)
        return ready
