"""Copies of a network and its optimizer that continue as these would, and leave them as they are."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Final

from torch.optim import Optimizer

from plasticity.networks.network import Network

_REFUSALS: Final = ("found_inf", "grad_scale")  # by which the run has a fused step skipped on a device


def copies_of(network: Network, optimizer: Optimizer) -> tuple[Network, Optimizer]:
    """Returns a copy of a network, and one of its optimizer that steps it, with the state that it has.

    An optimizer's own ``deepcopy`` keeps only groups and state, and loses what a subclass holds.

    Args:
        network: With parameters, some of which the optimizer has.
        optimizer: May be made of others, which it holds as attributes.
    """
    memo: dict[int, Any] = {}
    network = deepcopy(network, memo)
    return network, _copied(optimizer, memo)


def _copied(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    twin = memo[id(optimizer)] = object.__new__(type(optimizer))
    for held in _held(optimizer):
        if id(held) not in memo:
            _copied(held, memo)
    twin.__setstate__({name: value for name, value in deepcopy(vars(optimizer), memo).items() if name not in _REFUSALS})
    return twin


def _held(optimizer: Optimizer) -> Iterable[Optimizer]:
    for value in vars(optimizer).values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            if isinstance(entry, Optimizer):
                yield entry
