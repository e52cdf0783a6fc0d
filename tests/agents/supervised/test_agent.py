from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.datasets.datasets import load_dataset
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings

BuildPart = Callable[..., PartBuilder]


def examples(count: int, seed: int = 0, classes: int = 3) -> Experience:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return Experience(Examples(inputs, torch.randint(classes, (count,), generator=generator)), 0)


def learner(builder: BuildPart, classification: bool = True, **settings: Any) -> SupervisedLearner:
    return SupervisedLearner(SupervisedSettings(**settings), 3, classification, builder())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_accuracy_are_those_before_the_update(builder: BuildPart, smoothing: float) -> None:
    agent = learner(builder, label_smoothing=smoothing)
    for seed in range(5):
        experience = examples(20, seed)
        batch = experience.batch
        assert isinstance(batch, Examples)
        outputs = agent.learner.predict(batch.inputs)
        logs = agent.learn(experience)
        expected = functional.cross_entropy(outputs, batch.targets, label_smoothing=smoothing)
        assert float(logs["online/loss"]) == pytest.approx(expected.item(), rel=1e-6)
        assert float(logs["train/loss"]) == float(logs["online/loss"])
        right = sum(int(outputs[row].argmax()) == int(batch.targets[row]) for row in range(20))
        assert float(logs["online/accuracy"]) == pytest.approx(right / 20)
        assert not torch.equal(agent.learner.predict(batch.inputs), outputs)
    assert agent.learner.steps == 5


def test_update_is_one_step_of_plain_training(builder: BuildPart) -> None:
    agent, batch = learner(builder), examples(20).batch
    assert isinstance(batch, Examples)
    parameters = {name: value.detach().clone().requires_grad_() for name, value in agent.learner.network.named_parameters()}
    optimizer = torch.optim.Adam(parameters.values(), lr=0.01)
    hidden = batch.inputs
    for layer in ("torso.layers.dense_1.linear", "torso.layers.dense_2.linear"):
        hidden = functional.linear(hidden, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]).relu()
    outputs = functional.linear(hidden, parameters["head.linear.weight"], parameters["head.linear.bias"])
    functional.cross_entropy(outputs, batch.targets).backward()
    optimizer.step()
    agent.learn(Experience(batch, 0))
    for name, value in agent.learner.network.named_parameters():
        torch.testing.assert_close(value, parameters[name], rtol=1e-5, atol=1e-7)


def test_learns_digits(builder: BuildPart) -> None:
    digits = load_dataset("digits", "all")
    part = builder(spec=MLPSpec(widths=[64]), inputs=(1, 8, 8), optimizer=OptimizerSettings(learning_rate=0.01))
    agent = SupervisedLearner(SupervisedSettings(), 10, True, part)
    order = torch.cat([torch.randperm(1797, generator=torch.Generator().manual_seed(epoch))[:1792] for epoch in range(4)])
    accuracies = []
    for rows in order.split(32):
        logs = agent.learn(Experience(Examples(digits.inputs[rows], digits.targets[rows]), 0))
        accuracies.append(float(logs["online/accuracy"]))
    assert sum(accuracies[-56:]) / 56 > 0.9
    assert sum(accuracies[:5]) / 5 < 0.5


def test_regression_learns_a_linear_map(builder: BuildPart) -> None:
    agent = learner(builder, classification=False)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 3, generator=generator)
    losses = []
    for _ in range(600):
        inputs = torch.randn(32, 4, generator=generator)
        logs = agent.learn(Experience(Examples(inputs, inputs @ mixing), 0))
        assert "online/accuracy" not in logs
        losses.append(float(logs["online/loss"]))
    assert losses[-1] < 0.15 * losses[0]


