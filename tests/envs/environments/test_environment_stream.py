import io
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.environments.bandit import ContextualBanditVectorEnv
from plasticity.envs.environments.environment_stream import SEED_RANGE, EnvironmentStream
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.simulation.announcement import ANNOUNCES, TASK
from plasticity.envs.simulation.failure import EnvironmentFailure
from plasticity.envs.stream import Stream
from plasticity.settings.seeding import derive_seed


class Counter(gymnasium.Env[np.ndarray, np.int64]):
    """Shows how many steps its episode has; ends after ``length`` steps; the reward is the action; task = episodes so far."""

    observation_space = gymnasium.spaces.Box(0.0, 100.0, (1,), np.float64)
    action_space = gymnasium.spaces.Discrete(10)

    def __init__(self, length: int, terminates: bool = True, announces: bool = False) -> None:
        self.length, self.terminates, self.announces = length, terminates, announces
        self.metadata = {ANNOUNCES: True} if announces else {}
        self.episodes = -1

    def _info(self) -> dict[str, Any]:
        return {TASK: self.episodes} if self.announces else {"task": self.episodes}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes += 1
        self.count = 0
        return np.array([0.0]), self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        done = self.count == self.length
        return np.array([float(self.count)]), float(action), done and self.terminates, done and not self.terminates, self._info()


def _itself(env: Any) -> Any:
    return env


def sync(*envs: Any, mode: AutoresetMode = AutoresetMode.SAME_STEP, **settings: Any) -> SyncVectorEnv:
    return SyncVectorEnv([partial(_itself, env) for env in envs], autoreset_mode=mode, **settings)


def ones(observations: Tensor) -> Tensor:
    return torch.ones(len(observations), dtype=torch.int64)


def episodes(experience: Experience) -> dict[str, list[float]]:
    return {name: torch.as_tensor(values).tolist() for name, values in experience.stats.items()}


def transitions(experience: Experience) -> Transitions:
    assert isinstance(experience.batch, Transitions)
    return experience.batch


@pytest.mark.parametrize("copy", [True, False])
def test_transitions_by_hand_with_two_lengths(copy: bool) -> None:
    stream: Stream = EnvironmentStream(sync(Counter(2), Counter(3, terminates=False), copy=copy), seed=0)
    seen = [stream.advance(lambda _: torch.tensor([3, 4])) for _ in range(4)]
    rows = [transitions(experience) for experience in seen]
    assert [batch.observations.flatten().tolist() for batch in rows] == [[0, 0], [1, 1], [0, 2], [1, 0]]
    assert [batch.next_observations.flatten().tolist() for batch in rows] == [[1, 1], [2, 2], [1, 3], [2, 1]]
    assert [batch.terminated.tolist() for batch in rows] == [[False, False], [True, False], [False, False], [True, False]]
    assert [batch.truncated.tolist() for batch in rows] == [[False, False], [False, False], [False, True], [False, False]]
    assert [batch.rewards.tolist() for batch in rows] == [[3.0, 4.0]] * 4
    assert [batch.actions.tolist() for batch in rows] == [[3, 4]] * 4
    assert [episodes(experience) for experience in seen] == [
        {},
        {"rollout/return": [6.0], "rollout/length": [2.0]},
        {"rollout/return": [12.0], "rollout/length": [3.0]},
        {"rollout/return": [6.0], "rollout/length": [2.0]},
    ]
    assert stream.step == 8


def test_stats_hold_an_entry_for_every_episode_that_ended() -> None:
    stream = EnvironmentStream(sync(Counter(2), Counter(2)), seed=0)
    stream.advance(lambda _: torch.tensor([1, 5]))
    assert episodes(stream.advance(lambda _: torch.tensor([2, 4]))) == {
        "rollout/return": [3.0, 9.0],
        "rollout/length": [2.0, 2.0],
    }


def test_types_are_those_of_the_interface() -> None:
    stream = EnvironmentStream(sync(Counter(2)), seed=0)
    batch = transitions(stream.advance(ones))
    assert (stream.input_shape, stream.input_dtype) == ((1,), torch.float64)
    assert batch.observations.dtype == batch.next_observations.dtype == torch.float64
    assert (batch.actions.dtype, batch.rewards.dtype) == (torch.int64, torch.float32)
    assert batch.terminated.dtype == batch.truncated.dtype == torch.bool
    assert stream.action_space == gymnasium.spaces.Discrete(10)


@pytest.mark.parametrize("limit", [5, 500])
def test_cartpole_agrees_with_environments_stepped_by_hand(limit: int) -> None:
    """With the pole pushed one way episodes terminate after about ten steps; with a limit of five they are truncated."""
    vector = sync(*(gymnasium.make("CartPole-v1", max_episode_steps=limit) for _ in range(2)))
    stream = EnvironmentStream(vector, seed=3)
    seen = [transitions(stream.advance(ones)) for _ in range(40)]
    ends = 0
    for row in range(2):
        env = gymnasium.make("CartPole-v1", max_episode_steps=limit)
        observation, _ = env.reset(seed=derive_seed(3, "environment") % SEED_RANGE + row)
        for batch in seen:
            following, reward, terminated, truncated, _ = env.step(1)
            np.testing.assert_array_equal(batch.observations[row].numpy(), observation)
            np.testing.assert_array_equal(batch.next_observations[row].numpy(), following)
            assert bool(batch.terminated[row]) == terminated
            assert bool(batch.truncated[row]) == truncated
            assert float(batch.rewards[row]) == reward
            observation = following
            if terminated or truncated:
                assert truncated == (limit == 5)
                ends += 1
                observation, _ = env.reset()
    assert ends >= 6


