from typing import Any

import pytest
import torch

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.tasks.transformed_tasks import TaskStreamSettings, TransformedTasks


def images(count: int, classes: int = 5, start: int = 0) -> Dataset:
    """Image i holds start + i in both of its pixels, and has label i % classes."""
    inputs = torch.arange(start, start + count, dtype=torch.float32).div(1e4).view(-1, 1, 1, 1).expand(-1, 1, 1, 2).clone()
    return Dataset("small", inputs, torch.arange(count) % classes, classes)


def made(dataset: Dataset, transformation: str, seed: int = 0, test: Dataset | None = None, **changes: Any) -> TransformedTasks:
    return TransformedTasks(dataset, TaskStreamSettings(transformation=transformation, **changes), seed, test)


def changed(source: TransformedTasks, number: int, classes: int = 5) -> torch.Tensor:
    """Numbers of the examples whose label in a task is not that of the data set."""
    task = source.task(number).train
    numbers = task.inputs[:, 0, 0, 0].mul(1e4).round().long()
    return numbers[task.targets != numbers % classes].sort().values


def test_a_fraction_of_the_labels_is_drawn_again_in_each_task() -> None:
    source = made(images(1000), "random_labels", fraction=0.5)
    sets = [set(changed(source, number).tolist()) for number in range(3)]
    # Of 500 new labels one in five is the old one: 400 differ, standard deviation 9.
    assert all(360 < len(part) <= 500 for part in sets)
    assert len(set.union(*sets)) > 700  # other examples each time
    whole = made(images(1000), "random_labels")
    assert 740 < len(changed(whole, 0)) < 860


def test_the_composite_mode_changes_the_same_examples_differently() -> None:
    source = made(images(1000), "random_labels", mode="composite", fraction=0.5)
    assert len(set.union(*(set(changed(source, number).tolist()) for number in range(8)))) <= 500
    first, second = source.task(0).train.targets, source.task(1).train.targets
    assert int((first != second).sum()) > 300
    drawn = made(images(1000), "random_labels", examples_per_task=600, mode="composite", fraction=0.5)
    assert len(set.union(*(set(changed(drawn, number).tolist()) for number in range(8)))) <= 500


def test_the_growing_mode_adds_a_class_at_a_time() -> None:
    source = made(images(50), "permuted_labels", 1, mode="growing", test=images(20, start=500))
    seen: set[int] = set()
    for number in range(7):
        task = source.task(number)
        assert task.test is not None
        numbers = task.train.inputs[:, 0, 0, 0].mul(1e4).round().long()
        classes = set((numbers % 5).tolist())
        assert len(classes) == min(number + 1, 5)
        assert seen <= classes
        assert len(numbers) == 10 * len(classes) == source.examples_in(number)
        tested = task.test.inputs[:, 0, 0, 0].mul(1e4).round().long()
        assert set((tested % 5).tolist()) == classes
        renamed = dict(zip((numbers % 5).tolist(), task.train.targets.tolist(), strict=True))
        assert [renamed[label] for label in (tested % 5).tolist()] == task.test.targets.tolist()
        seen = classes


def test_a_test_set_has_the_permutation_of_its_task() -> None:
    source = made(images(10), "permuted_labels", examples_per_task=5, test=images(10, start=100))
    for number in range(3):
        task = source.task(number)
        assert task.test is not None
        renamed = dict(
            zip((task.train.inputs[:, 0, 0, 0].mul(1e4).round().long() % 5).tolist(), task.train.targets.tolist(), strict=True)
        )
        for label, new in zip([0, 1, 2, 3, 4] * 2, task.test.targets.tolist(), strict=True):
            assert renamed.get(label, new) == new


def test_pixels_of_the_test_set_are_permuted_like_those_of_training() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).view(4, 1, 2, 3)
    data = Dataset("numbers", pixels, torch.arange(4), 4)
    task = made(data, "permuted_pixels", test=data).task(0)
    assert task.test is not None
    assert torch.equal(task.test.inputs, task.train.inputs)
    assert not torch.equal(task.train.inputs, pixels)


def test_what_can_be_tested() -> None:
    test = images(20, start=100)
    assert made(images(10), "random_labels", test=test).task(0).test is None
    half = made(images(10), "random_labels", fraction=0.5, test=test).task(0).test
    assert half is not None
    assert torch.equal(half.targets, test.targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mode": "composit"},
            r"env\.mode=composit is unknown \(did you mean composite\?\); choose from continual, composite, growing",
        ),
        ({"fraction": 1.5}, r"env\.fraction=1\.5 must be between 0 and 1"),
        ({"mode": "growing", "examples_per_task": 5}, "examples_per_task must be null in mode 'growing'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(images(10), "random_labels", **settings)
