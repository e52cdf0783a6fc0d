"""Every agent solves what takes seconds: copying its observation, and an endless stream of ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.dqn.agent import DQNSettings
from plasticity.agents.factory import build_agent
from plasticity.agents.parts import PartBuilder
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.agents.sac.agent import SACSettings
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings

BuildPart = Callable[..., PartBuilder]
STATES, LENGTH = 4, 100
DISCRETE = Problem("environment", STATES, True, False)
TANH = MLPSpec(widths=[64, 64], activations=["tanh"], initialiser="orthogonal")


class Identity:
    """Pays 1 for the action that equals the state, one of 4 or, within 0.5, a number in (-1, 1); a new state at every step."""

    def __init__(self, discrete: bool, seed: int) -> None:
        self.discrete, self.generator = discrete, torch.Generator().manual_seed(seed)
        self.steps = 0
        self.state = self.draw()

    def draw(self, count: int = 1) -> Tensor:
        if self.discrete:
            return torch.randint(STATES, (count,), generator=self.generator)
        return torch.rand(count, generator=self.generator) * 2 - 1

    @property
    def observation(self) -> Tensor:
        return torch.eye(STATES)[self.state] if self.discrete else self.state.unsqueeze(1)

    def paid(self, actions: Tensor) -> Tensor:
        return actions == self.state if self.discrete else (actions.squeeze(1) - self.state).abs() <= 0.5

    def advance(self, act: Callable[[Tensor], Tensor]) -> Experience:
        observation, actions = self.observation, act(self.observation)
        paid = self.paid(actions)
        self.steps += 1
        self.state = self.draw()
        no = torch.tensor([False])
        end = torch.tensor([self.steps % LENGTH == 0])
        return Experience(Transitions(observation, actions, paid.float(), no, end, self.observation), 0)

    def returns(self, act: Callable[[Tensor], Tensor], episodes: int = 20) -> float:
        """Mean return of greedy episodes, all of whose steps are taken at once: no state depends on an action."""
        self.state = self.draw(episodes * LENGTH)
        return float(self.paid(act(self.observation)).sum()) / episodes


def learn_identity(agent: Any, discrete: bool, steps: int) -> float:
    environment = Identity(discrete, 3)
    for _ in range(steps):
        agent.learn(environment.advance(agent.act))
    return Identity(discrete, 4).returns(agent.greedy)


# Identity


# The tests of DQN alone show the first three to learn both actions and values.
@pytest.mark.parametrize(
    "loss",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("squared", "huber", "two_hot")), "hl_gauss", "categorical"],
)
def test_dqn_and_c51_copy_a_state(builder: BuildPart, loss: str) -> None:
    settings = DQNSettings(
        discount=0.4,
        loss=loss,
        bins=21,
        buffer_transitions=1200,
        warmup_env_steps=50,
        target_every_updates=50,
        epsilon_env_steps=600,
        env_steps_per_update=2,
    )
    part = builder(seed=3, inputs=(STATES,), spec=MLPSpec(widths=[64]), optimizer=OptimizerSettings(learning_rate=2e-3))
    assert learn_identity(build_agent("dqn", settings, DISCRETE, part), True, 1200) >= 90


# Plain values of both torsos are learned below, with numbers for actions.
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"shared_torso": True}, marks=pytest.mark.slow),
        {"value_loss": "hl_gauss"},
        {"shared_torso": True, "value_loss": "two_hot"},
    ],
    ids=str,
)
def test_ppo_copies_a_state(builder: BuildPart, settings: dict[str, Any]) -> None:
    chosen = PPOSettings(rollout_steps=128, epochs=6, discount=0.4, bins=31, value_low=-1.0, value_high=2.0, **settings)
    part = builder(seed=3, inputs=(STATES,), spec=TANH, optimizer=OptimizerSettings(learning_rate=2e-3, max_gradient_norm=0.5))
    assert learn_identity(build_agent("ppo", chosen, DISCRETE, part), True, 1280) >= 90


CONTINUOUS = Problem("environment", 1, False, False, (-1.0,), (1.0,))


# The categorical critics are shown to learn right values at the end of this file.
@pytest.mark.parametrize("settings", [{}, pytest.param({"value_loss": "hl_gauss"}, marks=pytest.mark.slow)], ids=str)
def test_sac_copies_a_number(builder: BuildPart, settings: dict[str, Any]) -> None:
    chosen = SACSettings(
        discount=0.5,
        batch_size=64,
        buffer_transitions=800,
        warmup_env_steps=100,
        target_step_size=0.02,
        initial_temperature=0.1,
        temperature_learning_rate=2e-3,
        bins=31,
        value_low=-2.0,
        value_high=4.0,
        **settings,
    )
    part = builder(seed=3, inputs=(1,), spec=MLPSpec(widths=[64, 64]), optimizer=OptimizerSettings(learning_rate=2e-3))
    assert learn_identity(build_agent("sac", chosen, CONTINUOUS, part), False, 500) >= 90


@pytest.mark.parametrize("shared", [False, True])
def test_ppo_copies_a_number(builder: BuildPart, shared: bool) -> None:
    chosen = PPOSettings(rollout_steps=256, discount=0.4, shared_torso=shared)
    part = builder(seed=3, inputs=(1,), spec=TANH, optimizer=OptimizerSettings(learning_rate=2e-3, max_gradient_norm=0.5))
    assert learn_identity(build_agent("ppo", chosen, CONTINUOUS, part), False, 2048) >= 90


# An endless stream of ones


def learn_from_ones(agent: Any, end: str, steps: int) -> None:
    """Learns from rewards of 1, cut every 8 steps in four copies; an observation is a constant and noise."""
    generator = torch.Generator().manual_seed(0)
    count = 4

    def observe() -> Tensor:
        return torch.cat([torch.ones(count, 1), torch.rand(count, 1, generator=generator)], dim=1)

    observations, no = observe(), torch.zeros(count, dtype=torch.bool)
    for step in range(1, steps + 1):
        ends = no if step % 8 else ~no
        terminated, truncated = (no, ends) if end == "truncated" else (ends, no)
        following = observe()
        batch = Transitions(observations, agent.act(observations), torch.ones(count), terminated, truncated, following)
        agent.learn(Experience(batch, 0))
        observations = following


def value_of_ones(builder: BuildPart, end: str, shared: bool) -> float:
    """PPO's value after learning from rewards of 1, cut every 8 steps."""
    settings = PPOSettings(
        rollout_steps=16, minibatch_size=64, epochs=10, discount=0.9, trace_decay=0.95, clip_value=None, shared_torso=shared
    )
    part = builder(inputs=(2,), spec=MLPSpec(widths=[16]), optimizer=OptimizerSettings(learning_rate=0.01))
    agent = PPO(settings, 2, True, part)
    learn_from_ones(agent, end, 16 * 40)
    return agent._values(torch.tensor([[1.0, 0.5]])).item()


