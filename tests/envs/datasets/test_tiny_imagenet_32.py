from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.datasets.datasets import load_dataset


def written(root: Path, shape: tuple[int, ...] = (550, 3, 32, 32), labels: tuple[int, ...] = (10, 2)) -> Path:
    """Files of the true form: image i of class c has i modulo 256 in its red plane, c in its green one, and 0 in the blue one."""
    (root / "tiny_imagenet_32").mkdir()
    for label in labels:
        images = np.zeros(shape, np.uint8)
        images[:, 0] = (np.arange(len(images)) % 256)[:, None, None]
        images[:, 1:2] = label
        np.save(root / "tiny_imagenet_32" / f"{label}.npy", images)
    return root


def test_rows_from_500_on_are_the_test_set_and_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = written(tmp_path)
    train, test, whole = (load_dataset("tiny_imagenet_32", split, root) for split in ("train", "test", "all"))  # type: ignore[arg-type]
    assert (train.inputs.shape, test.inputs.shape) == ((1000, 3, 32, 32), (100, 3, 32, 32))
    assert (train.classes, train.inputs.dtype) == (2, torch.uint8)
    assert train.targets.tolist() == [0] * 500 + [1] * 500
    assert test.targets.tolist() == [0] * 50 + [1] * 50
    assert train.inputs[:, 1, 0, 0].tolist() == [2] * 500 + [10] * 500
    assert train.inputs[:500, 0, 31, 31].tolist() == [number % 256 for number in range(500)]
    assert test.inputs[50:, 0, 0, 0].tolist() == list(range(244, 256)) + list(range(38))  # 500 to 549 modulo 256
    assert torch.equal(whole.inputs, torch.cat([train.inputs, test.inputs]))
    assert torch.equal(whole.targets, torch.cat([train.targets, test.targets]))
    assert torch.equal(load_dataset("tiny_imagenet_32", None, root).inputs, train.inputs)


def test_a_folder_without_files_is_named_with_what_belongs_there(tmp_path: Path) -> None:
    for _ in ("absent", "empty"):
        with pytest.raises(DatasetError, match=r"'tiny_imagenet_32' is not available: put <class>\.npy files, bytes \(550, 3, "):
            load_dataset("tiny_imagenet_32", "train", tmp_path)
        (tmp_path / "tiny_imagenet_32").mkdir(exist_ok=True)


@pytest.mark.parametrize("shape", [(549, 3, 32, 32), (550, 3, 64, 64), (550, 1, 32, 32)])
def test_a_file_of_another_shape_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    root = written(tmp_path, shape, labels=(0,))
    with pytest.raises(DatasetError, match=r"0\.npy holds images \(\d+, \d, \d\d, \d\d\); 'tiny_imagenet_32' needs <class>"):
        load_dataset("tiny_imagenet_32", "test", root)
