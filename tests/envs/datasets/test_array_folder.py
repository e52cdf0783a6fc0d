from pathlib import Path

import numpy as np
import pytest

from plasticity.envs.datasets.array_folder import ArrayFolder, as_bytes
from plasticity.envs.datasets.dataset_files import DatasetError


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DatasetError, match=r"holds no <class>\.npy files"):
            ArrayFolder(folder)


def test_floats_that_stand_for_bytes_are_bytes() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    for form in (pixels, pixels.astype(np.float32), pixels.astype(np.float32) / 255, pixels.astype(np.float64) / 255):
        np.testing.assert_array_equal(as_bytes("x", form), pixels)
    for wrong in ([0.5, 100.5], [-1.0, 3.0], [256.0, 0.0], [0.0, np.nan], [0.123, 0.5]):
        with pytest.raises(DatasetError, match="x: pixels must be whole numbers from 0 to 255"):
            as_bytes("x", np.array(wrong))


def test_a_damaged_or_other_file_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "0.npy"
    np.save(whole, np.zeros((4, 3, 4, 4), np.uint8))
    content = whole.read_bytes()
    for name, bad, message in (
        ("cut", content[:-1], "1.npy is damaged"),
        ("header", content[:20], "1.npy is damaged"),
        ("empty", b"", "1.npy is damaged"),
        ("text", b"not an array", "1.npy is damaged"),
    ):
        (tmp_path / "1.npy").write_bytes(bad)
        with pytest.raises(DatasetError, match=message):
            ArrayFolder(tmp_path)
        assert name
    np.save(tmp_path / "1.npy", np.zeros((4, 3, 4), np.uint8))
    with pytest.raises(DatasetError, match=r"1\.npy: expected an array \(n, C, H, W\) of numbers, found uint8"):
        ArrayFolder(tmp_path)
    np.save(tmp_path / "1.npy", np.zeros((4, 3, 5, 5), np.uint8))
    with pytest.raises(DatasetError, match=r"1\.npy holds images \(3, 5, 5\), and 0\.npy \(3, 4, 4\)"):
        ArrayFolder(tmp_path)
    np.save(tmp_path / "1.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"1\.npy is damaged"):
        ArrayFolder(tmp_path)
