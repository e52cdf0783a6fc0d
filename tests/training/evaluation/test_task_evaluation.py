from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.datasets.augmentation import Augmentation
from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.tasks.preparation import Preparation
from plasticity.envs.tasks.schedule import Schedule
from plasticity.envs.tasks.slow_regression import SlowRegression, SlowRegressionSettings
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.envs.tasks.transformed_tasks import TaskStreamSettings, TransformedTasks
from plasticity.metrics.observer import observe
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import View
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.settings.seeding import derive_seed
from plasticity.training.evaluation.task_evaluation import TaskEvaluationObserver, TaskEvaluationSettings

Make = Callable[..., SupervisedLearner]


def images(count: int, seed: int) -> Dataset:
    """Noise around a picture of each of three classes."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(3, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 3
    noise = 0.3 * torch.rand(count, 1, 3, 3, generator=generator)
    return Dataset("small", (pictures[labels] * 0.7 + noise), labels, 3)


def stream_of(transformation: str = "permuted_pixels", preparation: Preparation | None = None, **schedule: Any) -> TaskStream:
    source = TransformedTasks(images(30, 1), TaskStreamSettings(transformation=transformation), 0, images(20, 2))
    return TaskStream(source, Schedule(**({"epochs_per_task": 2, "batch_size": 8} | schedule)), 0, preparation)


def learner(seed: int = 0) -> SupervisedLearner:
    optimizer = OptimizerSettings(learning_rate=0.02)
    builder = PartBuilder(MLPSpec(widths=[16]), (1, 3, 3), torch.float32, optimizer, seed=seed)
    return SupervisedLearner(SupervisedSettings(), 3, True, builder)


def regressor(seed: int = 0) -> SupervisedLearner:
    builder = PartBuilder(MLPSpec(widths=[4]), (5,), torch.float32, OptimizerSettings(learning_rate=0.02), seed=seed)
    return SupervisedLearner(SupervisedSettings(), 1, False, builder)


def watched(stream: TaskStream, steps: int, make: Make = learner, **settings: Any) -> dict[int, dict[str, Any]]:
    """Trains, and returns what was measured, by step."""
    agent = make()
    observer = TaskEvaluationObserver(TaskEvaluationSettings(**settings), 0, agent, stream, make)
    measured = {}
    for _ in range(steps):
        before = stream.step
        agent.learn(stream.advance())
        if observer.due(before, stream.step):
            measured[stream.step] = observe(observer, View(stream.step, stream.task, agent))
    return measured


def test_tasks_are_evaluated_at_their_ends_announced_or_not() -> None:
    for announced in (True, False):
        measured = watched(stream_of(announce_tasks=announced), 24)
        assert list(measured) == [8, 16, 24]  # 30 examples: 4 minibatches an epoch
        assert [logs["task/number"] for logs in measured.values()] == [0.0, 1.0, 2.0]
        names = {
            "number",
            "online_accuracy",
            "online_loss",
            "train_loss",
            "train_accuracy",
            "test_loss",
            "test_accuracy",
            "accuracy",
            "loss",
        }
        names |= {"mean_online_accuracy", "mean_test_accuracy"}
        assert set(measured[8]) == {f"task/{name}" for name in names}
    assert list(watched(stream_of(), 24, every_tasks=2)) == [16]
    assert list(watched(stream_of(), 24, every_tasks=0, fresh_every_tasks=3)) == [24]
    assert watched(stream_of(), 24, every_tasks=0) == {}


def test_values_are_those_of_the_network_at_the_end_of_the_task() -> None:
    stream, agent = stream_of(), learner()
    observer = TaskEvaluationObserver(TaskEvaluationSettings(batch_size=7), 0, agent, stream, learner)
    right, seen = 0.0, 0
    while not stream.ends_task:
        experience: Any = stream.advance()
        right += float((agent.act(experience.batch.inputs) == experience.batch.targets).sum())
        seen += len(experience.batch.targets)
        agent.learn(experience)
    logs: dict[str, Any] = observe(observer, View(stream.step, 0, agent))
    assert float(logs["task/online_accuracy"]) == pytest.approx(right / seen)
    assert seen == 60
    for name, part in stream.sets().items():
        predicted = agent.act(part.inputs)
        assert float(logs[f"task/{name}_accuracy"]) == pytest.approx(float((predicted == part.targets).float().mean()))


def test_epochs_make_a_learning_curve() -> None:
    measured = watched(stream_of(epochs_per_task=3), 12, every_epochs=1, every_tasks=1)
    assert list(measured) == [4, 8, 12]
    assert "task/test_accuracy" not in measured[4]
    assert float(measured[4]["epoch/test_loss"]) > float(measured[12]["epoch/test_loss"])
    assert float(measured[12]["epoch/test_loss"]) == float(measured[12]["task/test_loss"])
    assert [measured[step]["epoch/passed"] for step in measured] == [1, 2, 3]
    assert list(watched(stream_of(epochs_per_task=3), 12, every_epochs=2, every_tasks=0)) == [8]


def test_the_best_epoch_is_that_of_the_task() -> None:
    measured = watched(stream_of(epochs_per_task=3), 36, every_epochs=1, fresh_every_tasks=3)
    for task, end in enumerate((12, 24, 36)):
        curve = [measured[step]["epoch/test_accuracy"] for step in (end - 8, end - 4, end)]
        assert [measured[step]["epoch/task"] for step in (end - 8, end)] == [task, task]
        assert measured[end]["task/best_test_accuracy"] == max(curve)
    fresh, stream, curve = learner(derive_seed(0, "fresh learner", 2)), stream_of(epochs_per_task=3).beginning(2), []
    for _ in range(12):
        fresh.learn(stream.advance())
        if stream.ends_epoch:
            curve.append(float(fresh.score([stream.sets()["test"]]).accuracy))  # type: ignore[arg-type]
    assert curve[1] != max(curve)
    assert measured[36]["fresh/best_test_accuracy"] == max(curve)
    second_only = watched(stream_of(epochs_per_task=3), 36, every_epochs=2, fresh_every_tasks=3)[36]
    assert second_only["fresh/best_test_accuracy"] == curve[1]
    difference = measured[36]["task/best_test_accuracy"] - max(curve)
    assert measured[36]["relative/best_test_accuracy"] == pytest.approx(difference)


def test_a_task_of_a_single_minibatch_is_evaluated() -> None:
    assert list(watched(stream_of(epochs_per_task=1, batch_size=30), 3)) == [1, 2, 3]


def test_a_fresh_learner_sees_the_same_task_from_its_start() -> None:
    measured = watched(stream_of(), 16, fresh_every_tasks=2)
    assert "fresh/test_accuracy" not in measured[8]
    logs = measured[16]
    fresh, stream = learner(derive_seed(0, "fresh learner", 1)), stream_of()
    for step in range(16):
        experience = stream.advance()
        if step >= 8:
            fresh.learn(experience)
    online = fresh.online.means()["accuracy"]
    score = fresh.score([stream.sets()["test"]])
    assert score.accuracy is not None
    assert float(logs["fresh/online_accuracy"]) == pytest.approx(online)
    assert float(logs["fresh/test_accuracy"]) == float(score.accuracy)
    assert float(logs["fresh/test_loss"]) == pytest.approx(float(score.loss), rel=1e-6)
    aged = float(logs["task/online_accuracy"])
    assert float(logs["relative/online_accuracy"]) == pytest.approx(aged - online)
    assert float(logs["relative/online_transfer"]) == pytest.approx((aged - online) / (1 - online))
    difference = float(logs["task/test_accuracy"]) - float(logs["fresh/test_accuracy"])
    assert float(logs["relative/test_accuracy"]) == pytest.approx(difference, abs=1e-6)


def test_the_next_task_is_tried_before_it_begins() -> None:
    stream, agent = stream_of(), learner()
    observer = TaskEvaluationObserver(TaskEvaluationSettings(forward_transfer=True), 0, agent, stream, learner)
    for _ in range(8):
        agent.learn(stream.advance())
    logs: dict[str, Any] = observe(observer, View(8, 0, agent))
    following = stream_of().beginning(1).sets()["test"]
    expected = float((agent.act(following.inputs) == following.targets).float().mean())
    assert float(logs["task/next_test_accuracy"]) == pytest.approx(expected)
    fresh = learner(derive_seed(0, "fresh learner", 1))
    chance = float((fresh.act(following.inputs) == following.targets).float().mean())
    assert logs["fresh/next_test_accuracy"] == pytest.approx(chance)
    assert logs["task/forward_transfer"] == pytest.approx(expected - chance)
    unlabelled = watched(stream_of("random_labels"), 8, forward_transfer=True)[8]
    assert isinstance(unlabelled["task/forward_transfer"], Undefined)
    assert isinstance(unlabelled["task/mean_forward_transfer"], Undefined)
    assert "task/test_accuracy" not in unlabelled


def test_means_are_over_the_tasks_so_far() -> None:
    measured = watched(stream_of(), 24, forward_transfer=True)
    for name in ("online_accuracy", "test_accuracy", "forward_transfer"):
        values = [logs[f"task/{name}"] for logs in measured.values()]
        means = [logs[f"task/mean_{name}"] for logs in measured.values()]
        assert means == pytest.approx([values[0], sum(values[:2]) / 2, sum(values) / 3])
    curves = measured[24]["task/accuracy"]
    assert curves.x.tolist() == [0, 1, 2]
    assert curves.ys["test"].tolist() == [logs["task/test_accuracy"] for logs in measured.values()]
    assert set(curves.ys) == {"online", "train", "test"}


class RegressionWithTest(SlowRegression):
    """Slowly-changing regression with its training examples as a test set."""

    def task(self, number: int) -> TaskData:
        data = super().task(number)
        return replace(data, test=data.train)


def test_regression_is_compared_by_loss() -> None:
    settings = SlowRegressionSettings(bits=5, slow_bits=2, examples_per_task=6)
    stream = TaskStream(RegressionWithTest(settings, 0), Schedule(batch_size=1), 0)
    measured = watched(stream, 12, make=regressor, fresh_every_tasks=2, every_epochs=1, forward_transfer=True)
    assert {name for name in measured[6] if "accuracy" in name} == set()
    logs = measured[12]
    assert logs["relative/online_loss"] == logs["task/online_loss"] - logs["fresh/online_loss"]
    assert logs["task/mean_online_loss"] == (measured[6]["task/online_loss"] + logs["task/online_loss"]) / 2
    assert logs["task/forward_transfer"] == logs["fresh/next_test_loss"] - logs["task/next_test_loss"] != 0
    assert set(logs["task/loss"].ys) == {"online", "train", "test"}


def test_what_was_found_by_task_goes_on_after_a_stop_in_mid_task() -> None:
    settings = TaskEvaluationSettings(every_epochs=1, forward_transfer=True)
    whole = watched(stream_of(), 24, every_epochs=1, forward_transfer=True)
    stream, agent = stream_of(), learner()
    observer = TaskEvaluationObserver(settings, 0, agent, stream, learner)
    measured = {}
    for step in range(1, 25):
        agent.learn(stream.advance())
        if observer.due(step - 1, step):
            measured[step] = observe(observer, View(step, 0, agent))
        if step in (13, 20):  # within the second task, between its epochs and in the last one's end
            saved = deepcopy((stream.state_dict(), agent.state_dict(), observer.state_dict()))
            stream, agent = stream_of(), learner(7)
            observer = TaskEvaluationObserver(settings, 0, agent, stream, learner)
            for part, state in zip((stream, agent, observer), saved, strict=True):
                part.load_state_dict(state)  # type: ignore[attr-defined]
    assert str(measured) == str(whole)


def test_a_part_of_each_set_can_be_enough() -> None:
    stream, agent = stream_of(), learner()
    observer = TaskEvaluationObserver(TaskEvaluationSettings(examples=6), 0, agent, stream, learner)
    for _ in range(8):
        agent.learn(stream.advance())
    logs: dict[str, Any] = observe(observer, View(8, 0, agent))
    for name in ("train", "test"):
        assert float(logs[f"task/{name}_accuracy"]) * 6 == pytest.approx(
            round(float(logs[f"task/{name}_accuracy"]) * 6), abs=1e-5
        )
    again: dict[str, Any] = observe(observer, View(8, 0, agent))
    assert [again[f"task/{name}_accuracy"] for name in ("train", "test")] == [
        logs[f"task/{name}_accuracy"] for name in ("train", "test")
    ]


def test_test_images_alone_are_augmented_and_only_on_request() -> None:
    make = partial(stream_of, preparation=Preparation(Augmentation(1.0, 0, 0.0)))
    stream, agent = make(), learner()
    for _ in range(8):
        agent.learn(stream.advance())
    train, test = stream.sets()["train"], stream.sets()["test"]
    for augmented, inputs in ((False, test.inputs), (True, test.inputs.flip(3))):
        settings = TaskEvaluationSettings(augmented=augmented)
        logs: dict[str, Any] = observe(TaskEvaluationObserver(settings, 0, agent, stream, learner), View(8, 0, agent))
        expected = agent.score([test._replace(inputs=inputs)])
        assert float(logs["task/test_loss"]) == pytest.approx(float(expected.loss), rel=1e-5)
        assert float(logs["task/train_loss"]) == pytest.approx(float(agent.score([train]).loss), rel=1e-5)


def test_watching_changes_nothing() -> None:
    stream, agent = stream_of(), learner()
    settings = TaskEvaluationSettings(every_epochs=1, forward_transfer=True, fresh_every_tasks=1)
    observer = TaskEvaluationObserver(settings, 0, agent, stream, learner)
    for _ in range(8):
        agent.learn(stream.advance())
    before, place, random = deepcopy(agent.state_dict()), stream.state_dict(), torch.get_rng_state()
    training = agent.learner.network.training
    observe(observer, View(8, 0, agent))
    assert str(agent.state_dict()) == str(before)
    assert stream.state_dict() == place
    assert torch.equal(torch.get_rng_state(), random)
    assert agent.learner.network.training == training
    after = stream.advance()
    expected = stream_of()
    for _ in range(8):
        expected.advance()
    assert torch.equal(after.batch[0], expected.advance().batch[0])


@pytest.mark.parametrize("name", ["every_tasks", "every_epochs", "fresh_every_tasks"])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=rf"task_evaluation\.{name}=-1 must be at least 0"):
        TaskEvaluationSettings(**{name: -1})
    with pytest.raises(ValueError, match=r"task_evaluation\.examples=0 must be at least 1"):
        TaskEvaluationSettings(examples=0)
    with pytest.raises(ValueError, match=r"forward_transfer=true needs task_evaluation\.every_tasks"):
        TaskEvaluationSettings(every_tasks=0, forward_transfer=True)
