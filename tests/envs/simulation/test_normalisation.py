from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from plasticity.envs.environments.bandit import ContextualBanditVectorEnv
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.vector_settings import VectorSettings, normalised
from plasticity.envs.simulation.normalisation import NormaliseObservations, NormaliseRewards, RunningMoments, follow_statistics
from plasticity.envs.simulation.sync_vector import SyncVector


class Script(gymnasium.Env[np.ndarray, np.int64]):
    """Shows 0, 2, 4, ...; pays 1, 2, 3, ...; truncated after three steps."""

    observation_space = spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return np.array([2.0 * self.count], np.float32), float(self.count), False, self.count == 3, {}


def script() -> SyncVector:
    return SyncVector([Script])


def test_moments_of_batches_are_those_of_all_values() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, (60, 4))
    moments = RunningMoments((4,))
    for batch in np.split(values, [1, 2, 10, 40]):
        moments.update(batch)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, values.var(axis=0), rtol=1e-12)
    assert moments.count == 60


def test_large_offsets_do_not_spoil_the_variance() -> None:
    moments = RunningMoments(())
    for value in (1e8, 1e8 + 1, 1e8 + 2):
        moments.update(np.array([value]))
    assert abs(float(moments.variance) - 2 / 3) < 1e-6


def test_observations_by_hand() -> None:
    """Shown are 0 | 2 | 4 | 0 (final 6): means 0, 1, 2, 1.5, variances 0, 1, 8/3, 2.75."""
    env = NormaliseObservations(script())
    first, _ = env.reset(seed=0)
    rows = [env.step(np.zeros(1, np.int64)) for _ in range(3)]
    shown = [first, *(row[0] for row in rows)]
    np.testing.assert_allclose(
        np.ravel(shown), [0.0, (2 - 1) / 1, (4 - 2) / np.sqrt(8 / 3), (0 - 1.5) / np.sqrt(2.75)], rtol=1e-6
    )
    np.testing.assert_allclose(rows[2][4]["final_obs"], [[(6 - 1.5) / np.sqrt(2.75)]], rtol=1e-6)
    assert env.moments.count == 4
    assert shown[0].dtype == np.float32


def test_observations_are_clipped_at_ten() -> None:
    env = NormaliseObservations(script())
    env.reset(seed=0)
    env.frozen = True
    observations, *_ = env.step(np.zeros(1, np.int64))
    assert observations.tolist() == [[10.0]]  # 2 / sqrt(0 + 1e-8) is 20,000
    assert env.observation_space.contains(observations)


def test_rewards_by_hand() -> None:
    """With discount 0.5 the returns are 1, 2.5 and 4.25, then, after the episode's end, 1 again."""
    env = NormaliseRewards(script(), 0.5)
    env.reset(seed=0)
    rows = [env.step(np.zeros(1, np.int64)) for _ in range(4)]
    returns, paid = [1.0, 2.5, 4.25, 1.0], [1.0, 2.0, 3.0, 1.0]
    deviations = [np.std(returns[: k + 1]) for k in range(4)]
    expected = [10.0, *(reward / deviation for reward, deviation in list(zip(paid, deviations, strict=True))[1:])]
    np.testing.assert_allclose([row[1][0] for row in rows], expected, rtol=1e-6)
    assert [row[4]["raw_reward"].tolist() for row in rows] == [[reward] for reward in paid]


def test_an_inner_raw_reward_is_kept() -> None:
    inner = NormaliseRewards(script(), 0.5)
    env = NormaliseRewards(inner, 0.5)
    env.reset(seed=0)
    *_, info = env.step(np.zeros(1, np.int64))
    assert info["raw_reward"].tolist() == [1.0]


def test_returns_that_are_reported_stay_raw(play: Any) -> None:
    stream = EnvironmentStream(normalised(script(), VectorSettings(normalise_rewards=True, normalise_observations=True)), 0)
    last = play(stream, 3)[-1]
    assert last.stats["rollout/return"].tolist() == [6.0]
    assert last.batch.rewards.tolist() != [3.0]


def pole(seed: int, limit: int = 12) -> EnvironmentStream:
    vector = SyncVector([partial(gymnasium.make, "CartPole-v1", max_episode_steps=limit)] * 2)
    return EnvironmentStream(normalised(vector, VectorSettings(2, True, True, 0.9)), seed)


def test_a_normalised_stream_goes_on_bit_for_bit(goes_on_exactly: Any) -> None:
    assert goes_on_exactly(pole, 37, 50)


class Opaque(Script):
    """An environment that cannot be saved, as all whose class is not known."""


def test_statistics_are_restored_where_episodes_begin_anew(play: Any) -> None:
    stream, resumed = (
        EnvironmentStream(normalised(SyncVector([Opaque]), VectorSettings(1, True, True)), seed) for seed in (0, 1)
    )
    play(stream, 8)
    resumed.load_state_dict(stream.state_dict())
    assert not resumed.exact_resume
    inner, rewards = stream.env.env, resumed.env  # type: ignore[attr-defined]
    assert rewards.env.moments.count == inner.moments.count + 1  # type: ignore[attr-defined]  # the reset shows one more
    assert rewards.moments.state_dict() == stream.env.moments.state_dict()  # type: ignore[attr-defined]


def test_statistics_can_be_followed_and_are_frozen_then(play: Any) -> None:
    training, evaluation = pole(0, limit=500), pole(1, limit=500)  # long enough for episodes of different lengths
    play(training, 80)
    follow_statistics(evaluation.env, training.env)
    wrappers = [(training.env, evaluation.env), (training.env.env, evaluation.env.env)]  # type: ignore[attr-defined]
    before = [a.moments.mean.copy() for a, _ in wrappers]
    play(evaluation, 80, seed=1)
    for (source, follower), mean in zip(wrappers, before, strict=True):
        np.testing.assert_array_equal(source.moments.mean, mean)
        np.testing.assert_array_equal(follower.moments.mean, mean)
    play(training, 5)
    assert not np.array_equal(training.env.moments.mean, before[0])  # type: ignore[attr-defined]


def test_what_cannot_be_is_refused() -> None:
    bandit: VectorEnv[Any, Any, Any] = ContextualBanditVectorEnv(1)
    import torch

    from plasticity.envs.datasets.datasets import Dataset

    images = Dataset("dots", torch.zeros(4, 1, 1, 1, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="normalise_observations needs a Box of floats, got Box"):
        NormaliseObservations(ContextualBanditVectorEnv(1, images))
    with pytest.raises(ValueError, match=r"reward_discount=1\.0 must be at least 0 and below 1"):
        NormaliseRewards(bandit, 1.0)
    with pytest.raises(ValueError, match="2 normalisers cannot follow 0 others"):
        follow_statistics(pole(0).env, script())
    with pytest.raises(ValueError, match=r"saved statistics have shape \(2,\), these have \(\)"):
        RunningMoments(()).load_state_dict(RunningMoments((2,)).state_dict())
