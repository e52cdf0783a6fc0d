from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import LabelledBatch, SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.draws import Draws, DrawSettings
from plasticity.metrics.measures.copies import copies_of
from plasticity.metrics.measures.minibatches import LossExamples
from plasticity.metrics.measures.step_gain import decrease
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import view_part
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OPTIMIZERS, OptimizerSettings
from plasticity.optimizers.optimizer_state import reset_entries


def learner(classes: int = 0, widths: tuple[int, ...] = (), shape: int = 1, **optimizer: Any) -> SupervisedLearner:
    """A regression of one target, or a classifier, that has learned nothing."""
    chosen: dict[str, Any] = {"name": "sgd", "learning_rate": 0.05, **optimizer}
    settings = OptimizerSettings(**chosen)
    builder = PartBuilder(MLPSpec(widths=list(widths), normalisation=["batch"]), (shape,), torch.float32, settings)
    return SupervisedLearner(SupervisedSettings(), classes or 1, bool(classes), builder)


def examples(count: int, seed: int, width: int = 3) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(count, width, generator=generator), torch.randint(4, (count,), generator=generator))


def gain(agent: SupervisedLearner, seed: int = 0, **settings: Any) -> float:
    view = view_part("learner", agent.learner, None, draws=Draws(DrawSettings(**settings), seed))
    with torch.no_grad():
        value = CATALOGUE["k_step_gain"].measure([view])[""]
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize(
    ("bound", "steps", "expected"),
    [
        # The error of w x + b - y is -3 at x = 1, y = 3, w = b = 0, the loss 9. A step of 0.05 along (-6, -6) leaves 0.8 of the
        # error: the loss is 9 * 0.64 after one, and 9 * 0.64^2 after two.
        (None, 1, 9 - 5.76),
        (None, 2, 9 - 3.6864),
        # A gradient of length 1 moves w and b by 0.05 / sqrt(2), and the error by 0.05 sqrt(2).
        (1.0, 1, 9 - (3 - 0.05 * 2**0.5) ** 2),
        (1.0, 2, 9 - (3 - 0.1 * 2**0.5) ** 2),
    ],
)
def test_steps_by_hand(bound: float | None, steps: int, expected: float) -> None:
    agent = learner(max_gradient_norm=bound)
    agent.learn(Experience(Examples(torch.ones(6, 1), torch.full((6, 1), 3.0)), 0))
    with torch.no_grad():
        for parameter in agent.learner.network.parameters():
            parameter.zero_()
    assert gain(agent, gain_steps=steps) == pytest.approx(expected, rel=1e-5)


def test_halves_by_hand() -> None:
    # Two examples, one to learn from and one held out: x = 1 and x = -1 with target 0, at w = 1, b = 0. A step of 0.05 on either
    # moves w to 0.9 and b by 0.1 against the sign of x; the other's error becomes 1 in size again: no gain at all, where the
    # same example would have gained 0.36.
    agent = learner()
    agent.learn(Experience(Examples(torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1)), 0))
    with torch.no_grad():
        for parameter, value in zip(agent.learner.network.parameters(), (1.0, 0.0), strict=True):
            parameter.fill_(value)
    assert gain(agent, gain_steps=1) == pytest.approx(0.0, abs=1e-6)
    assert gain(agent, seed=1, gain_steps=1) == pytest.approx(0.0, abs=1e-6)


def test_a_step_that_is_too_long_loses() -> None:
    # Each step multiplies the error by 1 - 4 * 0.75 = -2, and the loss by 4.
    agent = learner(learning_rate=0.75)
    agent.learn(Experience(Examples(torch.ones(4, 1), torch.full((4, 1), 3.0)), 0))
    with torch.no_grad():
        for parameter in agent.learner.network.parameters():
            parameter.zero_()
    assert gain(agent, gain_steps=2) == pytest.approx(9 * (1 - 16), rel=1e-5)
    value = gain(agent, gain_steps=200)
    assert isinstance(value, Undefined)
    assert value.reason == "the loss is not finite"


# Copies


def weights(network: torch.nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in network.state_dict().values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def trained(name: str, **settings: Any) -> SupervisedLearner:
    agent = learner(4, (7, 6), 3, name=name, learning_rate=0.01, max_gradient_norm=0.3, **settings)
    for seed in range(12):
        agent.learn(Experience(examples(9, seed), 0))
    return agent


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copies_go_on_as_the_run_would(name: str, same: Callable[[Any, Any], bool]) -> None:
    agent = trained(name, momentum=0.9 if name in ("sgd", "rmsprop") else 0.0)
    part = agent.learner
    if name == "adam":  # counts of single units are part of what goes on
        weight = part.network.tensor("torso.layers.dense_1.linear.weight")
        mask = torch.zeros(7, 1, dtype=torch.bool)
        mask[2] = True
        reset_entries(part.optimizer, weight, mask, "restart")
        agent.learn(Experience(examples(9, 50), 0))
    before, state = weights(part.network), deepcopy(part.optimizer.state_dict())
    network, optimizer = copies_of(part.network, part.optimizer)
    objective = part.examples.objective
    assert objective is not None
    steps = [examples(9, seed) for seed in range(100, 125)]
    batches = [LossExamples(objective, LabelledBatch(*step)) for step in steps]
    assert decrease(network, optimizer, batches[0], batches, part.max_gradient_norm) != 0
    assert equal(weights(part.network), before)
    assert same(part.optimizer.state_dict(), state)
    for step in steps:
        agent.learn(Experience(step, 0))
    assert not equal(weights(part.network), before)
    assert equal(weights(part.network), weights(network))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copies_share_no_memory(name: str) -> None:
    part = trained(name).learner
    network, optimizer = copies_of(part.network, part.optimizer)

    def places(network: torch.nn.Module, optimizer: Optimizer) -> set[int]:
        found = [
            *network.state_dict().values(),
            *(parameter for group in optimizer.param_groups for parameter in group["params"]),
        ]
        for state in optimizer.state.values():
            found += [value for value in state.values() if isinstance(value, Tensor)]
        return {tensor.data_ptr() for tensor in found if tensor.numel()}

    assert type(optimizer) is type(part.optimizer)
    assert places(network, optimizer).isdisjoint(places(part.network, part.optimizer))
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert owned == {id(parameter) for parameter in network.parameters()}


def test_the_state_of_the_optimizer_counts() -> None:
    # Adam's moments of many steps, and none: the first step after these is another one.
    agent = trained("adam")
    with_state = gain(agent, gain_steps=1)
    agent.learner.optimizer.state.clear()
    assert gain(agent, gain_steps=1) != with_state


def test_dropout_is_off() -> None:
    builder = PartBuilder(MLPSpec(widths=[8], dropout_rates=[0.5]), (3,), torch.float32, OptimizerSettings())
    agent = SupervisedLearner(SupervisedSettings(), 4, True, builder)
    agent.learner.examples.add(LabelledBatch(*examples(20, 0)))
    assert gain(agent) == gain(agent)
