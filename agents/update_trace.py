"""Norms of one update: its gradient, what the optimizer changed, and what the interventions changed after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from networks.network import Network

EVERY_UPDATES: Final = 100


class UpdateTrace:
    """Measures the first update and every hundredth, so that recent norms are always there; costs nothing in the others.

    Attributes:
        norms: Joint norms of the last traced update, by ``gradient`` (before clipping, the interventions' edits included),
            ``optimizer`` and ``intervention``, each also per parameter as ``gradient/<name>`` and so on; plus ``update``, the
            number of that update. Empty before the first.
    """

    def __init__(self, network: Network) -> None:
        self.norms: dict[str, Tensor | int] = {}
        self._network = network
        self._armed = False
        self._new: dict[str, Tensor | int] = {}

    @property
    def armed(self) -> bool:
        """Whether the norms of the update that is being made are taken."""
        return self._armed

    def open(self, update: int) -> None:
        """Begins the update numbered ``update`` = 1, 2, ..."""
        self._armed = self._armed or update == 1 or update % EVERY_UPDATES == 0

    def arm(self) -> None:
        """Asks for the norms of the next update, whatever its number."""
        self._armed = True

    def gradients(self, total: Tensor) -> None:
        """Takes the gradient norms, ``total`` being the joint one."""
        if self._armed:
            self._new["gradient"] = total
            for name, parameter in self._network.named_parameters():
                if parameter.grad is not None:
                    self._new[f"gradient/{name}"] = parameter.grad.norm()

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Takes the norms of the change that the block makes to the parameters."""
        if not self._armed:
            yield
            return
        parameters = dict(self._network.named_parameters())
        before = [parameter.detach().clone() for parameter in parameters.values()]
        yield
        changes = [parameter.detach() - old for parameter, old in zip(parameters.values(), before, strict=True)]
        norms = torch._foreach_norm(changes)
        self._new[what] = torch.stack(norms).norm()
        for name, norm in zip(parameters, norms, strict=True):
            self._new[f"{what}/{name}"] = norm

    def close(self, update: int) -> None:
        """Ends the update numbered ``update`` and publishes its norms if they were asked for."""
        if self._armed:
            self.norms, self._new, self._armed = {**self._new, "update": update}, {}, False
