"""What single operations do to channels: which are non-linearities, which leave channels as they are."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

MAPS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS: Final = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
POOLS: Final = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)
PASSING: Final = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

_OF_MODULES: Final[Mapping[type[nn.Module], str]] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.SiLU: "swish",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
_OF_FUNCTIONS: Final[Mapping[Any, str]] = {
    functional.relu: "relu",
    functional.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    functional.leaky_relu: "leaky_relu",
    functional.elu: "elu",
    functional.gelu: "gelu",
    functional.silu: "swish",
    functional.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    functional.tanh: "tanh",
    torch.tanh: "tanh",
    torch.abs: "abs",
}
_OF_METHODS: Final = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "abs": "abs"}
# Other functions of single numbers: units behind them are left alone, since no measure here knows when they are dead.
OTHER_NONLINEARITIES: Final = (
    *(nn.Softplus, nn.Mish, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.SELU, nn.CELU, nn.Softsign, nn.PReLU),
    *(nn.LogSigmoid, nn.Threshold, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.RReLU),
)
_OTHER_FUNCTIONS: Final = (
    *(functional.softplus, functional.mish, functional.hardtanh, functional.hardswish, functional.relu6, functional.selu),
    *(functional.celu, functional.softsign, functional.prelu, torch.sin, torch.cos, torch.exp, torch.square, torch.prelu),
)
POOLING_FUNCTIONS: Final = (
    *(functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, torch.max_pool2d, functional.avg_pool1d),
    *(functional.avg_pool2d, functional.avg_pool3d, functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d),
    *(functional.adaptive_max_pool2d, functional.adaptive_max_pool1d),
)
PASSING_FUNCTIONS: Final = (functional.dropout, functional.dropout1d, functional.dropout2d, torch.clone, torch.detach)
PASSING_METHODS: Final = ("detach", "contiguous", "clone", "float", "to", "type", "half", "double", "bfloat16", "cuda", "cpu")
RESHAPING_FUNCTIONS: Final = (torch.flatten, torch.reshape, torch.squeeze)
RESHAPING_METHODS: Final = ("flatten", "reshape", "view", "squeeze")
NEGATIONS: Final = (operator.neg, torch.neg)
JOINING: Final = (torch.cat, torch.concat, torch.concatenate)
SUMS: Final = (operator.add, operator.iadd, torch.add, operator.sub, torch.sub)
PRODUCTS: Final = (operator.mul, operator.imul, torch.mul, operator.truediv, torch.div)
# What is asked of a tensor without reading a value of it.
QUESTIONS: Final = ("size", "dim", "numel", "__len__", "ndimension", "new_zeros", "new_ones", "new_tensor")
QUESTION_FUNCTIONS: Final = (getattr, torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like)


@dataclass(frozen=True)
class Nonlinearity:
    """A non-linearity as a user's module has it.

    Attributes:
        name: As this project names it, "" for one that it does not know.
        function: Computes post-activations, never in place.
        in_place: Whether the user's overwrites its input.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    in_place: bool = False


def nonlinearity_of(node: fx.Node, module: nn.Module | None) -> Nonlinearity | None:
    """Returns the non-linearity that an operation is, None if it is none.

    Args:
        node: The operation.
        module: What it calls, if it calls a module.
    """
    if module is not None:
        name = _OF_MODULES.get(type(module), "")
        if not name and not isinstance(module, OTHER_NONLINEARITIES):
            return None
        in_place = bool(getattr(module, "inplace", False))
        # Its forward and not the module itself, whose hooks are those that ask.
        return Nonlinearity(name, partial(_apart, module.forward) if in_place else module.forward, in_place)
    arguments = [each for each in (*node.args[1:], *node.kwargs.values()) if isinstance(each, fx.Node)]
    if arguments:  # a second value in it
        return None
    if node.op == "call_method":
        name = _OF_METHODS.get(str(node.target), "")
        plain = str(node.target).rstrip("_")
        return Nonlinearity(name, partial(_method, plain), plain != str(node.target)) if name else None
    if node.target not in _OF_FUNCTIONS and node.target not in _OTHER_FUNCTIONS:
        return None
    in_place = bool(node.kwargs.get("inplace")) or node.target in (functional.relu_, torch.relu_)
    settings = {key: value for key, value in node.kwargs.items() if key not in ("inplace", "input")}
    target: Any = functional.relu if node.target in (functional.relu_, torch.relu_) else node.target
    function = partial(_function, target, tuple(node.args[1:]), settings)
    return Nonlinearity(_OF_FUNCTIONS.get(node.target, ""), function, in_place)


def has_positions(operation: Any, dimensions: int) -> bool:
    """Tells whether an operation over 1, 2 or 3 axes of positions leaves units, axis 1 of a batch, apart.

    Of a value with an axis less PyTorch takes the batch for the units, and the units for positions.

    Args:
        operation: A module or function, whose name ends with the number of axes, "1d"; any other needs none.
        dimensions: Of its input.
    """
    name = type(operation).__name__ if isinstance(operation, nn.Module) else getattr(operation, "__name__", "")
    found = re.search(r"([123])d", name)
    if found is None or isinstance(operation, nn.modules.batchnorm._BatchNorm):
        return True
    return dimensions == int(found[1]) + 2


def _apart(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Applies what works in place to a copy."""
    return function(z.clone())


def _method(name: str, z: Tensor) -> Tensor:
    made: Tensor = getattr(z, name)()
    return made


def _function(target: Callable[..., Tensor], rest: tuple[Any, ...], settings: Mapping[str, Any], z: Tensor) -> Tensor:
    return target(z, *rest, **settings)
