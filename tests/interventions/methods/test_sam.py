"""Sharpness-aware minimisation: the gradient at the worst point nearby."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.methods.sam import SAM
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


class Batch(NamedTuple):
    inputs: Tensor
    targets: Tensor


def loss_of(outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    return (outputs - batch.targets).square().mean(), {}


@dataclass
class Pull(Intervention):
    """Adds half the squared norm of all parameters to the loss."""

    no_effect: ClassVar = None

    def loss(self, u: Update) -> Tensor:
        return torch.stack([parameter.square().sum() for parameter in u.network.parameters()]).sum() / 2


def part_of(methods: dict[str, Callable[[], Intervention]], **settings: Any) -> Updater:
    builder = PartBuilder(MLPSpec(widths=[5]), (3,), torch.float32, OptimizerSettings(name="sgd", learning_rate=0.1), methods)
    return builder("q", HeadSpec("q", 2))


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator))


def naive(part: Updater, data: Batch, radius: float, pull: bool) -> list[Tensor]:
    """Weights after one step, from the formula."""
    network = deepcopy(part.network)
    parameters = list(network.parameters())
    here = torch.autograd.grad(loss_of(network(data.inputs), data)[0], parameters)
    total = [g + p.detach() if pull else g for g, p in zip(here, parameters, strict=True)]
    norm = torch.cat([g.flatten() for g in total]).norm()
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, g in zip(parameters, total, strict=True):
            p.add_(radius * g / norm)
    there = torch.autograd.grad(loss_of(network(data.inputs), data)[0], parameters)
    return [p - 0.1 * (g + p if pull else g) for p, g in zip(before, there, strict=True)]


@pytest.mark.parametrize("pull", [False, True])
def test_the_step_is_that_of_the_worst_point_nearby(pull: bool) -> None:
    methods: dict[str, Any] = {"pull": Pull, "sam": lambda: SAM(radius=0.2)} if pull else {"sam": lambda: SAM(radius=0.2)}
    part = part_of(methods)
    expected = naive(part, batch(), 0.2, pull)
    part.update(loss_of, batch())
    for parameter, wanted in zip(part.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted)


def test_a_quadratic_by_hand() -> None:
    # f(w) = (2w - 0)^2 with w = 1 has gradient 8; at w + 0.5 * 8 / 8 = 1.5 it is 12.
    builder = PartBuilder(
        MLPSpec(widths=[]),
        (1,),
        torch.float32,
        OptimizerSettings(name="sgd", learning_rate=0.125),
        {"sam": lambda: SAM(radius=0.5)},
    )
    part = builder("q", HeadSpec("q", 1))
    with torch.no_grad():
        part.network.tensor("head.linear.weight").fill_(1.0)
        part.network.tensor("head.linear.bias").fill_(0.0)
    part.network.tensor("head.linear.bias").requires_grad_(False)
    part.update(loss_of, Batch(torch.tensor([[2.0]]), torch.tensor([[0.0]])))
    assert part.network.tensor("head.linear.weight").item() == pytest.approx(1 - 0.125 * 12)


def test_radius_0_is_the_plain_step() -> None:
    plain, flat = part_of({}), part_of({"sam": lambda: SAM(radius=0.0)})
    for seed in range(3):
        plain.update(loss_of, batch(seed))
        flat.update(loss_of, batch(seed))
    assert all(torch.equal(a, b) for a, b in zip(plain.network.parameters(), flat.network.parameters(), strict=True))


def test_a_negative_radius_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sam.radius=-1 must be at least 0"):
        SAM(radius=-1)
