"""From anybody's module to the graph of its forward, with the shape of every value and the user's line of every operation."""

import operator
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from plasticity.adopt.operations import MAPS, NORMS, PASSING, PASSING_METHODS, POOLS, PRODUCTS, RESHAPING_METHODS, SUMS

_ONE_TENSOR: Final = (*MAPS, *NORMS, *POOLS, *PASSING, nn.Flatten, nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU)
ROOT: Final = "module"  # under which a user's module stands in the traced one
Forward = Callable[..., Any]
_DERIVED_FROM: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HERE: Final = str(Path(__file__).parent)
_TORCH: Final = str(Path(torch.__file__).parent)
_FRAME: Final = re.compile(r'File "([^"]+)", line (\d+)')


class Call(nn.Module):
    """One forward of a user's module on one input.

    Args:
        module: The module.
        forward: Called with module and inputs; None for ``module(*inputs)``.
        example: What the inputs are like.
    """

    def __init__(self, module: nn.Module, forward: Forward | None, example: Any) -> None:
        super().__init__()
        self.module, self._forward = module, forward
        self._several = len(example) if isinstance(example, tuple) else 0
        self._keys = tuple(example) if type(example) is dict else ()

    def forward(self, inputs: Any) -> Any:
        """Hands on a tensor or a dict as one input, and a tuple as several."""
        given = tuple(inputs[number] for number in range(self._several)) if self._several else (inputs,)
        if self._keys:  # a dict of its own, whose entries can be gone through while it is traced
            given = ({key: inputs[key] for key in self._keys},)
        return self.module(*given) if self._forward is None else self._forward(self.module, *given)


@dataclass(frozen=True)
class Traced:
    """The graph of a forward.

    Attributes:
        graph: Its nodes in order; ``node.target`` of a module begins with ``ROOT``.
        modules: Every module by its name in the user's module, "" for that itself.
        altered: Names of modules whose inputs or outputs are changed by hooks on them.
    """

    graph: fx.Graph
    modules: dict[str, nn.Module]
    altered: frozenset[str] = frozenset()

    def module_of(self, node: fx.Node) -> tuple[str, nn.Module]:
        """Returns name and module of a call of a module."""
        name = _own_name(node.target)
        return name, self.modules[name]


class _TensorProxy(fx.Proxy):
    """Stands for what is a tensor when it runs, and says so to a forward that asks ``isinstance(x, Tensor)``."""

    _is_param = _is_buffer = False  # what isinstance of a Parameter and a Buffer asks a tensor

    @property
    def __class__(self) -> type:
        return Tensor

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("it stays a proxy")


class _Tracer(fx.Tracer):
    """Goes into the user's own modules and stops at those of PyTorch, and at maps derived from them that compute the same.

    Args:
        example: What the inputs are like.
    """

    def __init__(self, example: Any) -> None:
        super().__init__()
        self.record_stack_traces = True
        self._example, self._tensors = example, set[fx.Node]()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Returns what stands for the result of an operation; for what is surely a tensor, one that says so."""
        if not self._is_tensor(node):
            return super().proxy(node)
        self._tensors.add(node)
        return _TensorProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """Returns an argument as a graph has it."""
        return a.node if type(a) is _TensorProxy else super().create_arg(a)

    def _is_tensor(self, node: fx.Node) -> bool:
        first = node.args[0] if node.args else None
        if node.op == "placeholder":
            return isinstance(self._example, Tensor)
        if node.op == "call_module":
            return isinstance(self.root.get_submodule(str(node.target)), _ONE_TENSOR)
        if isinstance(first, fx.Node) and first in self._tensors:
            return node.target in (*PASSING_METHODS, *RESHAPING_METHODS, *SUMS, *PRODUCTS)
        if node.target is operator.getitem and isinstance(first, fx.Node) and first.op == "placeholder":
            return isinstance(self._entry(node.args[1]), Tensor)
        return False

    def _entry(self, key: Any) -> Any:
        """Returns what the example has under a key, None for nothing."""
        if isinstance(self._example, tuple):
            return self._example[key] if isinstance(key, int) else None
        return self._example.get(key) if isinstance(self._example, Mapping) and isinstance(key, str) else None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = type(m).__module__.startswith("torch.") and not isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        return own or any(isinstance(m, kind) and _runs_as(type(m), kind) for kind in _DERIVED_FROM)


class _Shapes(ShapeProp):
    """Notes the shape of every value, and which modules have hooks that change what they take or hand on."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.altered: set[str] = set()

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module: Any = self.fetch_attr(target)
        if not module._forward_hooks and not module._forward_pre_hooks:
            return super().call_module(target, args, kwargs)
        copies = [each.clone() if isinstance(each, Tensor) else each for each in args]
        outputs = super().call_module(target, args, kwargs)
        without = module.forward(*copies, **kwargs)
        pairs = zip(tensors_in(outputs), tensors_in(without), strict=False)
        if not all(torch.equal(one, other) for one, other in pairs):
            self.altered.add(_own_name(target))
        return outputs


