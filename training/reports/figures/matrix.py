"""Matrices in raw order, of several runs next to each other: ``arrays/<name>/step_<9 digits>.npz``."""

import re
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Drawing, Sheet, joined, shown
from plasticity.training.reports.specification import Figure

_ARRAYS = "arrays"
_MOST = 12  # panels


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws the matrix of the first seed of each condition and method, on one colour scale or each on its own, white at 0.

    Raises:
        ValueError: No run has such a matrix.
    """
    chosen = []
    for condition in shown("condition", figure.conditions, comparison.conditions):
        for method in shown("method", figure.methods, comparison.methods):
            runs = comparison.cell(condition, method).sort_values("seed")
            for run in runs.index:
                path = matrix_file(Path(runs.loc[run, "folder"]), figure.value, figure.at, runs.loc[run, "steps"])
                if path is not None:
                    chosen.append((condition, method, runs.loc[run, "seed"], path))
                    break
    chosen = chosen[:_MOST]
    if not chosen:
        raise ValueError(f"no run that counts has a matrix {figure.value or 'of any name'} in arrays/")
    matrices = [read_matrix(path) for *_, path in chosen]
    bounds = [float(np.nanmax(np.abs(matrix))) or 1.0 for matrix in matrices]
    bounds = bounds if figure.colours == "own" else [max(bounds)] * len(bounds)
    one = len({place[0] for place in chosen}) == 1
    titles = [f"{method if one else f'{condition}: {method}'}, seed {seed}" for condition, method, seed, _ in chosen]
    sheet = Sheet(titles, columns=3, size=(2.3, 2.3), right=0.7)
    alts, rows = [], []
    for axes, title, matrix, largest, place in zip(sheet.axes, titles, matrices, bounds, chosen, strict=True):
        condition, method, seed, path = place
        image = axes.imshow(matrix, vmin=-largest, vmax=largest, cmap="RdBu_r", interpolation="nearest", aspect="auto")
        sheet.figure.colorbar(image, cax=axes.inset_axes((1.04, 0, 0.05, 1))).ax.tick_params(labelsize=7)
        axes.set_xlabel(f"step {step_of(path):,}")
        mean = float(np.nanmean(matrix))
        groups = {"condition": condition, "method": method, "matrix": name_of(path), "step": str(step_of(path))}
        id = f"matrix/{figure.id}/{condition}/{method}"
        text = numbers.add(id, groups, 1, 1, mean, None, "mean of the matrix of one run", [] if pd.isna(seed) else [int(seed)])
        alts.append(
            f"Matrix {name_of(path)} of {title} at step {step_of(path)}: {matrix.shape[0]} x {matrix.shape[1]}, mean {text}."
        )
        rows.append((condition, method, seed, step_of(path), name_of(path), *matrix.shape, mean))
    scale = "one colour scale" if figure.colours == "shared" else "each on its own colour scale"
    caption = f"{name_of(chosen[0][-1])}, rows and columns in the order of the examples; one run of each method, {scale}."
    data = pd.DataFrame(rows, columns=["condition", "method", "seed", "step", "name", "rows", "columns", "mean"])
    return Drawing(sheet.figure, sheet.panels(alts), data, caption)


def matrix_names(folder: Path) -> list[str]:
    """Returns the names of the matrices of a run; arrays with one axis are not matrices."""
    places = {path.parent: path for path in (folder / _ARRAYS).rglob("step_*.npz")}
    return sorted(name_of(path) for path in places.values() if _may_be_matrix(path))


def name_of(path: Path) -> str:
    """Returns the name of the matrix in a file."""
    parts = path.parent.parts
    return "/".join(parts[len(parts) - parts[::-1].index(_ARRAYS) :]) if _ARRAYS in parts else path.parent.name


def _may_be_matrix(path: Path) -> bool:
    """Returns whether a file has a matrix, or is damaged, which is reported when it is read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return any(file[name].ndim == 2 for name in file.files)
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return True


def matrix_file(folder: Path, name: str, at: float | None, steps: object) -> Path | None:
    """Returns the last file up to a share of the run, the last of all if ``at`` is None; None if there is none.

    Args:
        folder: Of the run.
        name: Of the matrix, with or without ``plasticity/`` and its part; without a part it is the first one found;
            empty for the first matrix.
        at: Share of the run.
        steps: Planned steps.
    """
    names = [each for each in matrix_names(folder) if name == "" or f"/{name}/" in f"/{each}/"]
    if not names:
        return None
    files = sorted((folder / _ARRAYS / names[0]).glob("step_*.npz"), key=step_of)
    if at is not None and not pd.isna(steps):
        files = [path for path in files if step_of(path) <= at * float(steps)]  # type: ignore[arg-type]
    return files[-1] if files else None


def read_matrix(path: Path) -> np.ndarray:
    """Returns the matrix of a file: the array named ``values``, otherwise the first of two axes.

    Raises:
        ValueError: The file is damaged or holds no matrix.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    for matrix in [arrays["values"]] if "values" in arrays else list(arrays.values()):
        if matrix.ndim == 2 and np.issubdtype(matrix.dtype, np.number):
            values: np.ndarray = matrix.astype(float)
            return values
    raise ValueError(f"{path} holds no matrix; it holds {joined(list(arrays))}")


def step_of(path: Path) -> int:
    """Returns the step in a file's name."""
    found = re.search(r"step_(\d+)", path.name)
    return int(found[1]) if found else -1
