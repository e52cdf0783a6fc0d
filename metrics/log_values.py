"""Values of a log line that are more than one number: a histogram, a set of curves, and two kinds of images."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from torch import Tensor


class Histogram(NamedTuple):
    """A sample of numbers whose distribution is to be shown.

    Attributes:
        values: The sample, shape (n,), floating point; e.g. one firing rate in [0, 1] per unit.
    """

    values: Tensor


class Series(NamedTuple):
    """Curves over a common horizontal axis, drawn as one figure.

    Attributes:
        x: Horizontal positions, shape (n,).
        ys: One curve per legend entry, each of shape (n,).
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis.
        grows: Whether it is the one written before with a point more at its end. Files then get the newest point alone; an image
            shows them all.
    """

    x: Tensor
    ys: dict[str, Tensor]
    x_label: str
    y_label: str
    grows: bool = False


class Heatmap(NamedTuple):
    """Distributions over the course of a run, one column for each measurement, the newest last.

    Files get the newest column, as the next row of a table; an image shows them all.

    Attributes:
        steps: When each column was measured, shape (columns,), int64.
        tasks: The task of each, shape (columns,), int64.
        counts: Units in each, shape (columns,), int64.
        shares: Share of the units in each bin, shape (columns, bins), each row summing to 1.
        bins: Names of the bins, from the lowest.
        label: What the bins are bins of.
    """

    steps: Tensor
    tasks: Tensor
    counts: Tensor
    shares: Tensor
    bins: list[str]
    label: str


class Matrix(NamedTuple):
    """A matrix of numbers, drawn as an image.

    Attributes:
        values: Shape (rows, columns).
        low: Value of the lowest colour.
        high: Value of the highest.
        label: What rows and columns are.
    """

    values: Tensor
    low: float
    high: float
    label: str


Rich = Histogram | Series | Heatmap | Matrix
RICH: Final[Mapping[str, type[Rich]]] = {kind.__name__: kind for kind in (Histogram, Series, Heatmap, Matrix)}
Value = Tensor | float | Rich
Measurements = dict[str, Value]  # of an observer at one step, by name
