"""Calling modules of a network at little cost: on a small one PyTorch's way takes as long as some of the arithmetic."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook


def call(module: nn.Module, *inputs: Any) -> Tensor:
    """Returns ``module(*inputs)``, by its ``forward`` where no hook is registered that would have to be called too."""
    outputs: Tensor = module(*inputs) if _hooked(module) else module.forward(*inputs)
    return outputs


def call_map(linear: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """Returns ``linear(inputs)``; a plain ``nn.Linear`` would look its weight and bias up as attributes, which takes longer."""
    if type(linear) is not nn.Linear or _hooked(linear):
        return call(linear, inputs)
    own = linear._parameters  # looked up at each call: a function of the parameters puts others in their place
    return functional.linear(inputs, own["weight"], own["bias"])  # type: ignore[arg-type]  # a linear map has a weight


def _hooked(module: nn.Module) -> bool:
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(own or _has_any_global_hook())
