from collections.abc import Callable
from typing import Any

import pytest
import torch

from plasticity.agents.dqn.agent import DQN, DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.envs.experience import Experience, Transitions
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings

BuildPart = Callable[..., PartBuilder]
ENVIRONMENTS = 4


def observed(states: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.eye(3)[states] + 0.2 * torch.randn(states.shape[0], 3, generator=generator)


@pytest.mark.parametrize("settings", [{"loss": "squared"}, {"loss": "huber"}, {"loss": "two_hot"}, {"double": True}])
def test_learns_which_action_each_state_pays(builder: BuildPart, settings: dict[str, Any]) -> None:
    # State s pays 1 for action (s + 1) mod 3; the next state is random. Optimal values: V = 1 / (1 - 0.5) = 2, and
    # Q = 1 + 0.5 * 2 = 2 for the right action, 0 + 0.5 * 2 = 1 for the others.
    chosen = {"discount": 0.5, "target_every_updates": 25, "epsilon_env_steps": 1000, "warmup_env_steps": 100} | settings
    part = builder(inputs=(3,), spec=MLPSpec(widths=[32]), optimizer=OptimizerSettings(learning_rate=0.005))
    agent = DQN(DQNSettings(env_steps_per_update=2, bins=21, **chosen), 3, part)
    generator = torch.Generator().manual_seed(0)
    states = torch.randint(3, (ENVIRONMENTS,), generator=generator)
    observations = observed(states, generator)
    no = torch.zeros(ENVIRONMENTS, dtype=torch.bool)
    for _ in range(2000 // ENVIRONMENTS):
        actions = agent.act(observations)
        rewards = (actions == (states + 1) % 3).float()
        states = torch.randint(3, (ENVIRONMENTS,), generator=generator)
        following = observed(states, generator)
        agent.learn(Experience(Transitions(observations, actions, rewards, no, no, following), 0))
        observations = following
    states = torch.arange(3).repeat(100)
    inputs = observed(states, generator)
    right = (states + 1) % 3
    assert (agent.greedy(inputs) == right).float().mean() > 0.85
    values = agent.q.network.head.decode(agent.q.predict(torch.eye(3)))
    assert values.gather(1, ((torch.arange(3) + 1) % 3).unsqueeze(1)).mean().item() == pytest.approx(2.0, abs=0.3)
    assert values.gather(1, torch.arange(3).unsqueeze(1)).mean().item() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("end", "expected", "tolerance"),
    [
        ("truncated", 10.0, 0.2),  # cut every 8 steps, yet the sum continues: 1 / (1 - 0.9)
        ("terminated", 1 / (1 - 0.9 * 7 / 8), 1.0),  # one step in eight ends it: v = 1 + 0.9 * (7/8) v; noisier targets
    ],
)
def test_value_of_an_endless_stream_of_ones(builder: BuildPart, end: str, expected: float, tolerance: float) -> None:
    part = builder(inputs=(2,), spec=MLPSpec(widths=[16]), optimizer=OptimizerSettings(learning_rate=0.01))
    settings = DQNSettings(
        discount=0.9, batch_size=64, target_every_updates=12, warmup_env_steps=200, behaviour="uniform", env_steps_per_update=1
    )
    agent = DQN(settings, 2, part)
    generator = torch.Generator().manual_seed(0)

    def observe() -> torch.Tensor:
        return torch.cat([torch.ones(1, 1), torch.rand(1, 1, generator=generator)], dim=1)

    observations = observe()
    for step in range(1, 1200):
        ends = torch.tensor([step % 8 == 0])
        truncated, terminated = (ends, ~ends & ends) if end == "truncated" else (~ends & ends, ends)
        following = observe()
        actions = agent.act(observations)
        agent.learn(Experience(Transitions(observations, actions, torch.ones(1), terminated, truncated, following), 0))
        observations = observe() if bool(ends) else following
    values = agent.q.network.head.decode(agent.q.predict(torch.tensor([[1.0, 0.5]]))).amax(1)
    assert values.item() == pytest.approx(expected, abs=tolerance)
