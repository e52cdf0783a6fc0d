"""Whose the parameters are that make and read units: units of shared, frozen or other people's parameters are left alone."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from plasticity.adopt.layer import Layer


def exclude_foreign(
    layers: Mapping[str, Layer], module: nn.Module, trained: Collection[int] | None, direct: Collection[str] = ()
) -> None:
    """Excludes units made or read by parameters which are shared, frozen, not the optimizer's, or made of other parameters.

    Args:
        layers: Changed in place.
        module: The module.
        trained: ``id`` of the parameters that the optimizer has; None for all that are not frozen.
        direct: Names of parameters that the forward reads itself, not through the module that has them.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, parameter in named.items():
        names.setdefault(id(parameter), []).append(name)
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    outside = {id(named[name]) for name in direct if name in named}

    def trouble(tensor: str, what: str) -> str:
        parameter = named.get(tensor)
        if parameter is None:
            made = isinstance(_attribute(module, tensor), Tensor) and tensor not in buffers
            return f"{what}, {tensor}, is no parameter but computed from others" if made else ""
        if id(parameter) in outside:
            return f"{what}, {tensor}, is used outside of its module too"
        if len(names[id(parameter)]) > 1:
            return f"{what}, {tensor}, is shared with {', '.join(each for each in names[id(parameter)] if each != tensor)}"
        if not parameter.requires_grad:
            return f"{what}, {tensor}, is frozen"
        return "" if trained is None or id(parameter) in trained else f"{what}, {tensor}, is not trained by this optimizer"

    for name, layer in layers.items():
        prefix = f"{name}." if name else ""
        own = [f"{prefix}weight", f"{prefix}bias", *(norm.slice.tensor for norm in layer.norms)]
        found = [trouble(tensor, "what makes it") for tensor in own]
        found += [trouble(each.weight.tensor, "what reads it") for each in layer.consumers]
        for reason in filter(None, found):
            layer.exclude(reason)


def _attribute(module: nn.Module, name: str) -> Any:
    """Returns an attribute by its path, None if there is none."""
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last, None)
