from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from plasticity.envs.environments.catch import CatchEnv
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.simulation.failure import EnvironmentFailure
from plasticity.envs.simulation.normalisation import NormaliseRewards
from plasticity.envs.simulation.sync_vector import SyncVector


class Count(gymnasium.Env[np.ndarray, np.int64]):
    """Shows ``base`` plus the steps of the episode; pays ``base``; terminates after ``length`` steps."""

    observation_space = spaces.Box(0.0, 1000.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, base: int, length: int) -> None:
        self.base, self.length = base, length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._shown(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self._shown(), float(self.base), self.count == self.length, False, {}

    def _shown(self) -> np.ndarray:
        return np.array([self.base + self.count], np.float32)


def vector(base: int, *lengths: int) -> SyncVector:
    return SyncVector([partial(Count, base, length) for length in lengths])


def sequence(announce: bool = True) -> TaskSequence:
    return TaskSequence([partial(vector, 100, 2, 3), partial(vector, 200, 5, 5)], 8, 0, announce)


def test_a_change_truncates_what_is_under_way(play: Any) -> None:
    """Two copies, so a task has four steps; the first copy's second episode terminates on the last of them."""
    seen = play(EnvironmentStream(sequence(), 0), 9)
    rows = [e.batch for e in seen]
    assert [e.task for e in seen] == [0] * 4 + [1] * 4 + [2]
    shown = [batch.observations.flatten().tolist() for batch in rows[:5]]
    assert shown == [[100, 100], [101, 101], [100, 102], [101, 100], [200, 200]]
    assert rows[3].next_observations.flatten().tolist() == [102, 101]
    assert [batch.terminated.tolist() for batch in rows[2:4]] == [[False, True], [True, False]]
    assert [batch.truncated.tolist() for batch in rows[2:4]] == [[False, False], [False, True]]
    assert rows[7].truncated.tolist() == [True, True]
    assert rows[7].next_observations.flatten().tolist() == [204, 204]
    assert rows[8].observations.flatten().tolist() == [100, 100]
    returns = [e.stats["rollout/return"].tolist() for e in seen if "rollout/return" in e.stats]
    assert returns == [[200.0], [300.0], [200.0, 100.0], [800.0, 800.0]]


def test_hidden_changes_are_logged(play: Any) -> None:
    seen = play(EnvironmentStream(sequence(announce=False), 0), 9)
    assert {e.task for e in seen} == {0}
    assert {step: e.stats["stream/task"] for step, e in enumerate(seen, 1) if "stream/task" in e.stats} == {1: 0, 4: 1, 8: 2}


def test_raw_rewards_pass_through_a_change(play: Any) -> None:
    env = TaskSequence([lambda: NormaliseRewards(vector(100, 9), 0.5)], 3, 0, True)  # type: ignore[list-item,return-value]
    assert play(EnvironmentStream(env, 0), 3)[-1].stats["rollout/return"].tolist() == [300.0]


def test_a_saved_sequence_goes_on_bit_for_bit(goes_on_exactly: Any) -> None:
    def build(seed: int) -> EnvironmentStream:
        catch = partial(SyncVector, [CatchEnv] * 2)
        return EnvironmentStream(TaskSequence([catch, catch, catch], 50, 0, True), seed)

    assert goes_on_exactly(build, 33, 60)


def test_what_cannot_be_is_refused(play: Any) -> None:
    with pytest.raises(ValueError, match="steps_per_task of at least 1, got 0 and 5"):
        TaskSequence([], 5, 0, True)
    with pytest.raises(ValueError, match="SyncVectorEnv must reset in the same step"):
        TaskSequence([lambda: SyncVectorEnv([partial(Count, 0, 3)])], 5, 0, True)
    other = TaskSequence([partial(vector, 100, 2), lambda: SyncVector([CatchEnv])], 3, 0, True)
    with pytest.raises(EnvironmentFailure, match="task 1 has other spaces than the first"):
        play(EnvironmentStream(other, 0), 3)
