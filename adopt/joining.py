"""What several forwards saw as one batch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Apart(Exception):
    """Raised where inputs cannot be one batch."""


def joined_inputs(inputs: Sequence[Any]) -> Any:
    """Joins the inputs of several forwards along the batch.

    Args:
        inputs: Of each forward: a tensor, a dict of tensors, or a tuple of several inputs, among them values that are no tensors.

    Returns:
        One of the same kind; None if they cannot be joined, since their sizes or the values that are no tensors differ.
    """
    try:
        return _joined(inputs)
    except _Apart:
        return None


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if len(values) == 1:
        return first
    if any(type(each) is not type(first) for each in values):
        raise _Apart
    if isinstance(first, Tensor):
        if first.ndim == 0 or any(each.shape[1:] != first.shape[1:] or each.ndim == 0 for each in values):
            raise _Apart
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        if any(each.keys() != first.keys() for each in values):
            raise _Apart
        return {key: _joined([each[key] for each in values]) for key in first}
    if isinstance(first, tuple | list):
        if any(len(each) != len(first) for each in values):
            raise _Apart
        return tuple(_joined(list(each)) for each in zip(*values, strict=True))
    if all(each == first for each in values):
        return first
    raise _Apart


def joined_activations(values: Sequence[Tensor]) -> Tensor:
    """Joins activations (B, U, ...) of several forwards; where sizes of images differ, each position becomes a row, (N, U)."""
    if len(values) == 1:
        return values[0]
    if any(each.shape[1:] != values[0].shape[1:] for each in values):
        values = [each.movedim(1, -1).flatten(0, -2) for each in values]
    return torch.cat(list(values))


def inputs_of(module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """Returns what a module is called with as one input or a tuple of several, None if it cannot be said by position alone."""
    if named:
        try:
            bound = inspect.signature(module.forward).bind(*arguments, **named)
        except TypeError:  # the forward will say so itself
            return None
        if bound.kwargs:
            return None
        arguments = bound.args
    return arguments[0] if len(arguments) == 1 else arguments or None
