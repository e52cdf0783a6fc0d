from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity.envs.datasets.array_folder import ArrayFolder
from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.tasks.class_images import DatasetClasses
from plasticity.envs.tasks.class_pairs import ClassPairs, ClassPairsSettings


def dataset(classes: int = 5, per_class: int = 6) -> Dataset:
    """Image i of class c holds the value 10 c + i; the classes come mixed."""
    labels = torch.arange(classes).repeat(per_class)
    values = 10 * labels + torch.arange(per_class).repeat_interleave(classes)
    return Dataset("small", values.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone(), labels, classes)


def pairs(seed: int = 0, order: str = "periodic", classes: int = 5, validation: int = 1, per_task: int = 2) -> ClassPairs:
    settings = ClassPairsSettings(
        classes_per_task=per_task, train_per_class=3, test_per_class=2, validation_per_class=validation, order=order
    )
    return ClassPairs(DatasetClasses(dataset(classes)), settings, seed)


def values(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_sets_are_disjoint_rows_of_the_two_classes_with_labels_by_place() -> None:
    source = pairs()
    for number in range(7):
        first, second = source.classes_of(number)
        task = source.task(number)
        assert task.validation is not None
        assert task.test is not None
        assert values(task.train.inputs) == [10 * c + i for c in (first, second) for i in (0, 1, 2)]
        assert values(task.validation.inputs) == [10 * first + 3, 10 * second + 3]
        assert values(task.test.inputs) == [10 * c + i for c in (first, second) for i in (4, 5)]
        assert task.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
        assert (task.validation.targets.tolist(), task.test.targets.tolist()) == ([0, 1], [0, 0, 1, 1])
        assert len(task.train.inputs) == source.examples_in(number)
        assert task.active is None


def test_periodic_order_goes_through_one_permutation_again_and_again() -> None:
    even = pairs(classes=4)
    shown = [even.classes_of(number) for number in range(6)]
    assert sorted(shown[0] + shown[1]) == [0, 1, 2, 3]
    assert shown[2:4] == shown[0:2] == shown[4:6]  # period 4 / 2
    odd = [label for number in range(5) for label in pairs(classes=5).classes_of(number)]
    assert odd[:5] == odd[5:]
    assert sorted(odd[:5]) == [0, 1, 2, 3, 4]


def test_fresh_order_draws_every_pair_evenly() -> None:
    source = pairs(order="fresh", classes=4)
    shown = [tuple(source.classes_of(number)) for number in range(600)]
    counts = {pair: shown.count(pair) for pair in set(shown)}
    assert len(counts) == 12
    assert all(first != second for first, second in counts)
    assert all(25 < count < 80 for count in counts.values())  # 50 expected, standard deviation 6.8


def test_the_seed_decides_the_order() -> None:
    one, again, other = ([pairs(seed).classes_of(number) for number in range(3)] for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_a_folder_is_read_by_class_in_the_order_of_numbers(tmp_path: Path) -> None:
    for label in (10, 2, 1):
        np.save(tmp_path / f"{label}.npy", np.full((7, 3, 4, 4), label, np.uint8))
    (tmp_path / "LICENCE").write_text("x")
    folder = ArrayFolder(tmp_path)
    assert (folder.classes, folder.input_shape, folder.input_dtype) == (3, (3, 4, 4), torch.uint8)
    assert [int(folder.images(label)[0, 0, 0, 0]) for label in range(3)] == [1, 2, 10]
    assert [folder.count(label) for label in range(3)] == [7, 7, 7]
    task = ClassPairs(folder, ClassPairsSettings(classes_per_task=3, train_per_class=5, test_per_class=1), 0).task(0)
    assert task.test is not None
    assert (task.train.inputs.shape, task.test.inputs.shape) == ((15, 3, 4, 4), (3, 3, 4, 4))


def test_a_class_with_too_few_images_is_named_and_never_a_shorter_task(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((7, 3, 4, 4), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros((6, 3, 4, 4), np.uint8))
    with pytest.raises(DatasetError, match=r"b\.npy holds 6 images, and train_per_class=5 \+ .* \+ test_per_class=2 ask for 7"):
        ClassPairs(ArrayFolder(tmp_path), ClassPairsSettings(train_per_class=5, test_per_class=2), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_task": 1}, r"env\.classes_per_task=1 must be at least 2"),
        ({"per_task": 6}, r"classes_per_task must lie in 2\.\.5, got 6"),
        ({"validation": -1}, r"env\.validation_per_class=-1 must be at least 0"),
        ({"order": "random"}, r"env\.order=random is unknown; choose from periodic, fresh"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs(**settings)  # type: ignore[arg-type]
