import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from plasticity.envs.environments.catch import CatchEnv
from plasticity.envs.environments.identity import ContinuousIdentityEnv, DiscreteIdentityEnv
from plasticity.envs.environments.infinite_horizon import InfiniteHorizonEnv

IDS = ("Catch", "ContinuousIdentity", "DiscreteIdentity", "InfiniteHorizon")


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_checker_finds_nothing_to_warn_of(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(f"plasticity/{name}-v0").unwrapped)


def test_continuous_infinite_horizon_passes_the_checker() -> None:
    check_env(gymnasium.make("plasticity/InfiniteHorizon-v0", continuous=True).unwrapped)


def test_discrete_identity_pays_for_the_state_shown() -> None:
    env = DiscreteIdentityEnv()
    observation, _ = env.reset(seed=0)
    seen = set()
    for step in range(100):
        assert sorted(observation.tolist()) == [0, 0, 0, 1]
        shown = int(observation.argmax())
        seen.add(shown)
        wrong = step % 3 == 0
        observation, reward, terminated, truncated, _ = env.step(np.int64((shown + wrong) % 4))
        assert reward == (0.0 if wrong else 1.0)
        assert (terminated, truncated) == (False, step == 99)
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize(("distance", "reward"), [(0.0, 1.0), (0.49, 1.0), (-0.49, 1.0), (0.51, 0.0), (-0.51, 0.0)])
def test_continuous_identity_pays_within_half(distance: float, reward: float) -> None:
    env = ContinuousIdentityEnv()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.step(observation + np.float32(distance))[1] == reward


def test_infinite_horizon_pays_one_and_is_cut_after_eight() -> None:
    env = InfiniteHorizonEnv()
    first, _ = env.reset(seed=0)
    assert first.tolist() == [1, 0, 0, 0]
    steps = [env.step(0) for _ in range(8)]
    assert [observation.tolist().index(1) for observation, *_ in steps] == [1, 2, 3, 0, 1, 2, 3, 0]
    assert [row[1:4] for row in steps] == [(1.0, False, False)] * 7 + [(1.0, False, True)]


def board(env: CatchEnv) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for _, row, column in np.argwhere(env._observation())]


@pytest.mark.parametrize(
    ("ball", "moves", "reward"), [(0, [0, 0], 1.0), (4, [2, 2], 1.0), (2, [], 1.0), (0, [0], -1.0), (4, [0], -1.0)]
)
def test_catch_by_hand(ball: int, moves: list[int], reward: float) -> None:
    env = CatchEnv()
    env.reset(seed=0)
    env.state["ball"] = ball
    assert board(env) == [(0, ball), (9, 2)]
    rows = [env.step(np.int64(move)) for move in moves + [1] * (9 - len(moves))]
    assert [row[1:4] for row in rows] == [(0.0, False, False)] * 8 + [(reward, True, False)]
    assert rows[4][0].shape == (1, 10, 5)
    assert board(env)[0] == (9, min(ball, env.state["paddle"]))


def test_the_paddle_stays_on_the_board() -> None:
    env = CatchEnv()
    env.reset(seed=0)
    for action, column in ((0, 0), (2, 4)):
        for _ in range(4):
            env.step(np.int64(action))
        assert env.state["paddle"] == column


def test_balls_fall_in_every_column() -> None:
    env = CatchEnv()
    env.reset(seed=0)
    assert {env.reset()[0][0, 0].argmax() for _ in range(60)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", IDS)
def test_a_saved_environment_goes_on_exactly(name: str) -> None:
    first, second = (gymnasium.make(f"plasticity/{name}-v0").unwrapped for _ in range(2))
    first.reset(seed=1)
    second.reset(seed=2)
    first.action_space.seed(0)

    def step(env: Any, action: Any) -> tuple[Any, ...]:
        observation, *rest, _ = env.step(action)
        if rest[1] or rest[2]:
            observation, _ = env.reset()
        return (*observation.flatten().tolist(), *rest)

    for _ in range(5):
        step(first, first.action_space.sample())
    second.load_state_dict(first.state_dict())  # type: ignore[attr-defined]
    actions = [first.action_space.sample() for _ in range(200)]
    assert [step(first, action) for action in actions] == [step(second, action) for action in actions]


@pytest.mark.parametrize("make", [DiscreteIdentityEnv, ContinuousIdentityEnv, InfiniteHorizonEnv])
def test_impossible_lengths_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="episode_steps must be at least 1, got 0"):
        make(episode_steps=0)
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        ContinuousIdentityEnv(tolerance=0)
