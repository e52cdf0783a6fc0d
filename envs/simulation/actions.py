"""Continuous actions: which are useful, and which one an environment gets."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from plasticity.envs.experience import LARGEST_BOUND
from plasticity.envs.simulation.failure import one_line

_WHOLE: Final = "biu"

Array = npt.NDArray[Any]


def action_range(space: spaces.Box) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns the smallest and the largest useful value of each action dimension.

    They are the bounds of the Box; of whole numbers half a unit beyond them, so that each is the nearest one to a part of the
    range of the same length, the two at the ends included.
    """
    margin = 0.5 if space.dtype.kind in _WHOLE else 0.0
    return space.low.astype(np.float64) - margin, space.high.astype(np.float64) + margin


def nearest_actions(space: spaces.Box, actions: Array) -> Array:
    """Returns new actions, (N, *shape) in the space's dtype: each clipped to the Box, and of whole numbers the nearest one."""
    if space.dtype.kind not in _WHOLE:
        clipped: Array = np.clip(actions.astype(space.dtype, copy=False), space.low, space.high)
        return clipped
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype.itemsize == 8:  # the largest whole numbers round up to one that the type does not hold
        high = np.minimum(high, np.nextafter(float(np.iinfo(str(space.dtype)).max), 0.0))
    return np.clip(np.rint(actions.astype(np.float64)), low, high).astype(space.dtype)


def require_bounds(space: spaces.Box) -> None:
    """Raises ValueError, naming the bounds, unless actions are a vector whose bounds an agent can fill."""
    if not np.prod(space.shape):
        raise ValueError(f"continuous actions must be a vector of at least one number, got {one_line(space)}")
    low, high = action_range(space)
    if len(space.shape) != 1 or not (np.abs(np.stack([low, high])) <= LARGEST_BOUND + 1).all():
        raise ValueError(
            f"continuous actions must be a vector with finite bounds, of at most {LARGEST_BOUND:g} in magnitude, "
            f"got {one_line(space)}"
        )
