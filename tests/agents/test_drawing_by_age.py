"""Agents that draw from their replay by age."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.agents.agent import Agent
from plasticity.agents.dqn.agent import DQN
from plasticity.agents.dqn.settings import DQNSettings
from plasticity.agents.factory import build_agent
from plasticity.agents.parts import PartBuilder
from plasticity.agents.replay.age_weights import age_weights
from plasticity.agents.sac.agent import SACSettings
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.interventions.methods.sample_weight_decay import SampleWeightDecay
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).parents[2] / "configs"
BuildPart = Callable[..., PartBuilder]
REPLAY: dict[str, Any] = {"batch_size": 8, "warmup_env_steps": 6, "env_steps_per_update": 2, "buffer_transitions": 40}
CONTINUOUS = Problem("environment", 2, False, False, (-1.0, -1.0), (1.0, 1.0))


def build(builder: BuildPart, treated: bool = True, kind: str = "dqn", seed: int = 0, **settings: Any) -> Agent:
    methods = {"sample_weight_decay": lambda: SampleWeightDecay(**settings)} if treated else {}
    part = builder(methods, seed)
    return DQN(DQNSettings(**REPLAY), 3, part) if kind == "dqn" else build_agent("sac", SACSettings(**REPLAY), CONTINUOUS, part)


def run(agent: Agent, first: int, count: int) -> list[Any]:
    seen: list[Any] = []
    for index in range(first, first + count):
        generator = torch.Generator().manual_seed(index)
        observations, following = torch.randn(2, 3, 4, generator=generator)
        ends = torch.rand(3, generator=generator) < 0.2
        actions = agent.act(observations)
        batch = Transitions(observations, actions, torch.randn(3, generator=generator), ends, ~ends, following)
        seen += [actions, agent.learn(Experience(batch, 0))]
    return seen


def test_an_agent_learns_from_newer_transitions(builder: BuildPart) -> None:
    """Three environments, 40 transitions held, T = 12: weights 1, 0.75, 0.5, 0.25 of the last four steps, and then 0.1."""
    agent = build(builder, decay_env_steps=12)
    assert isinstance(agent, DQN)
    run(agent, 0, 30)
    rows = agent.replay.sample(20_000, torch.Generator().manual_seed(0), 0.0).rows
    newer = (90 - 1 - rows) % 40
    weights = [max(0.1, 1 - newer // 3 * 3 / 12) for newer in range(40)]
    share = sum(weights[:12]) / sum(weights)
    assert float((newer < 12).double().mean()) == pytest.approx(share, abs=0.012)  # three and a half deviations of 0.0034
    assert share > 0.7


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_without_strength_it_is_absent(kind: str, builder: BuildPart, same: Any) -> None:
    plain, treated = build(builder, False, kind), build(builder, True, kind, smallest_weight=1.0)
    assert same(run(plain, 0, 12), run(treated, 0, 12))
    acting = build(builder, True, kind, decay_env_steps=5)
    assert not same(run(build(builder, False, kind), 0, 12), run(acting, 0, 12))


@pytest.mark.parametrize("kind", ["dqn", "sac"])
def test_resuming_equals_going_on(kind: str, builder: BuildPart, same: Any, through_disk: Any) -> None:
    whole = build(builder, True, kind, decay_env_steps=9)
    run(whole, 0, 17)  # beyond the 40 that are held
    resumed = build(builder, True, kind, seed=4, decay_env_steps=9)
    resumed.load_state_dict(through_disk(whole.state_dict()))
    assert same(run(whole, 17, 8), run(resumed, 17, 8))
    assert same(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("parts", [[], ["actor"], ["critic"]])
def test_parts_that_learn_from_the_same_samples_weigh_them_once(parts: list[str], builder: BuildPart) -> None:
    agent = build(builder, True, "sac", decay_env_steps=4, parts=parts)
    weights = age_weights(agent.parts.values())
    assert weights is not None
    assert weights.weights(torch.arange(4, dtype=torch.float64)).tolist() == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["agent=ppo"],
            r"^sample_weight_decay sets what is drawn from a replay, and agent=ppo has none .*; choose agent=dqn or ",
        ),
        (["agent=supervised", "env=permuted_pixels"], r"^sample_weight_decay sets what .* and agent=supervised has none"),
        (["agent=rainbow"], r"^sample_weight_decay draws transitions by age, and agent\.prioritised=true by priority"),
    ],
)
def test_agents_that_cannot_draw_by_age_refuse_it(words: list[str], message: str) -> None:
    plan = plan_from(compose_config([*words, "intervention=sample_weight_decay", "threads=1"], CONFIGS))
    with pytest.raises(ValueError, match=message):
        assemble(plan)
