"""PPO in plain PyTorch: default optimizer, gymnasium's vector environments and wrappers, values computed while acting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal

from benchmarks.bare_dqn import convolutions, image_environments

_DISCOUNT, _TRACE = 0.99, 0.95


@dataclass(frozen=True)
class _Settings:
    steps: int
    minibatch: int
    epochs: int
    clip: float
    entropy: float
    rate: float


class _Images(nn.Module):
    """One torso, a policy and a value."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.torso, self.policy, self.value = nn.Sequential(*convolutions()), nn.Linear(512, actions), nn.Linear(512, 1)

    def forward(self, observations: Tensor) -> tuple[Distribution, Tensor]:
        features = self.torso(observations / 255)
        return Categorical(logits=self.policy(features)), self.value(features).flatten()


class _Vectors(nn.Module):
    """Separate networks for policy and value."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.mean, self.value = _tanh(observations, actions), _tanh(observations, 1)
        self.log_deviation = nn.Parameter(torch.zeros(1, actions))

    def forward(self, observations: Tensor) -> tuple[Distribution, Tensor]:
        mean = self.mean(observations)
        return Normal(mean, self.log_deviation.expand_as(mean).exp()), self.value(observations).flatten()


class _Choices(nn.Module):
    """Separate networks for the policy over a few actions and for the value."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.policy, self.value = _tanh(observations, actions, 128), _tanh(observations, 1, 128)

    def forward(self, observations: Tensor) -> tuple[Distribution, Tensor]:
        return Categorical(logits=self.policy(observations)), self.value(observations).flatten()


def bare_ppo_atari(steps: int) -> Callable[[], None]:
    """Returns a program that makes ``steps`` steps: whole rollouts of 8 x 128."""
    env = image_environments(8)
    network = _Images(int(env.single_action_space.n))
    return _program(env, network, _Settings(128, 256, 4, 0.1, 0.01, 2.5e-4), steps)


def bare_ppo_ant(steps: int) -> Callable[[], None]:
    """Returns a program that makes ``steps`` steps: whole rollouts of 2048."""

    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.wrappers.ClipAction(gymnasium.make("Ant-v5"))
        wrapped = gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.NormalizeObservation(env))
        return gymnasium.wrappers.RecordEpisodeStatistics(wrapped)

    env = SyncVectorEnv([make])
    network = _Vectors(env.single_observation_space.shape[0], env.single_action_space.shape[0])  # type: ignore[index]
    return _program(env, network, _Settings(2048, 64, 10, 0.2, 0.0, 3e-4), steps)


def bare_ppo_cart_pole(steps: int) -> Callable[[], None]:
    """Returns a program that makes ``steps`` steps: whole rollouts of 4 x 128."""
    env = SyncVectorEnv([lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1"))] * 4)
    network = _Choices(env.single_observation_space.shape[0], int(env.single_action_space.n))  # type: ignore[index, attr-defined]
    return _program(env, network, _Settings(128, 128, 4, 0.2, 0.01, 2.5e-4), steps)


def _program(env: Any, network: nn.Module, settings: _Settings, steps: int) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate, eps=1e-5)
    state = [torch.as_tensor(env.reset(seed=0)[0]), torch.zeros(env.num_envs)]

    def program() -> None:
        for _ in range(max(1, steps // (settings.steps * env.num_envs))):
            _learn(network, optimizer, settings, *_rollout(env, network, settings.steps, state))

    return program


def _rollout(env: Any, network: nn.Module, steps: int, state: list[Tensor]) -> tuple[Tensor, ...]:
    """Returns observations, actions, log-probabilities, advantages and values, rows T x N; ``state`` is updated."""
    columns: list[list[Tensor]] = [[] for _ in range(6)]
    for _ in range(steps):
        observations, begins = state
        with torch.no_grad():
            policy, values = network(observations.float())
            actions = policy.sample()
            log_probs = _total(policy.log_prob(actions))
        following, rewards, terminated, truncated, _ = env.step(actions.numpy())
        row = (observations, actions, log_probs, values, torch.as_tensor(rewards, dtype=torch.float32), begins)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        state[:] = torch.as_tensor(following), torch.as_tensor(np.logical_or(terminated, truncated), dtype=torch.float32)
    observed, acted, log_prob, value, reward, begun = (torch.stack(column) for column in columns)
    with torch.no_grad():
        last = network(state[0].float())[1]
    advantages, running = torch.zeros_like(reward), torch.zeros_like(last)
    for step in reversed(range(steps)):
        going = 1 - (state[1] if step == steps - 1 else begun[step + 1])
        after = last if step == steps - 1 else value[step + 1]
        running = reward[step] + _DISCOUNT * after * going - value[step] + _DISCOUNT * _TRACE * going * running
        advantages[step] = running
    return tuple(column.flatten(0, 1) for column in (observed, acted, log_prob, advantages, value))


def _learn(network: nn.Module, optimizer: torch.optim.Optimizer, settings: _Settings, *columns: Tensor) -> None:
    numbers = np.arange(len(columns[0]))
    for _ in range(settings.epochs):
        np.random.shuffle(numbers)  # noqa: NPY002 (as scripts do)
        for start in range(0, len(numbers), settings.minibatch):
            rows = numbers[start : start + settings.minibatch]
            loss = _loss(network, settings, *(column[rows] for column in columns))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()


def _loss(
    network: nn.Module, settings: _Settings, observed: Tensor, acted: Tensor, old: Tensor, advantages: Tensor, values: Tensor
) -> Tensor:
    policy, now = network(observed.float())
    returns = advantages + values
    ratio = (_total(policy.log_prob(acted)) - old).exp()
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    surrogate = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - settings.clip, 1 + settings.clip)).mean()
    near = values + (now - values).clamp(-settings.clip, settings.clip)
    error = torch.max((now - returns).square(), (near - returns).square()).mean() / 2
    loss: Tensor = surrogate - settings.entropy * _total(policy.entropy()).mean() + 0.5 * error
    return loss


def _total(values: Tensor) -> Tensor:
    return values.sum(1) if values.ndim > 1 else values


def _tanh(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    hidden = nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
    return nn.Sequential(*hidden, nn.Linear(width, outputs))
