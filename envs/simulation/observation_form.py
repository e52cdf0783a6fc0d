"""How observations of single environments are shown to agents: in a dtype and a layout that all networks read."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from plasticity.envs.simulation.failure import EnvironmentFailure, one_line

LAYOUTS: Final = ("auto", "channels_first", "channels_last")
KEPT_DTYPES: Final = tuple(np.dtype(name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float32"))
_MOST_COLOURS: Final = 4

Array = npt.NDArray[Any]


class ObservationForm:
    """The space that is shown instead of an environment's own, and the conversion of observations.

    A number is shown as a vector of one. Types that are not in ``KEPT_DTYPES`` become single precision (``uint16``, ``float64``);
    no value is scaled. Images whose last axis is evidently their channels are shown as (channels, height, width). That is so
    where the last axis is the shortest, and either has at most four entries and the others more, or follows two that are equal.

    Args:
        space: The environment's own.
        layout: ``channels_first`` or ``channels_last`` of three axes, or ``auto`` to decide by the lengths.

    Attributes:
        space: As shown.
        note: What the user should know about it, or nothing.

    Raises:
        ValueError: The space is not a Box of numbers, or has a layout of images and no three axes.
    """

    def __init__(self, space: spaces.Space[Any], layout: str = "auto") -> None:
        if not isinstance(space, spaces.Box):
            raise ValueError(f"observation space must be a Box, got {one_line(space)}")
        if not np.prod(space.shape):
            raise ValueError(f"observation space must hold at least one number, got {one_line(space)}")
        if layout not in LAYOUTS:
            raise ValueError(f"image_layout={layout} is unknown; choose from {', '.join(LAYOUTS)}")
        if layout != "auto" and len(space.shape) != 3:
            raise ValueError(f"image_layout={layout} needs images of three axes, got observations of shape {space.shape}")
        self._given = space.shape
        evident = layout == "auto" and len(space.shape) == 3
        self._moved = layout == "channels_last" or (evident and _channels_are_last(space.shape))
        self.space = self._converted(space)
        self._dtype = self.space.dtype
        self.note = self._note() if evident else ""

    def put(self, row: Array, observation: Any) -> None:
        """Writes an observation into ``row``, an array of the shown shape and dtype, in which nothing else of it is kept.

        Raises:
            EnvironmentFailure: Shape or dtype is not that of the space, and the numbers do not fit.
        """
        given = np.asarray(observation)
        if given.shape != self._given:
            raise EnvironmentFailure(f"the observation has shape {given.shape}; its space has {self._given}")
        if self._moved:
            given = np.moveaxis(given, -1, 0)
        if given.dtype == self._dtype:
            row[...] = given
        else:
            self._convert(row, given)

    def _convert(self, row: Array, given: Array) -> None:
        if given.dtype.kind not in "biuf":
            raise EnvironmentFailure(f"the observation has dtype {given.dtype}; it must be numbers, such as {self._dtype}")
        with np.errstate(all="ignore"):  # an overflow gives a value that is not finite, which is found later
            row[...] = given
        if self._dtype.kind != "f" and not np.array_equal(row, given.reshape(row.shape)):
            raise EnvironmentFailure(
                f"the observation has dtype {given.dtype} and values that {self._dtype}, the dtype of its space, cannot hold"
            )

    def _converted(self, space: spaces.Box) -> spaces.Box:
        if space.dtype in KEPT_DTYPES and space.shape and not self._moved:
            return space
        dtype: Any = space.dtype if space.dtype in KEPT_DTYPES else np.dtype(np.float32)
        bounds = [space.low, space.high]
        if self._moved:
            bounds = [np.moveaxis(bound, -1, 0) for bound in bounds]
        low, high = (np.atleast_1d(_in_dtype(bound, dtype)) for bound in bounds)
        return spaces.Box(low, high, low.shape, dtype)

    def _note(self) -> str:
        height, width, channels = self._given
        if self._moved:
            return (
                f"images {self._given} are taken as (height, width, channels) and shown to the network as (channels, height, "
                f"width), {self.space.shape}; env.image_layout=channels_first leaves them as they are"
            )
        if channels < height and width != channels:
            return (
                f"images {self._given} are taken as (channels, height, width); if they are (height, width, channels) set "
                "env.image_layout=channels_last"
            )
        return ""


def _channels_are_last(shape: tuple[int, ...]) -> bool:
    height, width, channels = shape
    if channels >= min(height, width):
        return False
    return height == width or (channels <= _MOST_COLOURS < min(height, width))


def _in_dtype(bound: Array, dtype: np.dtype[Any]) -> Array:
    """Returns a bound in another dtype: infinite only where it was."""
    if dtype.kind != "f":
        return bound.astype(dtype)
    largest = np.finfo(dtype).max
    numbers = bound.astype(np.float64)
    return np.where(np.isfinite(numbers), np.clip(numbers, -largest, largest), numbers).astype(dtype)
