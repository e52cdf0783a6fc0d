"""The kinds of figures of a report, each in a file of its name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures import (
    curves,
    differences,
    dose,
    final,
    gains,
    heatmap,
    matrix,
    mosaic,
    predictors,
    scatter,
    series,
)
from plasticity.training.reports.figures.drawing import Drawing
from plasticity.training.reports.specification import Figure

KINDS: Final[dict[str, Callable[[Comparison, Figure, Numbers], Drawing]]] = {
    "curves": curves.draw,
    "final": final.draw,
    "differences": differences.draw,
    "dose": dose.draw,
    "heatmap": heatmap.draw,
    "mosaic": mosaic.draw,
    "matrix": matrix.draw,
    "series": series.draw,
    "scatter": scatter.draw,
    "gains": gains.draw,
    "predictors": predictors.draw,
}


def draw(comparison: Comparison, figure: Figure, numbers: Numbers) -> Drawing:
    """Draws a figure of any kind.

    Raises:
        ValueError: There is nothing to draw; the message names what is missing.
    """
    if comparison.branches is not None and figure.conditions:
        figure = replace(figure, conditions=comparison.branches.named(figure.conditions))
    return KINDS[figure.kind](comparison, figure, numbers)
