"""Compiling a function of tensors so that a call costs little more than its arithmetic."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from plasticity.updates.compile_cache import CLOCK, compiled_graph, keeps_compiled

aten = torch.ops.aten
Function = Callable[..., Sequence[Tensor]]
_SUMS: Final = (aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor)
MOST_LAYOUTS: Final = 16  # for which a function is kept, such as sizes of minibatches; calls with others run uncompiled


class CompiledFunction:
    """A function of tensors, traced and compiled for each combination of shapes, strides and types at its first occurrence.

    ``torch.compile`` checks at every call that nothing it traced has changed; on a network of a hundred thousand weights these
    checks cost as much as the arithmetic. Here nothing else is checked. Tensors that the function reads without being given them
    must stay the same objects, and it must not change them; their values may change. Everything else that it reads must never
    change.

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
        with CLOCK.running():
            graph, held = _traced(self._function, tensors)
            on_host = tensors[0].device.type == "cpu"
            if on_host and keeps_compiled():
                run = compiled_graph(graph, [*tensors, *held])
                return lambda *given: run([*given, *held])
            from torch._inductor import compile as compile_graph  # slow to import, and most commands never compile

            for node in graph.graph.nodes:
                node.meta.clear()  # the compiler writes its own metadata, and refuses that of the tracer
            # The C++ wrapper spares a Python call for every kernel.
            options = {"cpp_wrapper": True} if on_host else {}
            ready: Function = compile_graph(graph, [*tensors, *held], options=options)
            return lambda *given: ready(*given, *held)


def _traced(function: Function, tensors: Sequence[Tensor]) -> tuple[GraphModule, list[Tensor]]:
    """Returns the function as a graph, and the tensors that it reads and was not given, which are the graph's last arguments."""
    # The tracer runs the function, so it gets copies to change.
    module = make_fx(lambda *copies: list(function(*copies)))(*[tensor.clone() for tensor in tensors])
    graph = module.graph
    held: dict[int, tuple[Tensor, Node]] = {}
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        tensor = getattr(module, node.target)
        if id(tensor) not in held:
            with graph.inserting_after(last):
                last = graph.placeholder(f"held_{len(held)}")
            held[id(tensor)] = tensor, last
        node.replace_all_uses_with(held[id(tensor)][1])
        graph.erase_node(node)
    _multiply_out(graph)
    module.recompile()
    return module, [tensor.detach() for tensor, _ in held.values()]


def _multiply_out(graph: Graph) -> None:
    """Writes a + alpha b as a product and a sum: the compiler of PyTorch 2.13 forgets alpha where a is a matrix product."""
    for node in graph.nodes:
        if node.target in _SUMS and "alpha" in node.kwargs:
            first, second = node.args
            with graph.inserting_before(node):
                scaled = graph.call_function(aten.mul.Tensor, (second, node.kwargs["alpha"]))
            node.args, node.kwargs = (first, scaled), {}
