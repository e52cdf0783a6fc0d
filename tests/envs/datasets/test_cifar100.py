import hashlib
import io
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plasticity.envs.datasets import cifar100
from plasticity.envs.datasets.cifar100 import CIFAR100, parse_pickles
from plasticity.envs.datasets.dataset_files import DatasetError, RawFile
from plasticity.envs.datasets.dataset_sources import archive_source, unpacked_folder
from plasticity.envs.datasets.datasets import load_dataset

GENERATOR = np.random.default_rng(0)
PIXELS = {"train": GENERATOR.integers(256, size=(4, 3072), dtype=np.uint8), "test": np.full((2, 3072), 7, np.uint8)}
LABELS = {"train": [19, 99, 0, 29], "test": [49, 33]}


def python2(value: object) -> bytes:
    """The opcodes with which Python 2 and its NumPy wrote byte strings, lists of numbers and arrays of bytes."""
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    assert isinstance(value, np.ndarray)
    code = {1: b"u1", 8: b"i8"}[value.dtype.itemsize]
    order = b"<" if value.dtype.itemsize > 1 else b"|"
    dtype = (
        b"cnumpy\ndtype\nU\x02" + code + b"K\x00K\x01\x87R(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"(" + b"".join(python2(size) for size in value.shape) + b"t"
    raw = value.tobytes()
    return empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"


def dictionary(entries: dict[bytes, object]) -> bytes:
    return b"\x80\x02}" + b"".join(python2(key) + python2(value) + b"s" for key, value in entries.items()) + b"."


def batch(name: str) -> bytes:
    """The official form, with the entries that the loader does not need."""
    count = len(LABELS[name])
    return dictionary(
        {
            b"filenames": [b"bos_taurus_s_000507.png"] * count,
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": LABELS[name],
            b"coarse_labels": [11] * count,
            b"data": PIXELS[name],
        }
    )


CONTENTS = {name: batch(name) for name in PIXELS}
FILES = tuple(RawFile(name, hashlib.md5(content).hexdigest()) for name, content in CONTENTS.items())


def test_pickles_become_images_and_fine_labels() -> None:
    images, labels = parse_pickles(FILES, [CONTENTS["train"], CONTENTS["test"]])
    assert images.shape == (6, 3, 32, 32)
    assert labels.tolist() == [19, 99, 0, 29, 49, 33]
    np.testing.assert_array_equal(images[1, 2, 31], PIXELS["train"][1, 2048 + 31 * 32 :])


def test_the_official_archive_and_its_folder_are_read_from_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in {**CONTENTS, "meta": b"names", "file.txt~": b""}.items():
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    digest = hashlib.md5(buffer.getvalue()).hexdigest()
    members = [f"cifar-100-python/{name}" for name in CONTENTS]
    sources = (
        unpacked_folder("cifar-100-python", list(CONTENTS)),
        archive_source("tar", "cifar-100-python.tar.gz", digest, members, bytes),
    )
    small = replace(CIFAR100, train_files=FILES[:1], test_files=FILES[1:], sources=sources)
    monkeypatch.setattr(cifar100, "CIFAR100", small)
    for place in ("archive", "folder"):
        folder = tmp_path / place / "cifar100"
        (folder / "cifar-100-python").mkdir(parents=True)
        if place == "archive":
            (folder / "cifar-100-python").rmdir()
            (folder / "cifar-100-python.tar.gz").write_bytes(buffer.getvalue())
        else:
            for name, content in CONTENTS.items():
                (folder / "cifar-100-python" / name).write_bytes(content)
        for split in ("train", "test"):
            data = load_dataset("cifar100", split, tmp_path / place)  # type: ignore[arg-type]
            assert (data.classes, data.targets.tolist()) == (100, LABELS[split])
            np.testing.assert_array_equal(data.inputs.flatten(1).numpy(), PIXELS[split])
    (tmp_path / "folder" / "cifar100" / "train").write_bytes(CONTENTS["train"][:-5])
    with pytest.raises(DatasetError, match="train is damaged: expected md5"):
        load_dataset("cifar100", "train", tmp_path / "folder")


def pickled(**changes: object) -> bytes:
    entries: dict[bytes, object] = {b"fine_labels": [1, 2], b"data": PIXELS["test"]}
    return dictionary(entries | {key.encode(): value for key, value in changes.items()})


def test_the_smallest_whole_file_is_read() -> None:
    assert parse_pickles([FILES[0]], [pickled()])[1].tolist() == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        CONTENTS["train"][:1000],
        b"",
        pickle.dumps([1]),
        pickled(fine_labels=[1]),
        pickled(fine_labels=[1, 100]),
        pickled(data=[1, 2]),
        pickled(data=PIXELS["test"][:, :100].copy()),
        pickled(data=PIXELS["test"].astype(np.int64)),
        pickled().replace(b"cnumpy\nndarray", b"cposix\nsystem"),
    ],
)
def test_a_damaged_file_is_named(content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"^train"):
        parse_pickles([FILES[0]], [content])


def test_the_published_checksums_are_those_of_the_two_pickles() -> None:
    assert [file.name for file in (*CIFAR100.train_files, *CIFAR100.test_files)] == ["train", "test"]
    assert CIFAR100.classes == 100
