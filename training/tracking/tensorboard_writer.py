"""Scalars, histograms, images, texts and hyper-parameters as TensorBoard events.

TensorBoard is imported when the first writer is made, because most commands that import this module write nothing.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from plasticity.metrics.log_values import Array, Heatmap, Histogram, Matrix, Rich, Series
from plasticity.training.tracking.dashboard import Layout, plasticity_layout
from plasticity.training.tracking.figures import draw_heatmap, draw_matrix, draw_series

_BINS = 30
_FLUSH_SECONDS = 10  # how old the page may be while a run is in progress


class TensorBoardWriter:
    """Writes into one event folder, with the **Plasticity** dashboard among its custom scalars.

    Args:
        folder: The event folder.
        resume_step: The step a resumed run continues from: TensorBoard hides what was logged at later steps before, so no
            point appears twice. ``None`` starts a new run.
        names: Scalars that a resumed run has logged before, so that the dashboard keeps their charts.
    """

    def __init__(self, folder: Path, resume_step: int | None = None, names: Collection[str] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=_FLUSH_SECONDS)
        self._names: set[str] = set()
        self._layout: Layout = {}
        self._undrawn: dict[str, tuple[int, Heatmap | Series]] = {}
        self._excepthook, threading.excepthook = threading.excepthook, self._leave_to_main_thread
        self._update_dashboard(resume_step or 0, names)

    def write(self, step: int, scalars: Mapping[str, float], rich: Mapping[str, Rich]) -> None:
        """Writes one step's values: all scalars in one event, a histogram per sample, an image per series and matrix; no arrays.

        A heatmap, which grows by a column each time, and a series that grows by a point are drawn when their columns or points
        have doubled in number and at each ``flush``.
        """
        if scalars:
            from tensorboard.compat.proto.summary_pb2 import Summary

            points = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
            self._writer._get_file_writer().add_summary(Summary(value=points), step)
            if not self._names.issuperset(scalars):
                self._update_dashboard(step, scalars)
        for name, value in rich.items():
            if isinstance(value, Histogram):
                self._histogram(step, name, value)
            elif isinstance(value, Matrix):
                self._image(step, name, draw_matrix(value))
            elif isinstance(value, Array):
                continue
            elif isinstance(value, Heatmap) or value.grows:
                self._undrawn[name] = (step, value)
                if len(value.steps if isinstance(value, Heatmap) else value.x).bit_count() == 1:
                    self._draw(name)
            else:
                self._image(step, name, draw_series(value))

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Adds a text, shown under the Text tab and rendered as Markdown."""
        self._writer.add_text(tag, markdown, step)

    def hparams(self, flat_config: Mapping[str, str | float | int | bool], metrics: Sequence[str]) -> None:
        """Adds this run to the HParams tab, inside this event folder.

        Args:
            flat_config: Settings by dotted name, e.g. ``{"optimizer.lr": 1e-3}``.
            metrics: Names of scalars shown as columns; the tab shows the last value written under each.
        """
        from torch.utils.tensorboard.summary import hparams as hparams_summaries

        # The tab prints a truth value stored as a number as 1 or 0, and torch stores it so.
        settings = {n: str(v).lower() if isinstance(v, bool) else v for n, v in flat_config.items()}
        for summary in hparams_summaries(settings, dict.fromkeys(metrics, 0.0)):
            self._writer._get_file_writer().add_summary(summary)

    def flush(self) -> None:
        """Returns once everything written so far is in the event file, heatmaps and growing series up to now among it."""
        for name in list(self._undrawn):
            self._draw(name)
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file."""
        try:
            self._writer.close()
        finally:
            threading.excepthook = self._excepthook

    def _update_dashboard(self, step: int, names: Collection[str]) -> None:
        """Writes the layout again when a new name fills a chart: TensorBoard would show the unfilled ones as blank frames."""
        self._names |= set(names)
        layout = plasticity_layout(self._names)
        if layout != self._layout:
            from torch.utils.tensorboard.summary import custom_scalars

            self._layout = layout
            self._writer._get_file_writer().add_summary(custom_scalars(layout), step)

    def _leave_to_main_thread(self, error: threading.ExceptHookArgs) -> None:
        """Prints no traceback of an OSError: what stops the thread that writes events is raised again by the next write."""
        if not isinstance(error.exc_value, OSError):
            self._excepthook(error)

    def _draw(self, name: str) -> None:
        step, value = self._undrawn.pop(name)
        self._image(step, name, draw_heatmap(value) if isinstance(value, Heatmap) else draw_series(value))

    def _image(self, step: int, name: str, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def _histogram(self, step: int, name: str, histogram: Histogram) -> None:
        values = histogram.values.detach().to("cpu", torch.float64).numpy()
        values = values[np.isfinite(values)]
        if values.size:
            self._writer.add_histogram(name, values, step, bins=histogram_edges(values))


def histogram_edges(values: np.ndarray) -> np.ndarray:
    """Returns 31 bin edges: over [0, 1] for shares and rates, so that steps compare; otherwise over the values' range.

    Args:
        values: Finite numbers, at least one.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)
