"""Image data sets by name, as tensors, registered by the ``dataset`` decorator; plugins use the same one.

``digits`` comes with scikit-learn. The others are kept under ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``, verified at every
load and fetched at the first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from plasticity.envs.datasets.dataset_files import data_root
from plasticity.settings.registry import Registry

Split = Literal["train", "test", "all"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image data set in memory.

    Attributes:
        name: what it is called.
        inputs: (N, C, H, W); uint8 from 0 to 255, or float32 in [0, 1].
        targets: (N,) int64 class labels from 0 to ``classes`` - 1.
        classes: number of classes.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    classes: int

    def __post_init__(self) -> None:
        """Raises ValueError if the tensors do not fit together."""
        if self.inputs.ndim != 4 or self.inputs.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"inputs of {self.name!r} must be (N, C, H, W) uint8 or float32, got {tuple(self.inputs.shape)} "
                f"{self.inputs.dtype}"
            )
        if self.targets.shape != self.inputs.shape[:1] or self.targets.dtype != torch.int64:
            raise ValueError(
                f"targets of {self.name!r} must be ({len(self.inputs)},) int64, got {tuple(self.targets.shape)} "
                f"{self.targets.dtype}"
            )
        if len(self.targets) == 0:
            raise ValueError(f"data set {self.name!r} is empty")
        low, high = int(self.targets.min()), int(self.targets.max())
        if low < 0 or high >= self.classes:
            raise ValueError(f"targets of {self.name!r} must lie in 0..{self.classes - 1}, got {low}..{high}")


Loader = Callable[[Split, Path], Dataset]


class DatasetEntry(NamedTuple):
    """A data set as it is registered.

    Attributes:
        load: Loads a split from the folder that holds one folder per data set.
        official_test: Whether its split into training and test set is the published one.
    """

    load: Loader
    official_test: bool


DATASETS: Final = Registry[DatasetEntry]("dataset", "plasticity.envs.datasets")


def dataset(name: str, official_test: bool = True) -> Callable[[Loader], Loader]:
    """Registers a data set under the name by which it is chosen, ``env.dataset=<name>``.

    It decorates a function of a split (``train``, ``test``, or ``all``: the training set, then the test set) and of the folder
    that holds one folder per data set; the function returns a ``Dataset``, and its docstring describes that in one line.

    Args:
        name: Lower-case words joined by underscores.
        official_test: Whether the split is the published one. Then a stream of the data set trains on ``train`` and tests on
            ``test``, unless its settings choose otherwise; without it, all examples are trained on.

    Raises:
        ValueError: The name is taken by another function, or is not of that form.
    """

    def add(load: Loader) -> Loader:
        DATASETS.add(name, DatasetEntry(load, official_test), load)
        return load

    return add


def names_of_datasets() -> tuple[str, ...]:
    """Returns the names that ``env.dataset`` may have."""
    return tuple(DATASETS)


def load_dataset(name: str, split: Split | None = None, root: Path | None = None) -> Dataset:
    """Loads a data set.

    Args:
        name: A key of ``DATASETS``.
        split: ``train``, ``test``, or ``all`` (the training set, then the test set). None is ``train`` where there is an
            official test set and ``all`` where there is none.
        root: The folder that holds one folder per data set; None is ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.

    Raises:
        ValueError: An unknown name or split.
        DatasetError: (a ValueError) The data are missing, damaged, or cannot be stored.
    """
    entry = DATASETS.named(name)
    if split is not None and split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    return entry.load(split or ("train" if entry.official_test else "all"), data_root() if root is None else root.expanduser())
