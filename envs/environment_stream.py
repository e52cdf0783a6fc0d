"""The stream of a vectorised environment; episode ends are handled here, once, for every agent."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from envs.experience import Experience, Transitions
from envs.keeps_state import KeepsState, resumes_exactly
from seeding import derive_seed

SEED_RANGE = 2**30  # some environments take 32-bit seeds, and vector environments add the row number


class EnvironmentStream:
    """Steps a gymnasium vector environment; implements ``envs.stream.Stream``.

    The environment must reset in the same step (``AutoresetMode.SAME_STEP``): then every transition is one that really
    happened, with its true final observation, and a terminal-to-reset pair never appears. Terminated and truncated stay
    apart, so that a truncated episode is bootstrapped. Actions reach the environment as the agent chose them, and so does the
    replay buffer: ``envs.sync_vector.SyncVector`` clips what leaves the Box.

    What an environment may say in its info, beside ``final_obs``:

    - ``task``: the task in force from the observations that come with it; until another is announced it stays, at first 0.
    - ``raw_reward``, (N,): the rewards before clipping or scaling; returns are sums of these.
    - ``episode_over``, (N,) bool: which episodes are over, where a lost life also counts as terminated.
    - ``stream/<name>``: a number to log; over several environments, the mean of those that say it in a step.

    When episodes end in a step, ``stats`` holds their ``rollout/return`` (sum of rewards) and ``rollout/length`` (steps), one
    entry for each episode.

    Args:
        env: the environments, N of them, with a Box observation space and Discrete or Box actions.
        seed: the run's seed; the environment is reset with a seed derived from it.

    Attributes:
        step: environment steps so far, over all N environments.
        task: the task of the latest transitions.
        input_shape: shape of one observation.
        input_dtype: dtype of the observation space.
        num_envs: N.
        observation_space: of one environment.
        action_space: of one environment.

    Raises:
        ValueError: another autoreset mode or an unsupported space.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int) -> None:
        _check_environment(env)
        self.env = env
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.input_shape: tuple[int, ...] = tuple(self.observation_space.shape or ())
        self.input_dtype = torch.from_numpy(np.empty(0, self.observation_space.dtype)).dtype
        self.step = 0
        self.task = 0
        self._coming_task = 0
        self._seed = seed
        self._observations: Tensor
        self._noted: dict[str, float]  # said when resetting, to be told with the next step
        self._returns: npt.NDArray[np.float64]
        self._lengths: npt.NDArray[np.int64]
        self._start(derive_seed(seed, "environment"))

    @property
    def exact_resume(self) -> bool:
        """Whether a resumed run goes on bit for bit, which needs an environment that saves all of its state."""
        return resumes_exactly(self.env)

    def advance(self, act: Callable[[Tensor], Tensor]) -> Experience:
        """Takes one step in every environment.

        Args:
            act: maps observations (N, *input_shape) to actions, (N,) int64 or (N, A) float.

        Raises:
            ValueError: an episode ended and the environment did not give its final observation.
        """
        observations = self._observations
        actions = act(observations).detach().cpu()
        following, rewards, terminated, truncated, info = self.env.step(self._to_environment(actions))
        done = np.logical_or(terminated, truncated)
        self._observations = _own(following)
        next_observations = self._observations
        if done.any():
            next_observations = _with_final_observations(self._observations, done, info)
        self.step += self.num_envs
        self.task, self._coming_task = self._coming_task, _announced_task(info, self._coming_task)
        batch = Transitions(
            observations,
            actions,
            torch.from_numpy(np.array(rewards, np.float32)),
            torch.from_numpy(np.array(terminated, np.bool_)),
            torch.from_numpy(np.array(truncated, np.bool_)),
            next_observations,
        )
        raw_rewards = np.asarray(info.get("raw_reward", rewards), np.float64)
        stats = self._count(raw_rewards, np.asarray(info.get("episode_over", done), np.bool_))
        noted, self._noted = self._noted, {}
        return Experience(batch, self.task, {**noted, **stats, **_notes(info)})

    def state_dict(self) -> dict[str, Any]:
        """Returns counters, current observations, unfinished episodes and, if it keeps one, the environment's state."""
        return {
            "step": self.step,
            "task": self.task,
            "coming_task": self._coming_task,
            "noted": dict(self._noted),
            "observations": self._observations.clone(),
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "environment": self.env.state_dict() if isinstance(self.env, KeepsState) else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state.

        An environment that cannot restore all of its state restores what it saved and is reset with a seed that depends on the
        step; its unfinished episodes are dropped: the run goes on, but not bit for bit (see ``exact_resume``).

        Raises:
            ValueError: the state is of other observations, or of an environment that kept its state where this does not.
        """
        saved, current = tuple(state["observations"].shape), tuple(self._observations.shape)
        if saved != current:
            raise ValueError(f"saved observations have shape {saved}, this environment's have {current}")
        if (state["environment"] is not None) != isinstance(self.env, KeepsState):
            raise ValueError(f"the saved environment state does not fit {type(self.env).__name__}")
        self.step = state["step"]
        self.task = state["task"]
        self._coming_task = state["coming_task"]
        if isinstance(self.env, KeepsState):
            self.env.load_state_dict(state["environment"])
        if not self.exact_resume:
            self._start(derive_seed(self._seed, "restart", self.step))
            return
        self._noted = dict(state["noted"])
        self._observations = state["observations"].clone()
        self._returns = state["returns"].numpy().copy()
        self._lengths = state["lengths"].numpy().copy()

    def restart(self, seed: int) -> None:
        """Drops the unfinished episodes and begins new ones, which depend on ``seed`` alone; the step goes on counting."""
        self._start(derive_seed(seed, "restart"))

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def _start(self, seed: int) -> None:
        observations, info = self.env.reset(seed=seed % SEED_RANGE)
        self._observations = _own(observations)
        self._coming_task = _announced_task(info, self._coming_task)
        self._noted = _notes(info)
        self._returns = np.zeros(self.num_envs, np.float64)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def _to_environment(self, actions: Tensor) -> npt.NDArray[Any]:
        expected = (self.num_envs, *(self.action_space.shape or ()))
        if tuple(actions.shape) != expected:
            raise ValueError(f"actions must have shape {expected}, got {tuple(actions.shape)}")
        return actions.numpy().astype(self.action_space.dtype, copy=False)

    def _count(self, rewards: npt.NDArray[np.float64], over: npt.NDArray[np.bool_]) -> dict[str, Any]:
        self._returns += rewards
        self._lengths += 1
        if not over.any():
            return {}
        stats = {
            "rollout/return": torch.from_numpy(self._returns[over]),
            "rollout/length": torch.from_numpy(self._lengths[over].astype(np.float64)),
        }
        self._returns[over] = 0.0
        self._lengths[over] = 0
        return stats


def _check_environment(env: VectorEnv[Any, Any, Any]) -> None:
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(f"environment must use AutoresetMode.SAME_STEP, {type(env).__name__} uses {mode}")
    if not isinstance(env.single_observation_space, spaces.Box):
        raise ValueError(f"observation space must be a Box, got {env.single_observation_space}")
    actions = env.single_action_space
    if not isinstance(actions, spaces.Box | spaces.Discrete):
        raise ValueError(f"action space must be Discrete or Box, got {actions}")
    if isinstance(actions, spaces.Discrete) and actions.start != 0:
        raise ValueError(f"discrete actions must start at 0, got {actions}")


def _own(observations: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(observations))  # a copy: an environment may write into its buffer again


def _with_final_observations(observations: Tensor, done: npt.NDArray[np.bool_], info: Mapping[str, Any]) -> Tensor:
    """Returns ``observations`` with the rows of finished episodes replaced by ``info["final_obs"]``.

    ``final_obs`` is one array (N, ...), or an array of N objects that are an observation or None.
    """
    if "final_obs" not in info:
        raise ValueError('an episode ended and the environment gave no info["final_obs"]')
    final = np.asarray(info["final_obs"])[done]
    rows = np.stack(list(final)) if final.dtype == object else final
    replaced = observations.clone()
    replaced[torch.from_numpy(done)] = torch.from_numpy(rows.astype(observations.numpy().dtype, copy=False))
    return replaced


def _notes(info: Mapping[str, Any]) -> dict[str, float]:
    """Returns the mean of each ``stream/<name>`` over the environments that said it."""
    return {key: float(np.mean(_said(info, key))) for key in info if key.startswith("stream/")}


def _said(info: Mapping[str, Any], key: str) -> npt.NDArray[Any]:
    values = np.asarray(info[key])
    return values[info[f"_{key}"]] if values.ndim and f"_{key}" in info else values


def _announced_task(info: Mapping[str, Any], before: int) -> int:
    if "task" not in info:
        return before
    announced = _said(info, "task")
    return int(announced.max()) if announced.size else before
