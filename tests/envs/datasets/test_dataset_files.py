import errno
import gzip
import hashlib
import os
import struct
from pathlib import Path

import pytest

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile, Source, data_root, read_or_fetch, write_atomically
from plasticity.envs.datasets.idx import parse_idx_pair
from plasticity.envs.datasets.image_set import ImageSet, load_image_set


def idx_pair(count: int, offset: int) -> tuple[bytes, bytes]:
    """True IDX files of ``count`` 2x2 images: image i has the value offset + i everywhere, and label i % 10."""
    pixels = b"".join(bytes([offset + index] * 4) for index in range(count))
    images = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 2, 2) + pixels
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", count) + bytes(index % 10 for index in range(count))
    return images, labels


CONTENTS = dict(
    zip(["train-images", "train-labels", "test-images", "test-labels"], idx_pair(3, 10) + idx_pair(2, 50), strict=True)
)
FILES = tuple(RawFile(name, hashlib.md5(content).hexdigest()) for name, content in CONTENTS.items())


def tiny_set(*sources: Source) -> ImageSet:
    return ImageSet("tiny", 10, FILES[:2], FILES[2:], sources, parse_idx_pair)


def working_source(calls: list[Path]) -> Source:
    def fetch(folder: Path) -> dict[str, bytes]:
        calls.append(folder)
        return CONTENTS

    return Source("the mirror", fetch)


def failing(message: str) -> Source:
    def fetch(_: Path) -> dict[str, bytes]:
        raise DatasetError(message)

    return Source("the broken source", fetch)


def put(root: Path, names: list[str]) -> Path:
    folder = root / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(CONTENTS[name])
    return folder


