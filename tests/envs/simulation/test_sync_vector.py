from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.wrappers import TimeLimit

from plasticity.envs.environments import (
    infinite_horizon,  # noqa: F401 (importing them registers environments)
)
from plasticity.envs.environments.catch import CatchEnv
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.simulation.announcement import ANNOUNCES, TASK
from plasticity.envs.simulation.normalisation import NormaliseRewards
from plasticity.envs.simulation.sync_vector import SyncVector

CLASSIC = ("Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
MUJOCO = (
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
)
TINY = tuple(f"plasticity/{name}-v0" for name in ("Catch", "ContinuousIdentity", "DiscreteIdentity", "InfiniteHorizon"))


def stream_of(name: str, num_envs: int, seed: int, **settings: Any) -> EnvironmentStream:
    return EnvironmentStream(SyncVector([partial(gymnasium.make, name, **settings)] * num_envs), seed)


@pytest.mark.parametrize("name", [*CLASSIC, *TINY])
def test_a_saved_vector_goes_on_bit_for_bit(name: str, goes_on_exactly: Any) -> None:
    limit = {} if name in TINY else {"max_episode_steps": 30}
    assert goes_on_exactly(lambda seed: stream_of(name, 2, seed, **limit), 45, 70)


@pytest.mark.parametrize("name", MUJOCO)
def test_physics_goes_on_bit_for_bit(name: str, goes_on_exactly: Any) -> None:
    assert goes_on_exactly(lambda seed: stream_of(name, 1, seed, max_episode_steps=25), 33, 60)


@pytest.mark.parametrize("name", ["CartPole-v1", "plasticity/Catch-v0", "Hopper-v5"])
def test_a_vector_equals_single_environments(name: str, play: Any) -> None:
    stream = stream_of(name, 3, 5)
    singles = [gymnasium.make(name) for _ in range(3)]
    first = [env.reset(seed=seed)[0] for env, seed in zip(singles, _seeds(stream), strict=True)]
    ends = 0
    for experience in play(stream, 120):
        batch = experience.batch
        for row, env in enumerate(singles):
            np.testing.assert_array_equal(batch.observations[row].numpy(), first[row].astype(np.float32))
            action = batch.actions[row].numpy()
            if isinstance(env.action_space, spaces.Box):
                action = np.clip(action, env.action_space.low, env.action_space.high)
            following, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(batch.next_observations[row].numpy(), following.astype(np.float32))
            assert batch.rewards[row] == np.float32(reward)
            assert (bool(batch.terminated[row]), bool(batch.truncated[row])) == (terminated, truncated)
            ends += terminated or truncated
            first[row] = env.reset()[0] if terminated or truncated else following
    assert ends >= 6


def _seeds(stream: EnvironmentStream) -> list[int]:
    assert isinstance(stream.env, SyncVector)
    seeds = [env.unwrapped.np_random_seed for env in stream.env.envs]
    assert [seed - seeds[0] for seed in seeds] == [0, 1, 2]
    return seeds


def test_the_seed_decides_the_stream(play: Any, same: Callable[..., bool]) -> None:
    first, again, other = (play(stream_of("CartPole-v1", 2, seed), 50) for seed in (1, 1, 2))
    assert all(map(same, first, again))
    assert not any(map(same, first, other))


def test_double_precision_observations_become_single() -> None:
    env = SyncVector([partial(gymnasium.make, "Hopper-v5")] * 2)
    assert env.single_observation_space.dtype == env.observation_space.dtype == np.float32
    observations, _ = env.reset(seed=0)
    assert observations.dtype == np.float32
    assert env.observation_space.contains(observations)


class Wide(gymnasium.Env[np.ndarray, np.ndarray]):
    """Pays the action it is given; its bounds do not fit in single precision."""

    observation_space = spaces.Box(np.array([-1e300, -np.inf]), np.array([2.0, np.inf]), dtype=np.float64)
    action_space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([0.5, 2.0], np.float32))

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(2), {"stream/number": 1.0, "else": 3}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(2), float(action[0] + 10 * action[1]), False, False, {"stream/number": float(action[0]), "else": 3}


def test_bounds_beyond_single_precision_stay_finite() -> None:
    space = SyncVector([Wide]).single_observation_space
    assert isinstance(space, spaces.Box)
    assert space.low.tolist() == [float(np.finfo(np.float32).min), -np.inf]
    assert space.high.tolist() == [2.0, np.inf]


def test_actions_are_clipped_for_the_environment_and_kept_as_chosen() -> None:
    stream = EnvironmentStream(SyncVector([Wide] * 2), 0)
    chosen = torch.tensor([[-3.0, 1.0], [0.25, 5.0]])
    batch = stream.advance(lambda _: chosen).batch
    assert torch.equal(batch.actions, chosen)  # type: ignore[union-attr]
    assert batch.rewards.tolist() == [-1.0 + 10.0, 0.25 + 20.0]  # type: ignore[union-attr]


def test_numbers_to_log_are_averaged_over_environments() -> None:
    stream = EnvironmentStream(SyncVector([Wide] * 2), 0)
    experience = stream.advance(lambda _: torch.tensor([[-1.0, 0.0], [0.5, 0.0]]))
    assert experience.stats == {"stream/number": -0.25}


