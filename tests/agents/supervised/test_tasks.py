"""The supervised learner within tasks: learning rate, best weights, classes that count, regression."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.agent import learn_from
from plasticity.agents.factory import build_agent
from plasticity.agents.losses.targets import masked_cross_entropy
from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.agents.supervised.best_weights import BestWeights
from plasticity.envs.experience import Examples, Experience, Place
from plasticity.envs.problem import Problem
from plasticity.optimizers.factory import OptimizerSettings

BuildPart = Callable[..., PartBuilder]


def batch(count: int, seed: int = 0, classes: int = 3) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(count, 4, generator=generator), torch.randint(classes, (count,), generator=generator))


def at(epoch: int, epochs: int, ends: bool = False, seed: int = 0, **changes: Any) -> Experience:
    """A minibatch in an epoch; with ``ends`` it is the epoch's last."""
    place = Place(epoch, epochs, ends, ends and epoch + 1 == epochs, **changes)
    return Experience(batch(5, seed), 0, place=place)


def learner(builder: BuildPart, masked: bool = False, **settings: Any) -> SupervisedLearner:
    return SupervisedLearner(SupervisedSettings(**settings), 3, True, builder(), masked)


# The learning rate


FALLING = OptimizerSettings(
    name="sgd", learning_rate=0.1, schedule="steps", schedule_per_task=True, schedule_milestones=[0.3, 0.6, 0.8]
)


def rate_at(agent: SupervisedLearner, epoch: int, epochs: int) -> float:
    """Returns the rate of an update in an epoch of a task with one minibatch in each."""
    experience = at(epoch, epochs)
    assert experience.place is not None
    place = experience.place._replace(minibatch=epoch, minibatches=epochs)
    learn_from(agent, replace(experience, place=place), 1)
    return float(agent.learner.optimizer.param_groups[0]["lr"])


def test_the_learning_rate_falls_within_a_task_and_is_back_at_the_next(builder: BuildPart) -> None:
    agent = SupervisedLearner(SupervisedSettings(), 3, True, builder(optimizer=FALLING))
    rates = [rate_at(agent, epoch, 10) for epoch in [*range(10), 0]]
    assert rates == pytest.approx([0.1] * 3 + [0.02] * 3 + [0.004] * 2 + [0.0008] * 2 + [0.1], rel=1e-12)
    assert rates[3:5] == [0.1 * 0.2**1] * 2  # to the bit


def test_the_published_epochs_of_class_incremental_cifar(builder: BuildPart) -> None:
    agent = SupervisedLearner(SupervisedSettings(), 3, True, builder(optimizer=FALLING))
    rates = [rate_at(agent, epoch, 200) / 0.1 for epoch in (0, 59, 60, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008])


def test_a_resumed_learner_keeps_its_first_learning_rate(builder: BuildPart, through_disk: Any) -> None:
    first, resumed = (SupervisedLearner(SupervisedSettings(), 3, True, builder(optimizer=FALLING)) for _ in range(2))
    rate_at(first, 9, 10)
    resumed.load_state_dict(through_disk(first.state_dict()))
    assert rate_at(resumed, 0, 10) == pytest.approx(0.1)


# The best weights


def test_best_weights_by_hand() -> None:
    network = torch.nn.BatchNorm1d(1)
    best: Any = BestWeights()
    for score, value in ((0.5, 1.0), (0.7, 2.0), (0.7, 3.0), (0.6, 4.0)):  # a draw goes to the earlier
        with torch.no_grad():
            network.weight.fill_(value)
            assert network.running_mean is not None
            network.running_mean.fill_(10 * value)
        best.keep_if_best(score, network)
    weight = network.weight
    best.restore(network)
    assert network.running_mean is not None
    assert (network.weight.item(), network.running_mean.item()) == (2.0, 20.0)
    assert network.weight is weight
    assert best.score is None


