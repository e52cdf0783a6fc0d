"""The digits that come with scikit-learn, from the UCI repository (Alpaydin and Kaynak 1998)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from plasticity.envs.datasets.dataset_files import DatasetError
from plasticity.envs.datasets.datasets import Dataset, Split, dataset

_FILE: Final = "datasets/data/digits.csv.gz"  # 1,797 rows: 64 values from 0 to 16, and the class
TRAIN_EXAMPLES: Final = 1500


@dataset("digits", official_test=False)
def load_digits(split: Split, root: Path) -> Dataset:
    """1,797 float32 images (1, 8, 8) in [0, 1] of ten classes; ``train`` is the first 1,500, ``test`` the last 297."""
    inputs, targets = read_digits()
    rows = {"all": slice(None), "train": slice(TRAIN_EXAMPLES), "test": slice(TRAIN_EXAMPLES, None)}[split]
    return Dataset("digits", inputs[rows], targets[rows], 10)


def read_digits() -> tuple[Tensor, Tensor]:
    """Returns the images (1797, 1, 8, 8) and labels (1797,).

    Raises:
        DatasetError: scikit-learn is not installed.
    """
    place = find_spec("sklearn")
    if place is None or not place.submodule_search_locations:
        raise DatasetError("env.dataset=digits comes with scikit-learn, which is not installed")
    # Read from the package's folder: importing scikit-learn takes longer than the default run's first thousand steps.
    table = np.loadtxt(Path(place.submodule_search_locations[0]) / _FILE, delimiter=",", encoding="utf-8")
    inputs = torch.from_numpy(table[:, :-1]).to(torch.float32).div(16).reshape(-1, 1, 8, 8)
    return inputs, torch.from_numpy(table[:, -1]).to(torch.int64)