def test_what_was_said_at_the_reset_is_told_with_the_first_step() -> None:
    class Quiet(Wide):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return (*super().step(action)[:4], {})

    stream = EnvironmentStream(SyncVector([Quiet]), 0)
    resumed = EnvironmentStream(SyncVector([Quiet]), 0)
    resumed.load_state_dict(stream.state_dict())
    act = torch.zeros(1, 2)
    assert [stream.advance(lambda _: act).stats for _ in range(2)] == [{"stream/number": 1.0}, {}]
    assert resumed.advance(lambda _: act).stats == {"stream/number": 1.0}


def test_an_unknown_environment_begins_its_episodes_anew(play: Any) -> None:
    stream = EnvironmentStream(SyncVector([Wide]), 0)
    assert not stream.exact_resume
    play(stream, 3)
    resumed = EnvironmentStream(SyncVector([Wide]), 0)
    resumed.load_state_dict(stream.state_dict())
    assert resumed.step == 3
    wrapped = SyncVector([lambda: gymnasium.wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 2)])
    assert not wrapped.exact_resume


class MovingPendulum(InvertedPendulumEnv):
    """A stock task with a goal in an attribute."""

    goal = 0.0


class StatefulCatch(CatchEnv):
    """Inherits a ``state_dict`` that knows nothing of its attributes."""

    wind = 0.0


class CarefulCatch(CatchEnv):
    """Answers for what it inherits."""

    exact_resume = True


class SavingCatch(StatefulCatch):
    """Saves its attributes."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "wind": self.wind}


class Patient(TimeLimit):
    """A time limit that remembers more."""


class Unknown(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper of which nothing is known."""


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (lambda: gymnasium.make("InvertedPendulum-v5"), True),
        (lambda: TimeLimit(MovingPendulum(), 9), False),
        (CatchEnv, True),
        (StatefulCatch, False),
        (CarefulCatch, True),
        (SavingCatch, True),
        (lambda: TimeLimit(CatchEnv(), 9), True),
        (lambda: Patient(CatchEnv(), 9), False),
        (lambda: Unknown(CatchEnv()), False),
    ],
)
def test_only_what_is_known_to_save_everything_is_exact(make: Any, exact: bool) -> None:
    assert EnvironmentStream(SyncVector([make]), 0).exact_resume == exact


def test_subclasses_of_what_wraps_vectors_are_not_exact() -> None:
    class Counting(NormaliseRewards):
        steps = 0

    make = partial(SyncVector, [CatchEnv])
    assert EnvironmentStream(NormaliseRewards(make(), 0.9), 0).exact_resume
    assert not EnvironmentStream(Counting(make(), 0.9), 0).exact_resume


OWN_KEYS: list[dict[Any, Any]] = [
    {"task": "reach"},
    {"task": {"gravity": 3.0}, "_task": True},
    {"task": 0.7},
    {"task": 5, TASK: 7},
    {"final_obs": np.ones(9), "_final_obs": np.ones(3), "final_info": 3},
    {"raw_reward": "none", "episode_over": [True, False]},
    {"stream/camera": "left", "stream/pose": np.zeros(3), 3: 4, None: 5, ("a",): 6},
]


@pytest.mark.parametrize("own", OWN_KEYS)
def test_keys_of_a_users_info_are_left_alone(own: dict[Any, Any]) -> None:
    class Talks(Wide):
        count = 0

        def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(2), own

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self.count += 1
            return np.full(2, self.count % 3), 1.0, False, self.count % 3 == 2, own

    stream = EnvironmentStream(SyncVector([Talks, Talks]), 0)
    seen = [stream.advance(lambda _: torch.zeros(2, 2)) for _ in range(4)]
    assert [e.task for e in seen] == [0] * 4
    assert [set(e.stats) for e in seen] == [set(), {"rollout/return", "rollout/length"}, set(), set()]
    assert seen[1].batch.next_observations.tolist() == [[2, 2], [2, 2]]  # type: ignore[union-attr]


def test_an_environment_that_says_so_may_announce_tasks() -> None:
    class Announces(Wide):
        metadata = {ANNOUNCES: True}  # noqa: RUF012

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return np.zeros(2), 1.0, False, False, {TASK: 3}

    stream = EnvironmentStream(SyncVector([Announces]), 0)
    assert stream.announces_tasks
    assert [stream.advance(lambda _: torch.zeros(1, 2)).task for _ in range(2)] == [0, 3]


def test_states_that_do_not_fit_are_refused() -> None:
    pole, car = (SyncVector([partial(gymnasium.make, name)]) for name in ("CartPole-v1", "MountainCar-v0"))
    two = SyncVector([partial(gymnasium.make, "CartPole-v1")] * 2)
    for env in (pole, car, two):
        env.reset(seed=0)
    with pytest.raises(
        ValueError, match="saved environment is made of TimeLimit, CartPoleEnv, this one of TimeLimit, MountainCarEnv"
    ):
        car.load_state_dict(pole.state_dict())
    with pytest.raises(ValueError, match="saved state has 1 environments, this one has 2 to restore"):
        two.load_state_dict(pole.state_dict())
    hopper, walker = (SyncVector([partial(gymnasium.make, name)]) for name in ("Hopper-v5", "Hopper-v5"))
    for env in (hopper, walker):
        env.reset(seed=0)
    state = hopper.state_dict()
    state["environments"][0]["layers"][-1]["physics"]["integration"] = torch.zeros(3)
    with pytest.raises(ValueError, match="saved physics has 3 numbers, this model has"):
        walker.load_state_dict(state)


def test_no_copies_are_refused() -> None:
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        SyncVector([])
