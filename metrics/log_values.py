"""Values of a log line that are more than one number: a histogram, a set of curves, images, arrays."""

from collections.abc import Mapping, Sequence
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
        grows: Whether it is the one written before with a point more at its end. Files then get only the newest point; an image
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
    """A square matrix of numbers, whose rows and columns stand for the same objects; kept in raw order, and drawn as an image.

    Attributes:
        values: Shape (k, k), in raw order.
        low: Value of the lowest colour.
        high: Value of the highest.
        label: What rows and columns are, in the order in which they are drawn.
        names: Of each row and column, in raw order; empty if they have none.
        order: Indices of rows and columns as they are drawn; empty for the raw order.
    """

    values: Tensor
    low: float
    high: float
    label: str
    names: Sequence[str] = ()
    order: Sequence[int] = ()


class Array(NamedTuple):
    """Numbers along one or two axes, kept in a file and not drawn.

    Attributes:
        values: Shape (rows,) or (rows, columns), in raw order.
        rows: Name of each row; empty if they have none.
        columns: Name of each column; empty if they have none, or there is one axis.
    """

    values: Tensor
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()


Rich = Histogram | Series | Heatmap | Matrix | Array
RICH: Final[Mapping[str, type[Rich]]] = {kind.__name__: kind for kind in (Histogram, Series, Heatmap, Matrix, Array)}
Value = Tensor | float | Rich
Measurements = dict[str, Value]  # of an observer at one step, by name
