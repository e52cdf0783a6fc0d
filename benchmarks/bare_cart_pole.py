"""DQN on CartPole in plain PyTorch: two layers of 128, the default Adam, a NumPy replay, one environment, one update a step."""

import random
from collections.abc import Callable, Iterator
from itertools import islice

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_CAPACITY, _BATCH, _WARMUP, _TARGET_EVERY, _DISCOUNT, _EPSILON, _RATE = 20_000, 32, 1000, 500, 0.99, 0.05, 1e-3


def bare_dqn_cart_pole(steps: int) -> Callable[[], None]:
    """Returns a program that continues for ``steps`` steps."""
    loop = _steps()
    next(islice(loop, _WARMUP, None))

    def program() -> None:
        for _ in islice(loop, steps):
            pass

    return program


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


def _steps() -> Iterator[None]:
    env = gymnasium.make("CartPole-v1")
    assert env.observation_space.shape is not None
    inputs, actions = env.observation_space.shape[0], int(env.action_space.n)  # type: ignore[attr-defined]
    online, target = _network(inputs, actions), _network(inputs, actions)
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=_RATE)
    widths = ((inputs,), (), (), (), (inputs,))
    kinds = (np.float32, np.int64, np.float32, np.float32, np.float32)
    columns = [np.zeros((_CAPACITY, *width), kind) for width, kind in zip(widths, kinds, strict=True)]
    observation, _ = env.reset(seed=0)
    step = 0
    while True:
        if random.random() < _EPSILON:
            action = int(env.action_space.sample())
        else:
            with torch.no_grad():
                action = int(online(torch.as_tensor(observation).unsqueeze(0)).argmax(1))
        following, reward, terminated, truncated, _ = env.step(action)
        for column, value in zip(columns, (observation, action, reward, terminated, following), strict=True):
            column[step % _CAPACITY] = value
        observation = env.reset()[0] if terminated or truncated else following
        step += 1
        if step > _WARMUP:
            rows = np.random.randint(0, min(step, _CAPACITY), _BATCH)  # noqa: NPY002 (as scripts do)
            loss = _loss(online, target, *(torch.as_tensor(column[rows]) for column in columns))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step % _TARGET_EVERY == 0:
            target.load_state_dict(online.state_dict())
        yield


def _loss(
    online: nn.Module, target: nn.Module, observed: Tensor, acted: Tensor, rewards: Tensor, terminated: Tensor, following: Tensor
) -> Tensor:
    with torch.no_grad():
        goal = rewards + _DISCOUNT * (1 - terminated) * target(following).amax(1)
    values = online(observed).gather(1, acted.unsqueeze(1)).squeeze(1)
    return functional.mse_loss(values, goal)