def _own_name(target: Any) -> str:
    """Returns the name of a module in the user's module, "" for that itself."""
    return str(target).removeprefix(ROOT).removeprefix(".")


def _runs_as(own: type, kind: type) -> bool:
    """Tells whether a class computes what the class of PyTorch computes that it is derived from."""
    return all(getattr(own, name, None) is getattr(kind, name, None) for name in ("forward", "_conv_forward"))


def trace(module: nn.Module, example: Any, forward: Forward | None, training: bool = False) -> Traced:
    """Traces one forward.

    Args:
        module: A user's module; modes, buffers, attributes and generators are left as they are.
        example: A tensor, a dict of tensors, or a tuple of several inputs.
        forward: Called with module and inputs, for a module that has no forward of its own, or one that cannot be traced.
        training: Whether to follow the module's code as it runs in training mode.

    Raises:
        ValueError: In one line that names the user's file and line which cannot be traced, or that failed on the example.
    """
    scripts = [name or type(each).__name__ for name, each in module.named_modules() if isinstance(each, torch.jit.ScriptModule)]
    if scripts:
        raise ValueError(
            f"{scripts[0]} is a script, and its operations are not to be seen: adopt the module that it was made from"
        )
    call = Call(module, forward, example)
    with as_it_was(module):
        module.train(training)
        try:
            graph = _Tracer(example).trace(call)
        except Exception as error:  # of any kind: it is the user's code that runs here, on values that are not there
            raise ValueError(_untraceable(error, module, forward)) from error
        module.eval()
        try:
            with torch.no_grad():
                call(example)  # of its own first: what follows prints whole tracebacks
                shapes = _Shapes(fx.GraphModule(call, graph))
                shapes.propagate(example)
        except Exception as error:
            raise ValueError(f"the module failed on example=: {' '.join(str(error).split())[:300]}{_at(error)}") from error
    return Traced(graph, dict(module.named_modules(remove_duplicate=False)), frozenset(shapes.altered))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Returns the shape of a tensor, None for anything else."""
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if isinstance(meta, TensorMetadata) else None


def line_of(node: fx.Node) -> str:
    """Returns the user's file and line of an operation, "" where they are not known."""
    frames = [found for found in _FRAME.findall(node.stack_trace or "") if not _is_ours(found[0])]
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""


def _untraceable(error: Exception, module: nn.Module, forward: Forward | None) -> str:
    reason = " ".join(str(error).split())
    if forward is None and "forward" in reason and ("missing" in reason or "NotImplemented" in reason):
        return (
            f"{type(module).__name__} has no forward that can be called with example=; say how it is used, "
            "forward=lambda module, inputs: (module.actor(inputs), module.critic(inputs))"
        )
    if isinstance(error, NotImplementedError):
        return (
            f"{type(module).__name__} has no forward; say how it is used, "
            "forward=lambda module, inputs: (module.actor(inputs), module.critic(inputs))"
        )
    known = {
        "control flow": "it decides by values or shapes that are not known before it runs",
        "iterated": "it goes through a value whose length is not known before it runs",
    }
    told = next((what for sign, what in known.items() if sign in reason), reason[:200])
    way_out = "give forward= without it, or say by units= what its units are"
    return f"the forward of {type(module).__name__} cannot be traced{_at(error)}: {told}; {way_out}"


def _at(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _is_ours(file: str) -> bool:
    """Tells whether a frame is of PyTorch, of tracing, or made by either."""
    return file.startswith((_TORCH, _HERE, "<")) or str(Path(file).resolve().parent) == str(Path(_HERE).resolve())


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Puts modes, attributes and buffers of a module back as they were behind the block; generators are forked."""
    modules = list(module.modules())
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    own = [(each, dict(vars(each)), dict(each._buffers)) for each in modules]
    devices = {value.device for value in [*module.parameters(), *module.buffers()] if value.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        try:
            yield
        finally:
            for each, attributes, registered in own:
                vars(each).clear()
                vars(each).update(attributes)
                each._buffers.clear()
                each._buffers.update(registered)
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


def tensors_in(outputs: Any) -> list[Tensor]:
    """Returns the tensors in what a module returned: in tuples, lists and dicts, in their order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        return [tensor for each in outputs.values() for tensor in tensors_in(each)]
    if isinstance(outputs, list | tuple):
        return [tensor for each in outputs for tensor in tensors_in(each)]
    return []
