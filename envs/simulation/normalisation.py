"""Observations and rewards brought to unit scale by statistics that are saved, and that can be frozen."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from plasticity.envs.simulation.keeps_state import KeepsState, resumes_exactly

_EPSILON: Final = 1e-8
_CLIP: Final = 10.0

Array = npt.NDArray[Any]
Stepped = tuple[Array, Array, Array, Array, dict[str, Any]]


class RunningMoments:
    """Mean and variance of all values so far, by the parallel form of Welford's method (Chan, Golub and LeVeque 1983).

    Args:
        shape: Shape of one value.

    Attributes:
        count: Values so far.
        mean: Their mean, 0 before the first.
        variance: Their variance, with divisor ``count``; 1 before the first.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape, np.float64)
        self.variance = np.ones(shape, np.float64)

    def update(self, values: Array) -> None:
        """Adds a batch of values, (N, *shape)."""
        added = len(values)
        total = self.count + added
        if added == 1:  # the same numbers, at a third of the cost
            mean, variance = values[0].astype(np.float64), 0.0
        else:
            mean, variance = values.mean(axis=0, dtype=np.float64), values.var(axis=0, dtype=np.float64)
        difference = mean - self.mean
        squares = self.variance * self.count + variance * added + difference**2 * (self.count * added / total)
        self.mean = self.mean + difference * (added / total)
        self.variance = squares / total
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Returns the three attributes, as a number and tensors."""
        # a mean over no axis is a NumPy scalar, which must become an array again
        mean, variance = (torch.from_numpy(np.array(value)) for value in (self.mean, self.variance))
        return {"count": self.count, "mean": mean, "variance": variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state; ValueError if it is of another shape."""
        if tuple(state["mean"].shape) != np.shape(self.mean):
            raise ValueError(f"saved statistics have shape {tuple(state['mean'].shape)}, these have {np.shape(self.mean)}")
        self.count = state["count"]
        self.mean, self.variance = state["mean"].numpy().copy(), state["variance"].numpy().copy()


class _Normaliser(VectorWrapper[Any, Any, Any]):
    """What both wrappers share: moments that can be frozen, and the state of the wrapped environment.

    Attributes:
        moments: The statistics, shared by all copies.
        frozen: Whether the statistics are used but no longer updated, as in evaluation.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], shape: tuple[int, ...]) -> None:
        super().__init__(env)
        self.moments = RunningMoments(shape)
        self.frozen = False

    @property
    def exact_resume(self) -> bool:
        """Whether the wrapped environment can be saved in mid-episode."""
        return resumes_exactly(self.env)

    def state_dict(self) -> dict[str, Any]:
        """Returns the statistics and the state of the wrapped environment, as far as it keeps one."""
        inner = self.env.state_dict() if isinstance(self.env, KeepsState) else None
        return {"moments": self.moments.state_dict(), "environment": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        self.moments.load_state_dict(state["moments"])
        if isinstance(self.env, KeepsState):
            self.env.load_state_dict(state["environment"])


class NormaliseObservations(_Normaliser):
    """Shows (observation - mean) / sqrt(variance + 1e-8), clipped to ±10, in single precision.

    The statistics include the observations shown at resets and after steps, before they are normalised; a final observation is
    normalised by them but not included.

    Raises:
        ValueError: The observations are images.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        space = env.single_observation_space
        if not isinstance(space, spaces.Box) or space.dtype == np.uint8:
            raise ValueError(f"normalise_observations needs a Box of floats, got {space}")
        super().__init__(env, space.shape)
        self.single_observation_space = spaces.Box(-_CLIP, _CLIP, space.shape, np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Resets the environments."""
        observations, info = self.env.reset(seed=seed, options=options)
        return self._counted_and_normalised(observations), info

    def step(self, actions: Any) -> Stepped:
        """Steps the environments."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        shown = self._counted_and_normalised(observations)
        done = np.logical_or(terminated, truncated)
        if done.any() and "final_obs" in info:
            final = np.zeros_like(shown)
            final[done] = self._normalised(np.stack(list(np.asarray(info["final_obs"])[done])))
            info = {**info, "final_obs": final}
        return shown, rewards, terminated, truncated, info

    def _counted_and_normalised(self, observations: Array) -> Array:
        if not self.frozen:
            self.moments.update(observations)
        return self._normalised(observations)

    def _normalised(self, observations: Array) -> Array:
        scaled = (observations - self.moments.mean) / np.sqrt(self.moments.variance + _EPSILON)
        return np.clip(scaled, -_CLIP, _CLIP).astype(np.float32)


class NormaliseRewards(_Normaliser):
    """Divides rewards by sqrt(variance + 1e-8) of the discounted return so far, and clips them to ±10.

    The discounted return of each copy is R <- discount * R + r, and 0 again after an episode ends in any way. The rewards as
    they were are ``info["raw_reward"]``, unless an inner wrapper has already given them.

    Args:
        env: The environments.
        discount: In [0, 1).

    Raises:
        ValueError: The discount is outside its range.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], discount: float) -> None:
        if not 0.0 <= discount < 1.0:
            raise ValueError(f"reward_discount={discount} must be at least 0 and below 1")
        super().__init__(env, ())
        self.discount = discount
        self._returns = np.zeros(self.num_envs, np.float64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Resets the environments."""
        self._returns = np.zeros(self.num_envs, np.float64)
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Stepped:
        """Steps the environments."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        self._returns = self.discount * self._returns + rewards
        if not self.frozen:
            self.moments.update(self._returns)
        scaled = np.clip(rewards / np.sqrt(self.moments.variance + _EPSILON), -_CLIP, _CLIP)
        self._returns[np.logical_or(terminated, truncated)] = 0.0
        return observations, scaled, terminated, truncated, {"raw_reward": rewards, **info}

    def state_dict(self) -> dict[str, Any]:
        """Returns the statistics, the unfinished returns and the state of the wrapped environment."""
        return {**super().state_dict(), "returns": torch.from_numpy(self._returns.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        super().load_state_dict(state)
        self._returns = state["returns"].numpy().copy()


def follow_statistics(env: VectorEnv[Any, Any, Any], source: VectorEnv[Any, Any, Any]) -> None:
    """Gives the wrappers of ``env`` the current statistics of ``source`` and freezes them, as evaluation needs.

    Args:
        env: Environments for evaluation, made with the settings of ``source``; changed in place.
        source: Environments that are trained on; only read.

    Raises:
        ValueError: The two are not normalised in the same way.
    """
    wrappers, sources = _normalisers(env), _normalisers(source)
    if list(map(type, wrappers)) != list(map(type, sources)):
        raise ValueError(f"{len(wrappers)} normalisers cannot follow {len(sources)} others: the settings differ")
    for wrapper, other in zip(wrappers, sources, strict=True):
        wrapper.moments.load_state_dict(other.moments.state_dict())
        wrapper.frozen = True


def _normalisers(env: VectorEnv[Any, Any, Any]) -> list[_Normaliser]:
    found = []
    while isinstance(env, VectorWrapper):
        if isinstance(env, _Normaliser):
            found.append(env)
        env = env.env
    return found
