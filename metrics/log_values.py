"""Values of a log line that are more than one number: a histogram and a set of curves."""

from typing import NamedTuple

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
    """

    x: Tensor
    ys: dict[str, Tensor]
    x_label: str
    y_label: str
