"""Which action an environment gets, and which bounds are refused."""

from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plasticity.agents.sac.agent import _scale
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.problem import environment_problem
from plasticity.envs.simulation.actions import action_range, nearest_actions, require_bounds
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.training.evaluation.episodes import uniform_actions

LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_whole_numbers_are_clipped_and_rounded(dtype: str) -> None:
    low = 0 if dtype.startswith("u") else -10
    space = spaces.Box(low, 100, (1,), np.dtype(dtype).type)
    policy = np.array([[-300.0], [-1.3], [-0.4], [0.6], [9.9], [99.4], [130.0], [300.0], [1e30]], np.float32)
    expected = [low, max(low, -1), 0, 1, 10, 99, 100, 100, 100]
    actions = nearest_actions(space, policy)
    assert (actions.dtype, actions.flatten().tolist()) == (np.dtype(dtype), expected)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_the_largest_whole_numbers_do_not_turn_over(dtype: str) -> None:
    limits = np.iinfo(dtype)
    space = spaces.Box(limits.min, limits.max, (1,), np.dtype(dtype).type)
    high, low = nearest_actions(space, np.array([[1e30], [-1e30]], np.float32)).flatten().tolist()
    assert low == limits.min
    assert 0 <= limits.max - high < 2048


def test_floats_are_clipped_in_an_array_of_their_own() -> None:
    space = spaces.Box(-1, 1, (2,), np.float64)
    policy = np.array([[0.25, 7.0]], np.float32)
    actions = nearest_actions(space, policy)
    actions *= 2
    assert policy.tolist() == [[0.25, 7.0]]
    assert actions.tolist() == [[0.5, 2.0]]


class Keeps(gymnasium.Env[Any, Any]):
    """Keeps what it was given."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 2, (1,), np.int8)

    def __init__(self) -> None:
        self.given: list[Any] = []

    def reset(self, **_: Any) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.given.append(action)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_a_stream_gives_the_nearest_action_and_keeps_the_chosen_one() -> None:
    env = Keeps()
    stream = EnvironmentStream(SyncVector([lambda: env]), 0)
    batch = stream.advance(lambda _: torch.tensor([[1.6]])).batch
    assert (env.given[0].dtype, env.given[0].tolist(), batch.actions.tolist()) == (  # type: ignore[union-attr]
        np.int8,
        [2],
        [[pytest.approx(1.6)]],
    )


def test_uniform_actions_reach_every_whole_number_as_often() -> None:
    """Four numbers, 4,000 draws: 1,000 each with a standard deviation of 27."""
    problem = environment_problem(EnvironmentStream(SyncVector([Keeps]), 0))
    assert (problem.action_low, problem.action_high) == ((-1.5,), (2.5,))
    middle, half = _scale(problem.action_low, problem.action_high)
    generator = torch.Generator().manual_seed(0)
    warm_up = torch.empty(4000, 1).uniform_(-1, 1, generator=generator) * half + middle
    evaluation = uniform_actions(Keeps.action_space, torch.zeros(4000, 1), generator)
    for drawn in (warm_up, evaluation):
        counts = Counter(nearest_actions(Keeps.action_space, drawn.numpy()).flatten().tolist())
        assert sorted(counts) == [-1, 0, 1, 2]
        assert all(abs(count - 1000) < 110 for count in counts.values())


@pytest.mark.parametrize("bound", [LARGEST, 1e30, 2e9, np.inf])
def test_bounds_that_no_policy_fills_are_named(bound: float) -> None:
    with pytest.raises(ValueError, match=r"finite bounds, of at most 1e\+09 in magnitude, got Box\(-") as error:
        require_bounds(spaces.Box(-bound, bound, (2,), np.float32))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="agent=sac needs bounded actions, within"):
        _scale([-bound], [bound])


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_the_range_of_a_type_is_no_bound(dtype: str) -> None:
    kind = np.dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    with pytest.raises(ValueError, match="continuous actions must be a vector with finite bounds"):
        require_bounds(spaces.Box(limits.min, limits.max, (2,), kind.type))


def test_no_actions_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a vector of at least one number, got Box\(\[\], \[\], \(0,\), float32\)"):
        require_bounds(spaces.Box(-1, 1, (0,), np.float32))


def test_ordinary_bounds_are_left_as_they_are() -> None:
    space = spaces.Box(np.array([-2.0, 0.5], np.float32), np.array([2.0, 1e9], np.float32))
    require_bounds(space)
    assert [bounds.tolist() for bounds in action_range(space)] == [[-2.0, 0.5], [2.0, 1e9]]
    middle, half = _scale([-2.0, -1.0], [2.0, 0.5])
    assert (middle.dtype, middle.tolist(), half.tolist()) == (torch.float32, [0.0, -0.25], [2.0, 0.75])


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (1.0, 1.0 + 1e-12)])
def test_equal_bounds_have_words_of_their_own(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"nothing to choose in action dimension 1: its bounds .* are equal in single precision"):
        _scale([-1.0, low], [1.0, high])
