from itertools import pairwise
from typing import Any

import pytest
import torch

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.tasks.first_phases import FirstPhases, FirstPhasesSettings


def images(count: int, start: int = 0, classes: int = 5) -> Dataset:
    inputs = torch.arange(start, start + count, dtype=torch.float32).div(1e4).view(-1, 1, 1, 1)
    return Dataset("small", inputs, torch.arange(count) % classes, classes)


def made(count: int = 100, **settings: Any) -> FirstPhases:
    return FirstPhases(images(count), images(10, 500), FirstPhasesSettings(**settings), 0)


def numbers(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten().mul(1e4).round().long()


def test_a_warm_start_shows_half_and_then_all() -> None:
    source = made()
    first, second, third = (source.task(number).train for number in range(3))
    assert (len(first.inputs), len(second.inputs), len(third.inputs)) == (50, 100, 100)
    assert [source.examples_in(number) for number in range(3)] == [50, 100, 100]
    assert set(numbers(first.inputs).tolist()) < set(numbers(second.inputs).tolist()) == set(range(100))
    assert torch.equal(first.targets, numbers(first.inputs) % 5)
    assert len(set((numbers(first.inputs) % 5).tolist())) == 5


def test_a_set_grows_in_equal_steps_that_contain_each_other() -> None:
    source = made(fraction=0.1, phases=9)
    assert [source.examples_in(number) for number in range(11)] == [*range(10, 101, 10), 100]
    sets = [set(numbers(source.task(number).train.inputs).tolist()) for number in range(10)]
    assert all(earlier < later for earlier, later in pairwise(sets))


def labels(source: FirstPhases, number: int) -> dict[int, int]:
    """The label of each example in a task, by its number, minus its own."""
    train = source.task(number).train
    assert len(set(numbers(train.inputs).tolist())) == len(train.inputs) == source.examples_in(number)
    return dict(zip(numbers(train.inputs).tolist(), ((train.targets - numbers(train.inputs)) % 5).tolist(), strict=True))


def incorrect(shown: dict[int, int]) -> set[int]:
    return {number for number, shift in shown.items() if shift}


@pytest.mark.parametrize("kind", ["noisy_labels", "wrong_labels"])
def test_exactly_the_fraction_is_incorrect_and_uniform_over_the_other_classes(kind: str) -> None:
    source = made(2000, kind=kind, fraction=0.4)
    shown = labels(source, 0)
    assert len(incorrect(shown)) == 800
    counts = [list(shown.values()).count(shift) for shift in range(1, 5)]
    assert all(150 < count < 250 for count in counts)  # 200 expected, standard deviation 12
    assert labels(source, 1) == dict.fromkeys(range(2000), 0)


def test_the_right_part_grows_in_equal_steps_and_keeps_what_it_has() -> None:
    for kind in ("noisy_labels", "wrong_labels"):
        source = made(200, kind=kind, fraction=0.8, phases=4)
        parts = [incorrect(labels(source, number)) for number in range(6)]
        assert [len(part) for part in parts] == [160, 120, 80, 40, 0, 0]
        assert all(later <= earlier for earlier, later in pairwise(parts))


def test_the_right_part_can_stay_the_same() -> None:
    for kind, sizes in (("noisy_labels", [60, 60, 60, 0]), ("wrong_labels", [60, 60, 60, 0])):
        source = made(200, kind=kind, fraction=0.3, phases=3, gradual=False)
        parts = [incorrect(labels(source, number)) for number in range(4)]
        assert [len(part) for part in parts] == sizes
        assert parts[0] == parts[1] == parts[2]
    subset = made(fraction=0.3, phases=3, gradual=False)
    assert [subset.examples_in(number) for number in range(5)] == [30, 30, 30, 100, 100]


def test_noisy_labels_are_drawn_again_and_wrong_ones_stay() -> None:
    for kind, kept in (("wrong_labels", 300), ("noisy_labels", 75)):
        source = made(300, kind=kind, fraction=1.0, phases=2, gradual=False)
        first, second = labels(source, 0), labels(source, 1)
        same = sum(first[number] == second[number] for number in first)
        assert abs(same - kept) < (1 if kept == 300 else 35)  # one in four by chance, standard deviation 7.5


def test_labels_may_be_right_by_chance() -> None:
    source = made(1000, kind="noisy_labels", fraction=0.5, right_by_chance=True)
    assert 360 < len(incorrect(labels(source, 0))) < 440  # of 500 one in five is right: 400, standard deviation 9


def test_the_seed_and_the_task_alone_decide() -> None:
    for kind in ("noisy_labels", "wrong_labels", "subset"):
        one, again = made(kind=kind, phases=3), made(kind=kind, phases=3)
        expected = [labels(one, number) for number in range(4)]
        assert [labels(again, number) for number in (3, 1)] == [expected[3], expected[1]]
        other = FirstPhases(images(100), None, FirstPhasesSettings(kind=kind, phases=3), 1)
        assert labels(other, 0) != expected[0]


def test_validation_and_test_are_clean_and_apart() -> None:
    source = made(kind="wrong_labels", fraction=1.0, validation_fraction=0.2)
    assert source.has_validation
    for number in range(2):
        task = source.task(number)
        assert task.validation is not None
        assert task.test is not None
        assert (len(task.train.inputs), len(task.validation.inputs)) == (80, 20)
        train, validation = set(numbers(task.train.inputs).tolist()), set(numbers(task.validation.inputs).tolist())
        assert not train & validation
        assert torch.equal(task.validation.targets, numbers(task.validation.inputs) % 5)
        assert numbers(task.test.inputs).tolist() == list(range(500, 510))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "noise"}, r"env\.kind=noise is unknown.*; choose from subset, noisy_labels, wrong_labels"),
        ({"fraction": 2.0}, r"env\.fraction=2\.0 must be between 0 and 1"),
        ({"phases": 0}, r"env\.phases=0 must be at least 1"),
        ({"validation_fraction": 1.0}, r"env\.validation_fraction=1\.0 must be at least 0 and below 1"),
        ({"fraction": 0.0}, "leaves none for the first phase"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)
