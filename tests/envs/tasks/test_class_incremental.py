from typing import Any

import pytest
import torch

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.tasks.class_incremental import ClassIncremental, ClassIncrementalSettings
from plasticity.envs.tasks.schedule import Schedule
from plasticity.envs.tasks.task_stream import TaskStream


def images(start: int, classes: int = 6, per_class: int = 5) -> Dataset:
    """Values are different in all images of both data sets."""
    count = classes * per_class
    inputs = torch.arange(start, start + count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Dataset("small", inputs, torch.arange(classes).repeat(per_class), classes)


def source(seed: int = 0, **changes: Any) -> ClassIncremental:
    settings = ClassIncrementalSettings(**{"classes_per_task": 2, "validation_per_class": 2, **changes})
    return ClassIncremental(images(0), images(100), settings, seed)


def test_classes_grow_in_one_random_order_and_stay_complete() -> None:
    made = source()
    assert [len(made.classes_of(number)) for number in range(5)] == [2, 4, 6, 6, 6]
    assert made.classes_of(1)[:2] == made.classes_of(0)
    assert sorted(made.classes_of(2)) == list(range(6))
    assert made.classes_of(0) == source().classes_of(0)
    assert {tuple(source(seed=seed).classes_of(2)) for seed in range(5)} != {tuple(made.classes_of(2))}
    assert len(source(first_classes=3, classes_per_task=1).classes_of(1)) == 4


def test_each_set_holds_its_own_images_of_all_classes_so_far() -> None:
    made = source()
    for number in range(4):
        classes, task = set(made.classes_of(number)), made.task(number)
        assert task.validation is not None
        assert task.test is not None
        for part, per_class in ((task.train, 3), (task.validation, 2), (task.test, 5)):
            assert set(part.targets.tolist()) == classes
            assert len(part.targets) == per_class * len(classes)
            assert all(part.targets.tolist().count(label) == per_class for label in classes)
        train, validation, test = (set(part.inputs.flatten().tolist()) for part in (task.train, task.validation, task.test))
        assert not train & validation
        assert not train & test
        assert all(value >= 100 for value in test)
        assert all(value % 6 in classes for value in train | validation)  # images keep their labels
        assert all(value < 12 for value in validation)  # the first two of each class in file order
        assert len(task.train.inputs) == made.examples_in(number)
        assert task.active is not None
        assert set(task.active.nonzero().squeeze(1).tolist()) == classes


def test_the_mask_and_validation_are_options() -> None:
    task = source(masked=False, validation_per_class=0).task(0)
    assert (task.active, task.validation) == (None, None)
    assert len(task.train.inputs) == 10


def test_it_streams_and_resumes_in_the_middle_of_an_epoch() -> None:
    def stream() -> TaskStream:
        return TaskStream(source(), Schedule(epochs_per_task=2, batch_size=4), seed=3)

    # Tasks of 6, 12, 18 examples: 2, 3, 5 minibatches an epoch.
    one = stream()
    seen = [one.advance() for _ in range(30)]
    assert [step for step, experience in enumerate(seen) if experience.stats] == [0, 4, 10, 20]
    assert [experience.task for experience in seen] == [0] * 4 + [1] * 6 + [2] * 10 + [3] * 10
    for before in (1, 3, 5, 9, 10, 13, 21):
        other = stream()
        for _ in range(before):
            other.advance()
        resumed = stream()
        resumed.load_state_dict(other.state_dict())
        for expected in seen[before : before + 9]:
            experience = resumed.advance()
            assert all(torch.equal(a, b) for a, b in zip(experience.batch, expected.batch, strict=True))
            assert (experience.task, experience.stats) == (expected.task, expected.stats)
            assert experience.place is not None
            assert expected.place is not None
            assert experience.place[:4] == expected.place[:4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes_per_task": 0}, r"env\.classes_per_task=0 must be at least 1"),
        ({"first_classes": 7}, r"first_classes must lie in 1\.\.6, got 7"),
        ({"validation_per_class": 5}, "validation_per_class must be less than the 5 images of a class, got 5"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(**changes)
