"""Copies of networks whose weights have been cast already, for forward passes under autocast that need no gradient."""

from copy import deepcopy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from plasticity.networks.network import Network


class CastCopies:
    """Keeps a copy of each requested network, with the weights and biases of its linear maps in a lower precision.

    Autocast casts every weight at every call, which for a single observation costs more than the forward pass. A copy gives
    the same numbers, bit for bit; it is updated when a tensor of its network has been written since.

    Args:
        precision: The type that autocast computes in.
    """

    def __init__(self, precision: torch.dtype) -> None:
        self._precision = precision
        self._copies: WeakKeyDictionary[Network, _Copy] = WeakKeyDictionary()

    def of(self, network: Network, written: int) -> Network:
        """Returns the copy of ``network``, for use under autocast; its mode is the network's, its taps are its own.

        Args:
            network: A network of which a tensor is written by PyTorch's operations in place, or by fused optimizers.
            written: A different number after every step of a fused optimizer, which a tensor's version does not count.
        """
        copy = self._copies.get(network)
        if copy is None:
            copy = self._copies[network] = _Copy(network, self._precision)
        return copy.current(network, written)


class _Copy:
    def __init__(self, network: Network, precision: torch.dtype) -> None:
        self._network = deepcopy(network).requires_grad_(False)
        for module in self._network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(precision)
        self._ours = _tensors(self._network)
        self._theirs = _tensors(network)
        self._written: list[int] = []

    def current(self, network: Network, written_by_optimizers: int) -> Network:
        written = [written_by_optimizers, *(tensor._version for tensor in self._theirs)]
        if written != self._written:
            with torch.no_grad():
                for ours, theirs in zip(self._ours, self._theirs, strict=True):
                    ours.copy_(theirs)
            self._written = written
        self._network.train(network.training)
        return self._network


def _tensors(network: Network) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
