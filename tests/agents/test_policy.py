"""Policies as evaluation asks for them: greedy or sampled, by the caller's generator alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.agents.agent import Policy
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = {
    "dqn": ["env=catch"],
    "ppo_discrete": ["agent=ppo", "env=catch"],
    "ppo_continuous": ["agent=ppo", "env=gym", "env.id=plasticity/ContinuousIdentity-v0"],
    "ppo_shared": ["agent=ppo", "env=catch", "agent.shared_torso=true"],
    "sac": ["agent=sac", "env=gym", "env.id=plasticity/ContinuousIdentity-v0", "agent.warmup_env_steps=0"],
}


def built(name: str) -> tuple[Any, torch.Tensor]:
    assembly = assemble(plan_from(compose_config([*WORDS[name], "network.widths=[8]"], CONFIGS)))
    inputs = torch.rand(64, *assembly.stream.input_shape, generator=torch.Generator().manual_seed(0))
    return assembly.agent, inputs


@pytest.mark.parametrize("name", WORDS)
def test_sampling_depends_on_the_given_generator_alone(name: str) -> None:
    agent, inputs = built(name)
    assert isinstance(agent, Policy)
    before, global_state = agent.state_dict(), torch.get_rng_state()
    first, again, other = (agent.sampled(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    agent.greedy(inputs)
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "dqn")
    assert torch.equal(global_state, torch.get_rng_state())
    for key in ("acting", "exploration", "generators"):
        if key in before:
            now, then = agent.state_dict()[key], before[key]
            pairs = zip(now, then, strict=True) if isinstance(now, list) else [(now, then)]
            assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", [name for name in WORDS if name != "dqn"])
def test_acting_samples_with_the_agent_s_own_generator(name: str) -> None:
    agent, inputs = built(name)
    twin = torch.Generator()
    twin.set_state(agent._acting.get_state())
    assert torch.equal(agent.act(inputs), agent.sampled(inputs, twin))


def test_a_discrete_policy_is_sampled_in_its_proportions_and_greedy_takes_the_likeliest() -> None:
    agent, inputs = built("ppo_discrete")
    with torch.no_grad():
        agent.parts["actor"].network.tensor("head.linear.bias").copy_(torch.tensor([0.0, 1.0, 2.0]))
        agent.parts["actor"].network.tensor("head.linear.weight").zero_()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([agent.sampled(inputs, generator) for _ in range(100)])
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 2.0]).softmax(0), atol=0.02, rtol=0)
    assert agent.greedy(inputs).tolist() == [2] * 64


def test_a_continuous_policy_is_sampled_around_its_mean() -> None:
    agent, inputs = built("ppo_continuous")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([agent.sampled(inputs, generator) for _ in range(2000)])
    torch.testing.assert_close(drawn.mean(0), agent.greedy(inputs), atol=0.12, rtol=0)
    assert drawn.std(0).min() > 0.5


def test_an_agent_without_a_stochastic_policy_samples_what_it_values_most() -> None:
    agent, inputs = built("dqn")
    assert torch.equal(agent.sampled(inputs, torch.Generator()), agent.greedy(inputs))
