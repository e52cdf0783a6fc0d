"""Pictures of an environment, to film an episode."""

import warnings
from dataclasses import replace
from math import ceil
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from torch import Tensor

from plasticity.envs.environments.atari import AtariSettings
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.simulation.evaluation import evaluation_stream

_LEAST_PIXELS: Final = 160  # of the longer side; smaller observations are enlarged
_OBSERVATIONS_PER_SECOND: Final = 5
_RENDERS: Final = "rgb_array"

Picture = npt.NDArray[np.uint8]


class Camera:
    """One environment for evaluation, and pictures of it.

    An environment that can render (``rgb_array``) is rendered. Of any other the observation is shown, if it is an image: its
    three channels as colours, or its last channel as grey, which is the newest of a stack as in Atari. It is enlarged by a whole
    factor.

    Args:
        settings: The settings of the environment that is trained in.
        seed: The run's seed.
        episode_steps: Steps after which an episode is cut, see ``plasticity.envs.simulation.evaluation.episode_bound``.

    Attributes:
        stream: The environment; see ``evaluation_stream`` for what to call before an episode.
        pictures_per_second: How fast time passes in it.

    Raises:
        ValueError: It neither renders nor shows images.
    """

    def __init__(self, settings: Any, seed: int, episode_steps: int | None = None) -> None:
        self.stream = evaluation_stream(settings, seed, 1, episode_steps)
        env = _single(self.stream.env)
        self._renders = env is not None and _RENDERS in env.metadata.get("render_modes", ())
        self._stacked = isinstance(settings, AtariSettings)
        if not self._renders:
            self._low, self._high = _range_of(self.stream.observation_space)
            self.pictures_per_second = 60 / settings.frame_skip if self._stacked else _OBSERVATIONS_PER_SECOND
            return
        assert env is not None
        self.pictures_per_second = float(env.metadata.get("render_fps", 30))
        if hasattr(settings, "kwargs"):  # the environment must know from the start
            self.stream.close()
            kwargs = {**settings.kwargs, "render_mode": _RENDERS}
            self.stream = evaluation_stream(replace(settings, kwargs=kwargs), seed, 1, episode_steps)

    def picture(self, observations: Tensor) -> Picture:
        """Returns the picture when the environment shows ``observations``, (1, ...): (height, width, 3) or grey, 2-D.

        Raises:
            ValueError: Rendering fails.
        """
        if self._renders:
            return self._rendered()
        values = observations[0].numpy().astype(np.float64)
        image: Picture = ((values - self._low) / (self._high - self._low) * 255).round().astype(np.uint8)
        shown = image.transpose(1, 2, 0) if len(image) == 3 and not self._stacked else image[-1]
        factor = ceil(_LEAST_PIXELS / max(shown.shape[:2]))
        return shown.repeat(factor, axis=0).repeat(factor, axis=1)

    def close(self) -> None:
        """Closes the environment."""
        self.stream.close()

    def _rendered(self) -> Picture:
        env = _single(self.stream.env)
        assert env is not None
        if env.render_mode is None:
            env.unwrapped.render_mode = _RENDERS
        try:
            with warnings.catch_warnings():  # graphics libraries print a warning before they fail
                warnings.simplefilter("ignore")
                return np.array(env.render(), np.uint8)  # a copy: a renderer may write into its buffer again
        except Exception as error:  # any error of a graphics library that is missing or has no screen
            reason = (str(error) or type(error).__name__).splitlines()[0]
            remedy = (
                "; without a screen set MUJOCO_GL=egl, or MUJOCO_GL=osmesa where that is installed" if _uses_mujoco(env) else ""
            )
            raise ValueError(f"the environment cannot be rendered here: {reason}{remedy}") from error


def _single(vector: VectorEnv[Any, Any, Any]) -> gymnasium.Env[Any, Any] | None:
    """Returns the first of the environments that a vector of Python environments is made of, if it is one."""
    while isinstance(vector, VectorWrapper | TaskSequence):
        vector = vector.env
    return vector.envs[0] if isinstance(vector, SyncVectorEnv) else None


def _range_of(space: spaces.Space[Any]) -> tuple[float, float]:
    """Returns the smallest and the largest value of an image."""
    assert isinstance(space, spaces.Box)
    low, high = float(space.low.min()), float(space.high.max())
    if len(space.shape) != 3 or not np.isfinite([low, high]).all():
        raise ValueError(f"there is nothing to film: the environment does not render, and shows {space}, no images")
    return low, high


def _uses_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    return hasattr(env.unwrapped, "model")
