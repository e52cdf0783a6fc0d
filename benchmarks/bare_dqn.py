"""DQN and C51 on images in plain PyTorch: default optimizer, a NumPy replay of stacked images, one environment."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import ale_py
import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_CAPACITY, _BATCH, _WARMUP, _TRAIN_EVERY, _TARGET_EVERY = 20_000, 32, 1000, 4, 1000
_DISCOUNT, _EPSILON, _LOW, _HIGH = 0.99, 0.05, -10.0, 10.0


def bare_dqn(atoms: int, steps: int) -> Callable[[], None]:
    """Returns a program that continues for ``steps`` steps; with more than one atom it is C51."""
    loop = _steps(atoms)
    next(islice(loop, _WARMUP, None))

    def program() -> None:
        for _ in islice(loop, steps):
            pass

    return program


def image_environments(copies: int) -> Any:
    """Makes Demon Attack as a gymnasium vector environment of stacked images."""
    gymnasium.register_envs(ale_py)
    return gymnasium.make_vec("ALE/DemonAttack-v5", copies, num_threads=1)


def convolutions() -> list[nn.Module]:
    """Returns the layers of Mnih et al. 2015 up to the 512 features."""
    stages = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
    return [*stages, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()]


def _steps(atoms: int) -> Iterator[None]:
    env = image_environments(1)
    actions = int(env.single_action_space.n)
    online = nn.Sequential(*convolutions(), nn.Linear(512, actions * atoms))
    target = nn.Sequential(*convolutions(), nn.Linear(512, actions * atoms))
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-4)
    replay = _NumpyReplay()
    support = torch.linspace(_LOW, _HIGH, atoms)
    observation, _ = env.reset(seed=0)
    step = 0
    while True:
        if random.random() < _EPSILON:
            action = env.action_space.sample()
        else:
            with torch.no_grad():
                outputs = online(torch.as_tensor(observation) / 255)
            values = outputs if atoms == 1 else outputs.view(-1, actions, atoms).softmax(2) @ support
            action = values.argmax(1).numpy()
        following, reward, terminated, _, _ = env.step(action)
        replay.add(observation[0], action[0], reward[0], terminated[0], following[0])
        observation = following
        step += 1
        if step > _WARMUP and step % _TRAIN_EVERY == 0:
            batch = replay.sample()
            loss = _scalar_loss(online, target, batch) if atoms == 1 else _c51_loss(online, target, batch, support)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        if step % _TARGET_EVERY == 0:
            target.load_state_dict(online.state_dict())
        yield


class _NumpyReplay:
    """Observations and next observations stored separately, as whole stacks."""

    def __init__(self) -> None:
        self.images = np.zeros((2, _CAPACITY, 4, 84, 84), np.uint8)
        self.actions = np.zeros(_CAPACITY, np.int64)
        self.rewards, self.terminated = np.zeros((2, _CAPACITY), np.float32)
        self.total = 0

    def add(self, observation: Any, action: Any, reward: Any, terminated: Any, following: Any) -> None:
        row = self.total % _CAPACITY
        self.images[0, row], self.images[1, row] = observation, following
        self.actions[row], self.rewards[row], self.terminated[row] = action, np.sign(reward), terminated
        self.total += 1

    def sample(self) -> list[Tensor]:
        rows = np.random.randint(0, min(self.total, _CAPACITY), _BATCH)  # noqa: NPY002 (as scripts do)
        columns = (self.images[0], self.actions, self.rewards, self.terminated, self.images[1])
        return [torch.as_tensor(column[rows]) for column in columns]


def _scalar_loss(online: nn.Module, target: nn.Module, batch: list[Tensor]) -> Tensor:
    observations, actions, rewards, terminated, following = batch
    with torch.no_grad():
        goal = rewards + _DISCOUNT * (1 - terminated) * target(following / 255).amax(1)
    values = online(observations / 255).gather(1, actions.unsqueeze(1)).squeeze(1)
    return functional.mse_loss(values, goal)


def _c51_loss(online: nn.Module, target: nn.Module, batch: list[Tensor], support: Tensor) -> Tensor:
    observations, actions, rewards, terminated, following = batch
    rows, atoms = torch.arange(len(actions)), len(support)
    with torch.no_grad():
        distributions = target(following / 255).view(len(rows), -1, atoms).softmax(2)
        chosen = distributions[rows, (distributions @ support).argmax(1)]
        shifted = rewards.unsqueeze(1) + _DISCOUNT * (1 - terminated).unsqueeze(1) * support
        distance = (shifted.clamp(_LOW, _HIGH).unsqueeze(2) - support).abs() / (support[1] - support[0])
        goal = ((1 - distance).clamp(min=0) * chosen.unsqueeze(2)).sum(1)
    logits = online(observations / 255).view(len(rows), -1, atoms)[rows, actions]
    loss: Tensor = -(goal * logits.log_softmax(1)).sum(1).mean()
    return loss
