import struct

import numpy as np
import pytest

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile
from plasticity.envs.datasets.fashion_mnist import FASHION_MNIST
from plasticity.envs.datasets.idx import parse_idx, parse_idx_pair
from plasticity.envs.datasets.mnist import MNIST

IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 3) + bytes(range(12))
LABELS = bytes([0, 0, 8, 1]) + struct.pack(">I", 2) + bytes([7, 1])
FILES = (RawFile("images", ""), RawFile("labels", ""))


def test_values_are_read_row_by_row_after_a_big_endian_header() -> None:
    images, labels = parse_idx_pair(FILES, [IMAGES, LABELS])
    np.testing.assert_array_equal(images, np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3))
    assert labels.tolist() == [7, 1]


def test_four_axes_are_read() -> None:
    content = bytes([0, 0, 8, 4]) + struct.pack(">4I", 1, 2, 1, 2) + bytes([9, 8, 7, 6])
    assert parse_idx("colour", content).tolist() == [[[[9, 8]], [[7, 6]]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES[:-1], "images is damaged: expected 28 bytes .* found 27"),
        (IMAGES + b"\0", "images is damaged: expected 28 bytes .* found 29"),
        (IMAGES[:9], "images is damaged: expected a header of 16 bytes, found 9"),
        (b"\x89PNG....", "images is not IDX of unsigned bytes: .* found 89504e"),
        (b"", "images is not IDX"),
        (bytes([0, 0, 13]) + IMAGES[3:], "found 00000d"),
    ],
)
def test_a_damaged_file_is_named_with_what_was_expected(content: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        parse_idx("images", content)


def test_swapped_files_are_refused() -> None:
    with pytest.raises(DatasetError, match="expected 3 axes and 1, found 1, 3"):
        parse_idx_pair(FILES, [LABELS, IMAGES])


@pytest.mark.parametrize("image_set", [MNIST, FASHION_MNIST])
def test_published_sets_pair_images_with_labels_of_the_same_split(image_set) -> None:  # type: ignore[no-untyped-def]
    assert [file.name for file in image_set.train_files] == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    assert [file.name for file in image_set.test_files] == ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    assert len({file.md5 for file in (*image_set.train_files, *image_set.test_files)}) == 4
