"""SAC in plain PyTorch: default optimizer, a NumPy replay, one environment."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_CAPACITY, _BATCH, _WARMUP, _DISCOUNT, _SHARE, _RATE = 100_000, 256, 1000, 0.99, 0.005, 3e-4


def bare_sac(steps: int, env: str = "Ant-v5", width: int = 256) -> Callable[[], None]:
    """Returns a program that continues for ``steps`` steps, with two layers of that width."""
    loop = _steps(env, width)
    next(islice(loop, _WARMUP, None))

    def program() -> None:
        for _ in islice(loop, steps):
            pass

    return program


class _Learner:
    """Actor, two critics, their targets and the temperature."""

    def __init__(self, observations: int, actions: int, width: int) -> None:
        self.actor = _network(observations, 2 * actions, width)
        self.critics = [_network(observations + actions, 1, width) for _ in range(2)]
        self.targets = deepcopy(self.critics)
        self.log_temperature = torch.zeros(1, requires_grad=True)
        self.entropy_wanted = -float(actions)
        weights = [weight for critic in self.critics for weight in critic.parameters()]
        self.optimizers = [torch.optim.Adam(own, lr=_RATE) for own in (weights, self.actor.parameters(), [self.log_temperature])]

    def draw(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Returns squashed actions (B, A) and their log densities (B, 1)."""
        mean, log_deviation = self.actor(observations).chunk(2, 1)
        policy = torch.distributions.Normal(mean, log_deviation.clamp(-20, 2).exp())
        free = policy.rsample()
        action = torch.tanh(free)
        log_prob = policy.log_prob(free) - torch.log(1 - action.square() + 1e-6)
        return action, log_prob.sum(1, keepdim=True)

    def update(self, batch: list[Tensor]) -> None:
        observations, actions, rewards, terminated, following = batch
        temperature = self.log_temperature.exp().detach()
        with torch.no_grad():
            next_actions, next_log_prob = self.draw(following)
            pairs = torch.cat([following, next_actions], 1)
            least = torch.min(*(target(pairs) for target in self.targets)) - temperature * next_log_prob
            goal = rewards + _DISCOUNT * (1 - terminated) * least
        pairs = torch.cat([observations, actions], 1)
        critic_loss = torch.stack([functional.mse_loss(critic(pairs), goal) for critic in self.critics]).sum()
        self._descend(0, critic_loss)
        drawn, log_prob = self.draw(observations)
        pairs = torch.cat([observations, drawn], 1)
        actor_loss = (temperature * log_prob - torch.min(*(critic(pairs) for critic in self.critics))).mean()
        self._descend(1, actor_loss)
        self._descend(2, -(self.log_temperature * (log_prob.detach() + self.entropy_wanted)).mean())
        for critic, target in zip(self.critics, self.targets, strict=True):
            for ours, theirs in zip(critic.parameters(), target.parameters(), strict=True):
                theirs.data.mul_(1 - _SHARE).add_(ours.data, alpha=_SHARE)

    def _descend(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()


def _steps(name: str, width: int) -> Iterator[None]:
    env = gymnasium.make(name)
    assert env.observation_space.shape is not None
    assert env.action_space.shape is not None
    observed, dimensions = env.observation_space.shape[0], env.action_space.shape[0]
    learner = _Learner(observed, dimensions, width)
    columns = [np.zeros((_CAPACITY, size), np.float32) for size in (observed, dimensions, 1, 1, observed)]
    observation, _ = env.reset(seed=0)
    step = 0
    while True:
        action: Any = env.action_space.sample()
        if step >= _WARMUP:
            with torch.no_grad():
                action = learner.draw(torch.as_tensor(observation, dtype=torch.float32).unsqueeze(0))[0][0].numpy()
        following, reward, terminated, truncated, _ = env.step(action)
        row = step % _CAPACITY
        for column, value in zip(columns, (observation, action, reward, terminated, following), strict=True):
            column[row] = value
        observation = env.reset()[0] if terminated or truncated else following
        step += 1
        if step > _WARMUP:
            rows = np.random.randint(0, min(step, _CAPACITY), _BATCH)  # noqa: NPY002 (as scripts do)
            learner.update([torch.as_tensor(column[rows]) for column in columns])
        yield


def _network(inputs: int, outputs: int, width: int) -> nn.Sequential:
    hidden = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(width, outputs))