def test_continuous_actions_reach_the_environment_in_its_dtype() -> None:
    env = SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    stream = EnvironmentStream(env, seed=1)
    actions = torch.tensor([[0.5], [-1.5]], dtype=torch.float32)
    assert torch.equal(transitions(stream.advance(lambda _: actions)).actions, actions)
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 1\), got \(2,\)"):
        stream.advance(ones)


def bandit(count: int = 30) -> ContextualBanditVectorEnv:
    inputs = torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1)
    return ContextualBanditVectorEnv(3, Dataset("numbers", inputs, torch.arange(count) % 5, 5), episode_steps=4)


def same(first: Experience, second: Experience) -> bool:
    equal = all(torch.equal(a, b) for a, b in zip(first.batch, second.batch, strict=True))
    return equal and first.task == second.task and episodes(first) == episodes(second)


def by_pixel(observations: Tensor) -> Tensor:
    return observations.flatten().to(torch.int64) % 5 // 2 * 2


def test_a_bandit_resumed_within_an_episode_goes_on_bit_for_bit() -> None:
    stream = EnvironmentStream(bandit(), seed=2)
    assert stream.exact_resume
    for _ in range(6):
        stream.advance(by_pixel)
    buffer = io.BytesIO()
    torch.save(stream.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    expected = [stream.advance(by_pixel) for _ in range(13)]
    resumed = EnvironmentStream(bandit(), seed=99)
    resumed.load_state_dict(state)
    assert resumed.step == 18
    assert all(same(resumed.advance(by_pixel), experience) for experience in expected)
    assert any("rollout/return" in experience.stats for experience in expected)
    assert stream.step == resumed.step == 57


def test_the_seed_decides_the_observations() -> None:
    first, again, other = (transitions(EnvironmentStream(bandit(), seed).advance(ones)).observations for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_environment_without_state_starts_its_episodes_anew_and_says_so() -> None:
    stream = EnvironmentStream(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode="SameStep"), seed=4)
    assert not stream.exact_resume
    for _ in range(7):
        last = transitions(stream.advance(ones))
    state = stream.state_dict()
    resumed, again = (
        EnvironmentStream(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")], autoreset_mode="SameStep"), seed=4)
        for _ in range(2)
    )
    resumed.load_state_dict(state)
    again.load_state_dict(state)
    first = transitions(resumed.advance(ones)).observations
    assert resumed.step == 8
    assert torch.equal(first, transitions(again.advance(ones)).observations)
    assert not torch.equal(first, last.next_observations)
    expected, _ = gymnasium.make("CartPole-v1").reset(seed=derive_seed(4, "restart", 7) % SEED_RANGE)
    np.testing.assert_array_equal(first[0].numpy(), expected)
    lengths = [
        experience.stats["rollout/length"] for experience in (resumed.advance(ones) for _ in range(12)) if experience.stats
    ]
    assert lengths[0] > 7  # counted from the restart, and not cut short by the seven steps before it


def test_a_wrapper_without_state_of_its_own_cannot_promise_an_exact_resume() -> None:
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(bandit())
    stream = EnvironmentStream(wrapped, seed=0)
    assert not stream.exact_resume
    assert stream.state_dict()["environment"] is None


def test_a_task_is_announced_with_the_observation_it_begins_with() -> None:
    stream = EnvironmentStream(sync(Counter(2, announces=True)), seed=0)
    assert [stream.advance(ones).task for _ in range(5)] == [0, 0, 1, 1, 2]
    assert stream.task == 2
    silent = EnvironmentStream(sync(Counter(2)), seed=0)
    assert [silent.advance(ones).task for _ in range(5)] == [0] * 5


def test_a_resumed_stream_remembers_the_task() -> None:
    stream = EnvironmentStream(bandit(), seed=0)
    stream.advance(by_pixel)
    state = stream.state_dict() | {"task": 3, "coming_task": 4}
    resumed = EnvironmentStream(bandit(), seed=0)
    resumed.load_state_dict(state)
    assert resumed.task == 3
    assert resumed.advance(by_pixel).task == 4


def test_unsuitable_environments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must use AutoresetMode\.SAME_STEP, SyncVectorEnv uses AutoresetMode\.NEXT_STEP"):
        EnvironmentStream(sync(Counter(2), mode=AutoresetMode.NEXT_STEP), seed=0)
    with pytest.raises(ValueError, match="observation space must be a Box, got Discrete"):
        EnvironmentStream(sync(gymnasium.make("FrozenLake-v1")), seed=0)


class Forgetful(ContextualBanditVectorEnv):
    """A bandit that keeps its final observations to itself."""

    def step(self, actions: np.ndarray) -> Any:
        return (*super().step(actions)[:4], {})


def test_a_missing_final_observation_is_an_error() -> None:
    data = Dataset("numbers", torch.zeros(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64), 2)
    stream = EnvironmentStream(Forgetful(1, data, episode_steps=1), seed=0)
    with pytest.raises(EnvironmentFailure, match=r"^environment Forgetful, step 1 \(1 of its episode\): .* gave no info"):
        stream.advance(ones)


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = EnvironmentStream(bandit(), seed=0).state_dict()
    with pytest.raises(ValueError, match=r"saved observations have shape \(3, 1, 1, 1\), this environment's have \(1, 1\)"):
        EnvironmentStream(sync(Counter(2)), seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match="saved environment state does not fit ContextualBanditVectorEnv"):
        EnvironmentStream(bandit(), seed=0).load_state_dict(state | {"environment": None})


def test_close_closes_the_environments() -> None:
    env = bandit()
    EnvironmentStream(env, seed=0).close()
    assert env.closed
