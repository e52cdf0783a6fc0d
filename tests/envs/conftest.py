"""Helpers that all tests of environments share."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.experience import Experience

Play = Callable[..., list[Experience]]
Resume = Callable[..., EnvironmentStream]


def _play(stream: EnvironmentStream, steps: int, seed: int = 0, scale: float = 1.0) -> list[Experience]:
    """Advances with random actions: uniform ones if discrete, else normal ones times ``scale``."""
    rng = np.random.default_rng(seed)

    def act(observations: Tensor) -> Tensor:
        space = stream.action_space
        if isinstance(space, spaces.Discrete):
            return torch.from_numpy(rng.integers(space.n, size=stream.num_envs))
        drawn = rng.standard_normal((stream.num_envs, *(space.shape or ())))
        return torch.from_numpy((scale * drawn).astype(np.float32))

    return [stream.advance(act) for _ in range(steps)]


@pytest.fixture
def play() -> Play:
    return _play


def _same(first: Experience, second: Experience) -> bool:
    if not all(torch.equal(a, b) for a, b in zip(first.batch, second.batch, strict=True)):
        return False
    numbers = [{key: torch.as_tensor(value).tolist() for key, value in e.stats.items()} for e in (first, second)]
    return numbers[0] == numbers[1] and first.task == second.task


@pytest.fixture
def same() -> Callable[[Experience, Experience], bool]:
    return _same


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.fixture
def through_a_file() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Saves a state as a checkpoint does, and reads it back."""
    return _through_a_file


@pytest.fixture
def goes_on_exactly() -> Callable[[Callable[[int], EnvironmentStream], int, int], bool]:
    """Plays, saves through a file, and compares what follows with a stream of another seed that was given the state."""

    def check(build: Callable[[int], EnvironmentStream], before: int, after: int) -> bool:
        stream = build(3)
        _play(stream, before, seed=1)
        state = _through_a_file(stream.state_dict())
        expected = _play(stream, after, seed=2)
        resumed = build(4)
        resumed.load_state_dict(state)
        assert resumed.exact_resume
        return all(_same(a, b) for a, b in zip(_play(resumed, after, seed=2), expected, strict=True))

    return check
