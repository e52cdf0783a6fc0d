"""The IDX format of MNIST and of the data sets that adopted it.

An IDX file is a big-endian header (two zero bytes, the type 0x08 for uint8, the number of axes, one 32-bit size per
axis) followed by the values in row-major order. See LeCun, Cortes and Burges, "The MNIST database of handwritten
digits".
"""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from plasticity.envs.datasets.dataset_files import DatasetError, RawFile

UNSIGNED_BYTE = 0x08


def parse_idx(name: str, content: bytes) -> npt.NDArray[np.uint8]:
    """Returns the array of an uncompressed IDX file of unsigned bytes.

    Args:
        name: the file's name, for messages.
        content: the whole file.

    Raises:
        DatasetError: it is not such a file, or it is shorter or longer than its header states.
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


def idx_files(md5s: Sequence[str]) -> tuple[RawFile, ...]:
    """Returns the four files, training images and labels and then those of the test set, with these checksums."""
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(RawFile(name, md5) for name, md5 in zip(names, md5s, strict=True))