def validated(agent: SupervisedLearner, epochs: int, held_out: Examples) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Learns a task; returns the validation accuracies after each epoch and the weights then, before anything is restored."""
    scores, weights = [], []
    restore = agent._best.restore

    def last(network: Any) -> None:
        weights.append({name: value.clone() for name, value in network.state_dict().items()})
        restore(network)

    agent._best.restore = last  # type: ignore[method-assign]
    for epoch in range(epochs):
        logs = agent.learn(at(epoch, epochs, True, epoch, validation=held_out))
        scores.append(float(logs["train/validation_accuracy"]))
        if epoch + 1 < epochs:
            weights.append({name: value.clone() for name, value in agent.learner.network.state_dict().items()})
    agent._best.restore = restore  # type: ignore[method-assign]
    return scores, weights


def test_a_task_ends_with_the_weights_of_the_best_validation(builder: BuildPart) -> None:
    agent, held_out = learner(builder, restore_best=True), batch(40, 99)
    optimizer = agent.learner.optimizer
    for _ in range(2):
        scores, weights = validated(agent, 12, held_out)
        best = scores.index(max(scores))
        assert best < 11  # otherwise there is nothing to see
        for name, value in agent.learner.network.state_dict().items():
            assert torch.equal(value, weights[best][name])
        assert float(agent.score([held_out]).accuracy or 0) == pytest.approx(max(scores))
    assert agent.learner.optimizer is optimizer
    assert all(int(optimizer.state[p]["step"]) == 24 for p in agent.learner.network.parameters())  # the optimizer continues


def test_the_best_weights_survive_a_stop_in_the_middle_of_a_task(builder: BuildPart, through_disk: Any, same: Any) -> None:
    held_out = batch(40, 99)
    for stop in (0, 3, 8, 11):
        whole, resumed = learner(builder, restore_best=True), learner(builder, restore_best=True)
        for epoch in range(12):
            if epoch == stop:
                resumed.load_state_dict(through_disk(whole.state_dict()))
            whole.learn(at(epoch, 12, True, epoch, validation=held_out))
            if epoch >= stop:
                resumed.learn(at(epoch, 12, True, epoch, validation=held_out))
        assert same(whole.state_dict(), resumed.state_dict())


def test_best_weights_need_a_validation_set(builder: BuildPart) -> None:
    with pytest.raises(ValueError, match=r"agent\.restore_best=true needs a validation set"):
        build_agent("supervised", SupervisedSettings(restore_best=True), Problem("examples", 3, True, False), builder())


# Online accuracy of a task


def test_online_accuracy_is_that_of_every_example_before_it_is_learned(builder: BuildPart, through_disk: Any) -> None:
    agent = learner(builder)
    for task in range(2):
        right = 0
        for epoch in range(3):
            for part, count in enumerate((5, 2)):
                examples = batch(count, 10 * task + epoch)
                right += int((agent.act(examples.inputs) == examples.targets).sum())
                ends = part == 1
                agent.learn(Experience(examples, 0, place=Place(epoch, 3, ends, ends and epoch == 2)))
                fresh = learner(builder)
                fresh.load_state_dict(through_disk(agent.state_dict()))
                agent = fresh
        assert agent.online.means()["accuracy"] == pytest.approx(right / 21)


# Classes that count


def test_masked_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 5.0, 0.0], [1.0, -7.0, 0.0]], requires_grad=True)
    active = torch.tensor([True, False, True]).expand(2, -1)
    loss = masked_cross_entropy(logits, torch.tensor([0, 2]), active)
    expected = torch.tensor([2.0]).log(), (1 + torch.tensor([1.0]).exp()).log()
    assert loss.item() == pytest.approx(float(sum(expected)) / 2)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].tolist() == [0.0, 0.0]
    kept = logits.detach()[:, [0, 2]]
    for smoothing in (0.0, 0.3):
        masked = masked_cross_entropy(logits, torch.tensor([0, 2]), active, smoothing)
        sliced = functional.cross_entropy(kept, torch.tensor([0, 1]), label_smoothing=smoothing)
        assert masked.item() == pytest.approx(sliced.item(), rel=1e-6)


def test_classes_that_do_not_count_are_neither_predicted_nor_trained(builder: BuildPart) -> None:
    part = builder(optimizer=OptimizerSettings(name="sgd", learning_rate=0.1))
    agent = SupervisedLearner(SupervisedSettings(), 3, True, part, masked=True)
    active = torch.tensor([True, True, False])
    head = agent.learner.network.tensor("head.linear.bias")
    with torch.no_grad():
        head[2] = 100.0
    examples = batch(30, 0, classes=2)
    logs = agent.learn(Experience(examples, 0, place=Place(0, 1, False, False, active)))
    assert head[2].item() == 100.0
    assert float(logs["online/accuracy"]) > 0  # all would be wrong if class 2 counted
    masked, plain = agent.score([examples], active), agent.score([examples])
    assert masked.accuracy is not None
    assert plain.accuracy is not None
    assert float(masked.accuracy) > float(plain.accuracy) == 0.0
    assert float(masked.loss) < 5 < float(plain.loss)


def test_all_classes_counting_is_the_plain_loss(builder: BuildPart) -> None:
    plain, masked = learner(builder, label_smoothing=0.1), learner(builder, True, label_smoothing=0.1)
    place = Place(0, 1, False, False, torch.ones(3, dtype=torch.bool))
    for seed in range(4):
        logs, others = plain.learn(Experience(batch(8, seed), 0)), masked.learn(Experience(batch(8, seed), 0, place=place))
        assert float(logs["train/loss"]) == pytest.approx(float(others["train/loss"]), rel=1e-5)
        assert float(logs["online/accuracy"]) == float(others["online/accuracy"])


# Scores


def test_scores_are_means_over_all_examples_for_any_minibatches(builder: BuildPart) -> None:
    agent, examples = learner(builder), batch(11)
    outputs = agent.learner.predict(examples.inputs)
    whole = functional.cross_entropy(outputs, examples.targets)
    for size in (1, 4, 11):
        parts = zip(examples.inputs.split(size), examples.targets.split(size), strict=True)
        score = agent.score(Examples(*part) for part in parts)
        assert score.loss.item() == pytest.approx(whole.item(), rel=1e-5)
        assert score.accuracy is not None
        assert score.accuracy.item() == pytest.approx((outputs.argmax(1) == examples.targets).float().mean().item())


def test_regression_is_built_as_the_stream_states_and_scored_by_its_loss(builder: BuildPart) -> None:
    agent: Any = build_agent("supervised", SupervisedSettings(), Problem("examples", 2, False, False), builder())
    examples = Examples(torch.randn(6, 4), torch.randn(6, 2))
    expected = (agent.act(examples.inputs) - examples.targets).square().mean()
    score = agent.score(
        [Examples(examples.inputs[:4], examples.targets[:4]), Examples(examples.inputs[4:], examples.targets[4:])]
    )
    assert score.accuracy is None
    assert score.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    agent.learn(Experience(examples, 0, place=Place(0, 1, True, True)))
    assert agent.online.means() == {"loss": pytest.approx(expected.item(), rel=1e-5)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluation_batch_size": 0}, r"agent\.evaluation_batch_size=0 must be at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SupervisedSettings(**settings)
