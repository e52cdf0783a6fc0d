"""Utility-based perturbed gradient descent: gates by hand, and the step against a naive one."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.upgd import UPGD, gates
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


def part_of(**settings: Any) -> Updater:
    builder = PartBuilder(
        MLPSpec(widths=[5]),
        (3,),
        torch.float32,
        OptimizerSettings(name="sgd", learning_rate=0.1),
        {"upgd": lambda: UPGD(**settings)},
    )
    return builder("q", HeadSpec("q", 2))


def inputs(seed: int) -> torch.Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))


def test_gates_by_hand() -> None:
    utilities = [torch.tensor([2.0, 0.0]), torch.tensor([[-4.0]])]
    one, two = gates(utilities, "global")  # the largest is 2: sigmoid of 1, 0, -2
    assert one.tolist() == pytest.approx([0.7310586, 0.5])
    assert two.flatten().tolist() == pytest.approx([0.1192029])
    one, two = gates([torch.tensor([3.0, 4.0]), torch.tensor([-2.0])], "local")  # by norms 5 and 2
    assert one.tolist() == pytest.approx([0.6456563, 0.6899745], abs=1e-6)
    assert two.tolist() == pytest.approx([0.2689414], abs=1e-6)


def test_published_gates_by_hand() -> None:
    # Averages 0.2 and -0.4 after one update at decay 0.9, corrected by 0.1 to 2 and -4: 2 / 0.2 = 10 and -4 / 0.2 = -20.
    one, two = gates([torch.tensor([2.0, 0.0]), torch.tensor([[-4.0]])], "global", "published", 0.1)
    assert one.tolist() == pytest.approx([0.9999546, 0.5])
    assert two.flatten().tolist() == pytest.approx([2.0611537e-9])
    # Rows (3, 4) and (0, 2) of norms 5 and 2, and a bias of norm 13, each by itself.
    one, two = gates([torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([5.0, 12.0])], "local", "published", 0.1)
    assert one.flatten().tolist() == pytest.approx([0.6456563, 0.6899745, 0.5, 0.7310586])
    assert two.tolist() == pytest.approx([0.594986, 0.715669], abs=1e-6)


@pytest.mark.parametrize(("step", "factor"), [(1, 1000.0), (100, 10.5), (700, 2.0)])
def test_the_published_argument_is_the_papers_over_the_correction(step: int, factor: float) -> None:
    correction = 1 - 0.999**step
    utilities = [torch.tensor([0.01, -0.002], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)]
    paper, published = (gates(utilities, "global", rule, correction)[0].logit() for rule in ("paper", "published"))
    assert (published / paper).tolist() == pytest.approx([factor, factor], rel=0.02)


def test_a_largest_utility_below_0_reverses_the_order() -> None:
    (gate,) = gates([torch.tensor([-1.0, -2.0])], "global")
    assert gate.tolist() == pytest.approx([0.7310586, 0.8807971])


@pytest.mark.parametrize("protects", [True, False])
@pytest.mark.parametrize("scaling", ["global", "local"])
@pytest.mark.parametrize("rule", ["paper", "published"])
def test_steps_without_noise_equal_a_naive_one(rule: str, protects: bool, scaling: str) -> None:
    part = part_of(noise=0.0, protects=protects, scaling=scaling, rule=rule, utility_decay=0.9)
    network = deepcopy(part.network)
    average = [torch.zeros_like(p) for p in network.parameters()]
    for step in range(1, 5):
        part.step((part.forward(inputs(step)) - 1).square().mean(), None)
        parameters = list(network.parameters())
        gradients = torch.autograd.grad((network(inputs(step)) - 1).square().mean(), parameters)
        average = [0.9 * a - 0.1 * g * p.detach() for a, g, p in zip(average, gradients, parameters, strict=True)]
        corrected = [a / (1 - 0.9**step) for a in average]
        largest = max(float(c.max()) for c in (corrected if rule == "paper" else average))
        with torch.no_grad():
            for p, g, c in zip(parameters, gradients, corrected, strict=True):
                norm = c.norm() if rule == "paper" else c.norm(dim=-1, keepdim=True)
                gate = torch.sigmoid(c / largest if scaling == "global" else c / (norm + 1e-12))
                p.sub_(0.1 * (g * (1 - gate) if protects else g))
    for parameter, wanted in zip(part.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted)


def test_noise_is_gated_and_of_its_deviation() -> None:
    part = part_of(noise=0.5, protects=False, utility_decay=0.0)
    seen = []
    for step in range(60):
        before = [p.detach().clone() for p in part.network.parameters()]
        loss = part.forward(inputs(step)).sum() * 0.0
        part.step(loss, None)
        seen += [((old - new) / 0.1).detach().flatten() for old, new in zip(before, part.network.parameters(), strict=True)]
    # Without any gradient all utilities are 0 and all gates 1/2: half of the noise is let through.
    assert float(torch.cat(seen).std()) == pytest.approx(0.25, rel=0.05)
    assert float(torch.cat(seen).mean()) == pytest.approx(0.0, abs=0.02)


def test_no_noise_and_no_protection_is_the_plain_step() -> None:
    part = part_of(noise=0.0, protects=False)
    network = deepcopy(part.network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    for step in range(3):
        part.step((part.forward(inputs(step)) - 1).square().mean(), None)
        optimizer.zero_grad()
        (network(inputs(step)) - 1).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(part.network.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"utility_decay": 1.0}, "upgd.utility_decay=1.0 must be at least 0 and below 1"),
        ({"rule": "code"}, "upgd.rule=code is unknown; choose from paper, published"),
        ({"scaling": "none"}, "upgd.scaling=none is unknown; choose from global, local"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UPGD(**settings)
