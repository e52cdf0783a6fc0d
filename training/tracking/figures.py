"""Images for TensorBoard: curves, heatmaps over a run, matrices."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from plasticity.metrics.log_values import Heatmap, Matrix, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TICKS: Final = 6
_MOST_MARKED: Final = 50  # points of a curve that are marked: a single one would be invisible without
_MOST_SWITCHES: Final = 60  # marked by a line each; more lines would hide what they mark


def draw_series(series: Series) -> np.ndarray:
    """Returns the curves as an image, shape (height, width, 3), uint8."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        for name, heights in series.ys.items():
            axes.plot(series.x.tolist(), heights.tolist(), label=name, marker="." if len(heights) <= _MOST_MARKED else None)
        axes.set(xlabel=series.x_label, ylabel=series.y_label)
        axes.grid(alpha=0.3)
        if series.ys:
            axes.legend()

    return _image(draw)


def draw_heatmap(heatmap: Heatmap) -> np.ndarray:
    """Returns the columns side by side, the lowest bin at the bottom, as an image, shape (height, width, 3), uint8.

    The first and the last bin, which hold one exact value each, are set apart by a line; another line marks a new task.
    """
    columns, bins = heatmap.shares.shape

    def draw(figure: "Figure", axes: "Axes") -> None:
        shown = axes.imshow(heatmap.shares.T.tolist(), origin="lower", aspect="auto", vmin=0, interpolation="nearest")
        figure.colorbar(shown, ax=axes, label="share of units")
        chosen = sorted({round(x) for x in np.linspace(0, columns - 1, min(columns, _TICKS))})
        axes.set_xticks(chosen, [str(int(heatmap.steps[column])) for column in chosen])
        rows = sorted({0, *range(1, bins - 1, 5), bins - 1})
        axes.set_yticks(rows, [heatmap.bins[row] for row in rows])
        axes.set(xlabel="step", ylabel=heatmap.label)
        for border in (0.5, bins - 1.5):
            axes.axhline(border, color="white", linewidth=1)
        switches = (heatmap.tasks[1:] != heatmap.tasks[:-1]).nonzero().flatten().tolist()
        for column in switches if len(switches) <= _MOST_SWITCHES else []:
            axes.axvline(column + 0.5, color="white", linewidth=0.6, linestyle=":")

    return _image(draw)


def draw_matrix(matrix: Matrix) -> np.ndarray:
    """Returns the matrix in its order as an image, the first row on top, shape (height, width, 3), uint8."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        order = list(matrix.order) or list(range(len(matrix.values)))
        shown = axes.imshow(
            matrix.values[order][:, order].tolist(), vmin=matrix.low, vmax=matrix.high, cmap="RdBu_r", interpolation="nearest"
        )
        figure.colorbar(shown, ax=axes)
        axes.set(xlabel=matrix.label, ylabel=matrix.label)

    return _image(draw)


def _image(draw: "Callable[[Figure, Axes], None]") -> np.ndarray:
    # Imported here: it takes half a second, and most writes draw nothing. No pyplot: it would hold figures and pick a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure, figure.add_subplot())
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