def test_regression_loss_by_hand(builder: BuildPart) -> None:
    # Outputs 0 (all parameters 0) and targets 1, 2, 3: (1 + 4 + 9) / 3, a mean over targets too.
    agent = learner(builder, classification=False)
    with torch.no_grad():
        for parameter in agent.learner.network.parameters():
            parameter.zero_()
    logs = agent.learn(Experience(Examples(torch.ones(1, 4), torch.tensor([[1.0, 2.0, 3.0]])), 0))
    assert float(logs["online/loss"]) == pytest.approx(14 / 3)
    assert agent.act(torch.ones(2, 4)).shape == (2, 3)


def test_act_predicts_labels(builder: BuildPart) -> None:
    agent, inputs = learner(builder), torch.randn(7, 4)
    assert torch.equal(agent.act(inputs), agent.learner.predict(inputs).argmax(1))


# Recent inputs


def recent(agent: SupervisedLearner, count: int) -> Tensor:
    inputs = agent.sample_inputs("learner", count, torch.Generator())
    assert inputs is not None
    return inputs


def numbered(first: int, count: int) -> Experience:
    return Experience(Examples(torch.arange(first, first + count).float().view(-1, 1).repeat(1, 4), torch.zeros(count).long()), 0)


@pytest.mark.parametrize(("batch", "kept"), [(1, 10), (3, 12), (5, 10), (10, 10), (25, 25)])
def test_recent_inputs_are_the_latest_whole_minibatches(builder: BuildPart, batch: int, kept: int) -> None:
    # At least 10 examples and less than one minibatch more.
    agent = learner(builder, recent_examples=10)
    assert agent.sample_inputs("learner", 5, torch.Generator()) is None
    total = 20 * batch
    for first in range(0, total, batch):
        agent.learn(numbered(first, batch))
    assert recent(agent, 1000)[:, 0].tolist() == list(range(total - kept, total))
    assert recent(agent, 4)[:, 0].tolist() == list(range(total - 4, total))


def test_recent_inputs_survive_a_short_last_minibatch(builder: BuildPart) -> None:
    agent = learner(builder, recent_examples=6)
    for first, count in [(0, 4), (4, 4), (8, 1), (9, 4)]:
        agent.learn(numbered(first, count))
    seen = recent(agent, 1000)[:, 0].tolist()
    assert seen == list(range(13 - len(seen), 13))


def test_checkpoint_holds_the_recent_inputs_and_not_the_epoch_behind_them(builder: BuildPart) -> None:
    agent, file = learner(builder, recent_examples=8), BytesIO()
    epoch = torch.randn(50_000, 4)
    for first in range(0, 40, 4):
        agent.learn(Experience(Examples(epoch[first : first + 4], torch.zeros(4).long()), 0))
    torch.save(agent.state_dict(), file)
    assert file.tell() < 40_000  # the epoch alone has 800,000 bytes


@pytest.mark.parametrize("batches", [0, 1, 4])
def test_state_round_trip(builder: BuildPart, same: Any, through_disk: Any, batches: int) -> None:
    original = learner(builder, recent_examples=7)
    restored = SupervisedLearner(SupervisedSettings(recent_examples=7), 3, True, builder(seed=9))
    for seed in range(batches):
        original.learn(examples(3, seed))
    restored.load_state_dict(through_disk(original.state_dict()))
    for seed in range(5, 10):
        logs, others = (agent.learn(examples(3, seed)) for agent in (original, restored))
        assert same(logs, others)
        assert torch.equal(recent(original, 100), recent(restored, 100))
    assert same(original.state_dict(), restored.state_dict())


# Refusals


def test_an_environment_is_refused(builder: BuildPart) -> None:
    no = torch.zeros(1, dtype=torch.bool)
    batch = Transitions(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), torch.zeros(1), no, no, torch.zeros(1, 4))
    with pytest.raises(TypeError, match="choose agent=dqn"):
        learner(builder).learn(Experience(batch, 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": -0.1}, r"agent\.label_smoothing=-0\.1 must be between 0 and 1"),
        ({"recent_examples": 0}, r"agent\.recent_examples=0 must be at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SupervisedSettings(**settings)