@pytest.mark.parametrize("shared", [False, True])
def test_a_value_continues_after_a_truncation(builder: BuildPart, shared: bool) -> None:
    assert value_of_ones(builder, "truncated", shared) == pytest.approx(10.0, abs=0.2)  # 1 / (1 - 0.9)


def test_a_value_stops_at_a_terminal(builder: BuildPart) -> None:
    # With one step in eight terminal, and lambda between Monte Carlo's mean of 1..8 rewards and v = 1 + 0.9 (7/8) v, 4.7.
    assert value_of_ones(builder, "terminated", False) < 6.0


@pytest.mark.parametrize("value_loss", ["squared", "hl_gauss"])
@pytest.mark.parametrize(("end", "least", "most"), [("truncated", 9.6, 10.4), ("terminated", 0.0, 6.0)])
def test_sacs_critics_continue_after_a_truncation_and_stop_at_a_terminal(
    builder: BuildPart, end: str, least: float, most: float, value_loss: str
) -> None:
    settings = SACSettings(
        discount=0.9,
        batch_size=64,
        buffer_transitions=2000,
        warmup_env_steps=200,
        target_step_size=0.3,
        initial_temperature=1e-4,
        temperature_learning_rate=0.0,
        value_loss=value_loss,
        bins=41,
        value_low=0.0,
        value_high=16.0,
    )
    part = builder(inputs=(2,), spec=MLPSpec(widths=[16]), optimizer=OptimizerSettings(learning_rate=0.01))
    agent: Any = build_agent("sac", settings, CONTINUOUS, part)
    learn_from_ones(agent, end, 150)
    critic = agent.critic
    values = critic.network.decode(critic.infer(torch.tensor([[1.0, 0.5, 0.0]]), critic.network))
    assert values.shape == (1, 2)
    assert bool(((least <= values) & (values <= most)).all())
