import hashlib
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from plasticity.envs.datasets.cifar10 import (
    BATCHES,
    CIFAR10,
    convert_pictures,
    convert_python_version,
    parse_records,
    records_of_pickle,
    to_records,
)
from plasticity.envs.datasets.dataset_files import DatasetError, RawFile
from plasticity.envs.datasets.dataset_sources import archive_source, unpacked_folder
from plasticity.envs.datasets.image_set import ImageSet, load_image_set

GENERATOR = np.random.default_rng(0)
PIXELS = {name: GENERATOR.integers(0, 256, (2, 3072), dtype=np.uint8) for name in BATCHES}
LABELS = {name: [index, 9 - index] for index, name in enumerate(BATCHES)}
RECORDS = {
    f"{name}.bin": b"".join(bytes([label]) + row.tobytes() for label, row in zip(LABELS[name], PIXELS[name], strict=True))
    for name in BATCHES
}
FILES = tuple(RawFile(name, hashlib.md5(content).hexdigest()) for name, content in RECORDS.items())


def python2_pickle(pixels: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """The opcodes with which Python 2 and its NumPy wrote {"data": array, "labels": list}: byte strings, old module names."""
    rows, columns = pixels.shape
    raw = pixels.tobytes()
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty_array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
    array = empty_array + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


PICKLES = {name: python2_pickle(PIXELS[name], LABELS[name]) for name in BATCHES}


def pictures() -> dict[str, bytes]:
    members = {}
    for name in BATCHES:
        buffer = io.BytesIO()
        Image.fromarray(PIXELS[name].reshape(2, 3, 1024).transpose(0, 2, 1).copy()).save(buffer, "png")
        members[f"{name}.png"] = buffer.getvalue()
    train = [label for name in BATCHES[:5] for label in LABELS[name]]
    return members | {
        "train_lables.json": json.dumps(train).encode(),
        "test_lables.json": json.dumps(LABELS["test_batch"]).encode(),
    }


def test_records_are_a_label_and_three_planes() -> None:
    content = bytes([3]) + bytes([10] * 1024) + bytes([20] * 1024) + bytes([30] * 1023 + [31])
    images, labels = parse_records([RawFile("batch", "")], [content])
    assert images.shape == (1, 3, 32, 32)
    assert labels.tolist() == [3]
    assert images[0, :, 31, 31].tolist() == [10, 20, 31]
    assert images[0, :, 0, 0].tolist() == [10, 20, 30]


def test_an_incomplete_record_is_refused() -> None:
    with pytest.raises(DatasetError, match="batch is damaged: 3072 bytes are not a multiple of 3073"):
        parse_records([RawFile("batch", "")], [bytes(3072)])


def test_python_and_picture_versions_give_the_binary_version() -> None:
    assert convert_python_version(PICKLES) == RECORDS
    assert convert_pictures(pictures()) == RECORDS


def test_the_official_tar_and_unpacked_folders_are_read_from_the_data_folder(tmp_path: Path) -> None:
    members = [f"cifar-10-batches-py/{name}" for name in BATCHES]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            content = PICKLES[Path(member).name]
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    digest = hashlib.md5(buffer.getvalue()).hexdigest()
    tarball = archive_source("tar", "cifar-10-python.tar.gz", digest, members, bytes, convert_python_version)
    folder_source = unpacked_folder("cifar-10-batches-py", BATCHES, convert_python_version)
    image_set = ImageSet("small", 10, FILES[:5], FILES[5:], (folder_source, tarball), parse_records)

    folder = tmp_path / "tarred" / "small"
    folder.mkdir(parents=True)
    (folder / "cifar-10-python.tar.gz").write_bytes(buffer.getvalue())
    images, labels = load_image_set(image_set, "train", tmp_path / "tarred")
    np.testing.assert_array_equal(images.reshape(10, 3072), np.concatenate([PIXELS[name] for name in BATCHES[:5]]))
    assert labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]

    unpacked = tmp_path / "unpacked" / "small" / "cifar-10-batches-py"
    unpacked.mkdir(parents=True)
    for name, content in PICKLES.items():
        (unpacked / name).write_bytes(content)
    images, labels = load_image_set(image_set, "test", tmp_path / "unpacked")
    np.testing.assert_array_equal(images.reshape(2, 3072), PIXELS["test_batch"])
    assert labels.tolist() == [5, 4]


def test_a_folder_that_lacks_a_batch_names_it(tmp_path: Path) -> None:
    source = unpacked_folder("cifar-10-batches-py", BATCHES, convert_python_version)
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in BATCHES[1:]:
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(PICKLES[name])
    with pytest.raises(DatasetError, match=r"not there: data_batch_1$"):
        source.fetch(tmp_path)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, ("never",)


def test_a_pickle_may_hold_nothing_but_arrays_and_containers(tmp_path: Path) -> None:
    for attack in (Malicious(), print, np.random.default_rng):
        with pytest.raises(DatasetError, match=r"batch is damaged: .*is not allowed in a data file"):
            records_of_pickle("batch", pickle.dumps({b"data": attack, b"labels": []}, protocol=2))


@pytest.mark.parametrize(
    "content",
    [
        PICKLES["test_batch"][:2000],
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": 1}),
        python2_pickle(PIXELS["test_batch"][:, :3000].copy(), [1, 2]),
        python2_pickle(PIXELS["test_batch"], [1, 2, 3]),
        python2_pickle(PIXELS["test_batch"], [1, 10]),
        b"\x8e" + PICKLES["test_batch"][1:],  # a changed first byte, of which the unpickler says MemoryError
    ],
)
def test_a_damaged_batch_is_named(content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"^batch"):
        records_of_pickle("batch", content)


def test_a_damaged_picture_is_named() -> None:
    members = pictures()
    members["data_batch_3.png"] = members["data_batch_3.png"][:500]
    with pytest.raises(DatasetError, match=r"data_batch_3\.png is damaged"):
        convert_pictures(members)


def test_published_files_are_five_training_batches_and_one_test_batch() -> None:
    assert [file.name for file in CIFAR10.train_files] == [f"data_batch_{number}.bin" for number in range(1, 6)]
    assert [file.name for file in CIFAR10.test_files] == ["test_batch.bin"]


def test_a_number_where_pixels_should_be_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"expected uint8 pixels \(N, 3072\), found uint8 \(\)"):
        to_records("batch", np.array(7, np.uint8), [0])
