"""Arrays and matrices of a run as NumPy files: ``arrays/<name>/step_<9 digits>.npz``."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from plasticity.metrics.log_values import Array, Matrix, Rich

ARRAYS: Final = "arrays"  # folder in the run folder
_STEP: Final = re.compile(r"step_(\d{9,})\.npz")


class ArrayWriter:
    """Writes each array and matrix into a file of its own, entries in raw order.

    A file holds ``values``, shape (rows,) or (rows, columns); ``rows`` and ``columns``, their labels as text, empty where they
    have none; and of a matrix ``order``, in which its picture shows rows and columns, empty for the raw order. It appears in one
    rename, complete: a kill leaves the file of that step or none.

    Args:
        folder: Usually ``<run folder>/arrays``; it is made with the first file.
        resume_step: The step a resumed run continues from: files of later steps, and what a kill left half written, are deleted.
            ``None`` starts a new run.

    Raises:
        ValueError: A new run finds files of another one.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        self._folder = folder
        if resume_step is None and any(folder.rglob("step_*.npz")):
            raise ValueError(f"{folder} holds another run's arrays: resume that run or choose another folder")
        if resume_step is not None:
            for path in list(folder.rglob("step_*.npz*")):
                found = _STEP.fullmatch(path.name)
                if path.name.endswith(".tmp") or (found and int(found[1]) > resume_step):
                    path.unlink()

    def write(self, step: int, scalars: Mapping[str, float], rich: Mapping[str, Rich]) -> None:
        """Writes one file for each array and matrix."""
        for name, value in rich.items():
            if isinstance(value, Array):
                self._save(step, name, values=_numbers(value.values), rows=_text(value.rows), columns=_text(value.columns))
            elif isinstance(value, Matrix):
                labels, order = _text(value.names), np.array(value.order, dtype=np.int64)
                self._save(step, name, values=_numbers(value.values), rows=labels, columns=labels, order=order)

    def flush(self) -> None:
        """Has nothing to do: files are complete when they appear."""

    def close(self) -> None:
        """Has nothing to do: no file stays open."""

    def _save(self, step: int, name: str, **arrays: np.ndarray) -> None:
        folder = self._folder / file_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step_{step:09d}.npz"
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)


def file_name(name: str) -> str:
    """Returns a folder for the files of a name: its parts, with ``-`` for what a file system may refuse."""
    parts = [re.sub(r"[^A-Za-z0-9_.=+-]", "-", part) for part in name.split("/")]
    return "/".join(part if part.strip(".") else "-" for part in parts)


def _numbers(values: torch.Tensor) -> np.ndarray:
    values = values.detach().cpu()
    return np.asarray((values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy())


def _text(labels: Sequence[str]) -> np.ndarray:
    return np.array([str(label) for label in labels], dtype=np.str_)
