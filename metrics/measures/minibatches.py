"""Minibatches of the latest examples that a part learned from, on which its loss and gradients are measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch, Objective

KEPT: Final = 64  # as many as a part keeps


@dataclass(frozen=True)
class LossExamples:
    """Examples, and what is learned from them.

    Attributes:
        objective: Maps outputs and a batch to the loss, the mean over the batch.
        batch: The examples.
    """

    objective: Objective[Any]
    batch: Batch

    @property
    def count(self) -> int:
        """How many they are."""
        return self.batch.inputs.shape[0]

    def rows(self, rows: Tensor) -> "LossExamples":
        """Returns some of the examples, by their numbers (m,), wherever these live."""
        rows = rows.to(self.batch.inputs.device)
        make: Callable[..., Batch] = type(self.batch)
        return LossExamples(self.objective, make(*(column[rows] for column in self.batch)))

    def loss(self, network: Network) -> Tensor:
        """Returns the mean loss, 0-dim, in the mode that the network is in."""
        return self.objective(network(self.batch.inputs).float(), self.batch)[0]


def loss_examples(view: PartView, fewest: int = 1) -> LossExamples | Undefined:
    """Returns the latest examples of a part, or why its loss cannot be measured on at least ``fewest``."""
    objective, batch = view.part.examples.objective, view.part.examples.latest(KEPT)
    if objective is None:
        return Undefined("the part's loss is not a function of its outputs alone")
    if batch is None:
        return Undefined("nothing has been learned yet")
    found = LossExamples(objective, batch)
    return found if found.count >= fewest else Undefined(f"fewer than {fewest} examples have been learned from")


def trained_parameters(network: Network) -> dict[str, Tensor]:
    """Returns the parameters that have gradients, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def gradients_of(network: Network, examples: LossExamples) -> Sequence[Tensor]:
    """Returns the gradient of the mean loss by each of ``trained_parameters``; their ``grad`` stays as it is.

    Args:
        network: In the mode in which the loss is to be taken.
        examples: At least one.
    """
    parameters = list(trained_parameters(network).values())
    with torch.enable_grad():
        return torch.autograd.grad(examples.loss(network), parameters, allow_unused=True, materialize_grads=True)


def drawn(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns ``count`` of the numbers (n,), none of them twice, in an order that the generator, on the CPU, draws."""
    return rows[torch.randperm(len(rows), generator=generator)[:count]]