def test_missing_files_are_fetched_once_and_then_read_from_the_folder(tmp_path: Path) -> None:
    calls: list[Path] = []
    image_set = tiny_set(failing("no network"), working_source(calls))
    images, labels = load_image_set(image_set, "train", tmp_path)
    assert images.shape == (3, 1, 2, 2)
    assert images[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert labels.tolist() == [0, 1, 2]
    again, _ = load_image_set(image_set, "test", tmp_path)
    assert again[:, 0, 1, 1].tolist() == [50, 51]
    assert calls == [tmp_path / "tiny"]
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == sorted(CONTENTS)


def test_all_is_the_training_set_followed_by_the_test_set(tmp_path: Path) -> None:
    images, labels = load_image_set(tiny_set(working_source([])), "all", tmp_path)
    assert images[:, 0, 0, 0].tolist() == [10, 11, 12, 50, 51]
    assert labels.tolist() == [0, 1, 2, 0, 1]


def test_files_put_in_the_folder_are_used_plain_or_gzipped_without_any_source(tmp_path: Path) -> None:
    folder = put(tmp_path, ["train-labels"])
    (folder / "train-images.gz").write_bytes(gzip.compress(CONTENTS["train-images"]))
    images, labels = load_image_set(tiny_set(), "train", tmp_path)
    assert images[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert labels.tolist() == [0, 1, 2]


def test_no_source_gives_one_line_that_names_every_way(tmp_path: Path) -> None:
    image_set = tiny_set(failing("npm is not installed"), failing("no download"))
    with pytest.raises(DatasetError) as caught:
        load_image_set(image_set, "train", tmp_path)
    message = str(caught.value)
    for part in (
        "'tiny'",
        "npm is not installed",
        "no download",
        "the broken source",
        "train-images",
        str(tmp_path),
        "PLASTICITY_DATA",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["short", "changed byte", "empty"])
def test_a_damaged_file_is_an_error_and_never_a_smaller_set(tmp_path: Path, damage: str) -> None:
    folder = put(tmp_path, list(CONTENTS))
    content = CONTENTS["train-images"]
    spoiled = {"short": content[:-4], "changed byte": content[:-1] + b"\xff", "empty": b""}[damage]
    (folder / "train-images").write_bytes(spoiled)
    with pytest.raises(DatasetError) as caught:
        load_image_set(tiny_set(working_source([])), "train", tmp_path)
    message = str(caught.value)
    assert str(folder / "train-images") in message
    assert FILES[0].md5 in message
    assert hashlib.md5(spoiled).hexdigest() in message
    assert f"{len(spoiled)} bytes" in message


def test_a_gzip_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    folder = put(tmp_path, ["train-labels"])
    (folder / "train-images.gz").write_bytes(gzip.compress(CONTENTS["train-images"])[:-10])
    with pytest.raises(DatasetError, match=r"train-images\.gz is damaged: expected a complete gzip file"):
        load_image_set(tiny_set(working_source([])), "train", tmp_path)


def test_a_source_with_wrong_content_is_passed_over_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    wrong = Source("the liar", lambda _: CONTENTS | {"test-labels": b"something else"})
    with pytest.raises(DatasetError, match=r"the liar .*test-labels is damaged"):
        load_image_set(tiny_set(wrong), "train", tmp_path)
    assert not (tmp_path / "tiny").exists()
    images, _ = load_image_set(tiny_set(wrong, working_source([])), "train", tmp_path)
    assert len(images) == 3


def test_what_the_user_put_there_comes_first_and_is_named_if_it_is_damaged(tmp_path: Path) -> None:
    def fetch(folder: Path) -> dict[str, bytes]:
        return CONTENTS | {"test-labels": (folder / "tiny.zip").read_bytes()}

    calls: list[Path] = []
    by_hand = Source("by hand", fetch, "tiny.zip", remote=False)
    folder = put(tmp_path, [])
    (folder / "tiny.zip").write_bytes(b"wrong")
    with pytest.raises(DatasetError, match=r"tiny/tiny\.zip cannot be used: test-labels is damaged: expected md5 .* found"):
        load_image_set(tiny_set(working_source(calls), by_hand), "train", tmp_path)
    (folder / "tiny.zip").write_bytes(CONTENTS["test-labels"])
    load_image_set(tiny_set(working_source(calls), by_hand), "train", tmp_path)
    assert calls == []
    with pytest.raises(DatasetError, match=r"tried: nothing\. .* or tiny\.zip in"):
        load_image_set(tiny_set(by_hand), "train", tmp_path / "elsewhere")


def test_images_and_labels_of_different_lengths_are_refused(tmp_path: Path) -> None:
    mixed = ImageSet("tiny", 10, (FILES[0], FILES[3]), FILES[2:], (), parse_idx_pair)
    put(tmp_path, list(CONTENTS))
    with pytest.raises(DatasetError, match="3 images do not match 2 labels"):
        load_image_set(mixed, "train", tmp_path)


def test_a_full_disk_is_one_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match=r"cannot write .*tiny/train-images .*No space left on device"):
        load_image_set(tiny_set(working_source([])), "train", tmp_path)
    assert list((tmp_path / "tiny").iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new content")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_reader_of_the_old_file_never_sees_part_of_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new content")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new content"


def test_only_missing_files_are_written(tmp_path: Path) -> None:
    folder = put(tmp_path, ["train-images"])
    before = (folder / "train-images").stat().st_mtime_ns
    load_image_set(tiny_set(working_source([])), "train", tmp_path)
    assert (folder / "train-images").stat().st_mtime_ns == before
    assert (folder / "test-labels").read_bytes() == CONTENTS["test-labels"]


def test_order_of_contents_follows_the_wanted_files(tmp_path: Path) -> None:
    put(tmp_path, ["train-labels"])
    contents = read_or_fetch("tiny", tmp_path / "tiny", FILES[:2], FILES, [working_source([])])
    assert contents == [CONTENTS["train-images"], CONTENTS["train-labels"]]


def test_data_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASTICITY_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.delenv("PLASTICITY_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root() == tmp_path / ".cache" / "plasticity"
