import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plasticity.envs.datasets import mnist
from plasticity.envs.datasets.dataset_files import RawFile
from plasticity.envs.datasets.datasets import Dataset, load_dataset
from plasticity.envs.datasets.mnist import MNIST


def test_digits_are_all_images_scaled_to_one() -> None:
    digits = load_dataset("digits")
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert digits.inputs.dtype == torch.float32
    assert (float(digits.inputs.min()), float(digits.inputs.max())) == (0.0, 1.0)
    assert digits.inputs[0, 0, 0].tolist() == [0.0, 0.0, 5 / 16, 13 / 16, 9 / 16, 1 / 16, 0.0, 0.0]
    assert digits.targets.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.classes == 10


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), load_dataset("digits")
    assert torch.equal(ours.inputs, torch.from_numpy(theirs.images).float().div(16).unsqueeze(1))
    assert torch.equal(ours.targets, torch.from_numpy(theirs.target))


def test_digits_are_read_without_importing_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    load_dataset("digits")
    assert "sklearn" not in sys.modules


def test_digits_split_is_fixed_and_disjoint() -> None:
    whole, train, test = (load_dataset("digits", split) for split in ("all", "train", "test"))  # type: ignore[arg-type]
    assert (len(train.inputs), len(test.inputs)) == (1500, 297)
    torch.testing.assert_close(torch.cat([train.inputs, test.inputs]), whole.inputs, rtol=0, atol=0)
    assert torch.equal(torch.cat([train.targets, test.targets]), whole.targets)


def test_an_image_set_becomes_writable_tensors_of_the_training_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = bytes([0, 0, 8])
    images = header + b"\3" + bytes([0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]) + bytes([1, 2, 3, 255])
    labels = header + b"\1" + bytes([0, 0, 0, 2]) + bytes([9, 0])
    files = tuple(RawFile(name, hashlib.md5(content).hexdigest()) for name, content in (("i", images), ("l", labels)))
    tiny = replace(MNIST, name="mnist", train_files=files, test_files=(), sources=())
    monkeypatch.setattr(mnist, "MNIST", tiny)
    monkeypatch.setenv("PLASTICITY_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "i").write_bytes(images)
    (tmp_path / "mnist" / "l").write_bytes(labels)
    for data in (load_dataset("mnist"), load_dataset("mnist", "train", tmp_path)):
        assert data.inputs.dtype == torch.uint8
        assert data.inputs.tolist() == [[[[1, 2]]], [[[3, 255]]]]
        assert data.targets.dtype == torch.int64
        assert data.targets.tolist() == [9, 0]
        data.inputs[0] = 7


def test_unknown_names_and_splits_name_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"dataset=fashion_minst is unknown \(did you mean fashion_mnist\?\); choose from cifar10, .*mnist"
    ):
        load_dataset("fashion_minst")
    with pytest.raises(
        ValueError,
        match=r"dataset=zzz is unknown; choose from cifar10, cifar100, digits, fashion_mnist, mnist, quick_draw, "
        r"tiny_imagenet_32$",
    ):
        load_dataset("zzz")
    with pytest.raises(ValueError, match="split must be one of train, test, all, got 'valid'"):
        load_dataset("digits", "valid")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 1]), r"inputs of 'x' must be \(N, C, H, W\)"),
        (torch.zeros(2, 1, 1, 1, dtype=torch.float64), torch.tensor([0, 1]), "got .* torch.float64"),
        (torch.zeros(2, 1, 1, 1), torch.tensor([0]), r"targets of 'x' must be \(2,\) int64"),
        (torch.zeros(2, 1, 1, 1), torch.tensor([0.0, 1.0]), "got .* torch.float32"),
        (torch.zeros(2, 1, 1, 1), torch.tensor([0, 2]), r"must lie in 0\.\.1, got 0\.\.2"),
        (torch.zeros(2, 1, 1, 1), torch.tensor([-1, 0]), r"got -1\.\.0"),
        (torch.zeros(0, 1, 1, 1), torch.zeros(0, dtype=torch.int64), "data set 'x' is empty"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(inputs: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset("x", inputs, targets, 2)
