"""Times until something happens that did not happen in all runs: the estimate of Kaplan and Meier 1958."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Survival(NamedTuple):
    """A step of the curve.

    Attributes:
        time: At which it falls.
        share: Estimated share of runs for which it lasts longer than that, in [0, 1].
    """

    time: float
    share: float


def kaplan_meier(times: ArrayLike, happened: ArrayLike) -> list[Survival]:
    """Returns the product-limit estimate: at each time with events the share falls by the events over those still observed.

    Args:
        times: When it happened, or until when the run was observed.
        happened: Whether it happened. Of equal times those with an event come first.

    Raises:
        ValueError: If they are not equally many.
    """
    watched, events = np.asarray(times, dtype=float).ravel(), np.asarray(happened, dtype=bool).ravel()
    if len(watched) != len(events):
        raise ValueError(f"{len(watched)} times and {len(events)} events do not belong together")
    found, share = [], 1.0
    for time in np.unique(watched[events]):
        share *= 1 - float(np.sum(events & (watched == time))) / float(np.sum(watched >= time))
        found.append(Survival(float(time), share))
    return found


def median_time(times: ArrayLike, happened: ArrayLike) -> float:
    """Returns the first time at which the estimated share is at most one half; NaN if it never is."""
    reached = (step.time for step in kaplan_meier(times, happened) if step.share <= 0.5 + 1e-12)  # 1e-12: of rounding
    return next(reached, math.nan)
