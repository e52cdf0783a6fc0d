"""Rainbow: each of its parts by hand in the agent, and all of them together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from plasticity.agents.dqn.agent import DQN, TargetBatch
from plasticity.agents.dqn.settings import DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.agents.replay.buffer import ReplayBatch
from plasticity.agents.replay.priorities import PrioritisedReplay
from plasticity.envs.experience import Experience, Transitions
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec

BuildPart = Callable[..., PartBuilder]
SMALL: dict[str, Any] = {
    "batch_size": 4,
    "buffer_transitions": 50,
    "warmup_env_steps": 0,
    "loss": "categorical",
    "bins": 5,
    "value_low": -2.0,
    "value_high": 2.0,
}
RAINBOW: dict[str, Any] = {
    **SMALL,
    "double": True,
    "dueling": True,
    "stream_widths": [4],
    "noise_deviation": 0.5,
    "n_step": 3,
    "epsilon_start": 0.0,
    "epsilon_end": 0.0,
    "prioritised": True,
}


def agent_of(builder: BuildPart, settings: dict[str, Any], **part: Any) -> DQN:
    return DQN(DQNSettings(**settings), 3, builder(**part))


def step(index: int, count: int = 1, reward: float = 1.0) -> Experience:
    generator = torch.Generator().manual_seed(index)
    states, following = torch.randn(2, count, 4, generator=generator)
    no = torch.zeros(count, dtype=torch.bool)
    return Experience(Transitions(states, torch.full((count,), index % 3), torch.full((count,), reward), no, no, following), 0)


def chain(agent: DQN, rewards: list[float], ends: list[int] | None = None) -> None:
    """Feeds one episode, in which an observation is the one that the step before led to."""
    for index, reward in enumerate(rewards):
        here, there = torch.full((1, 4), float(index)), torch.full((1, 4), float(index + 1))
        end = torch.tensor([index in (ends or [])])
        no = torch.tensor([False])
        agent.learn(Experience(Transitions(here, torch.tensor([0]), torch.tensor([reward]), end, no, there), 0))


# Several steps


def test_targets_of_several_steps_by_hand(builder: BuildPart) -> None:
    settings = {**SMALL, "loss": "squared", "n_step": 3, "discount": 0.5, "warmup_env_steps": 1000}
    agent = agent_of(builder, settings, spec=MLPSpec(widths=[]))
    with torch.no_grad():
        agent.target.tensor("head.linear.weight").zero_()
        agent.target.tensor("head.linear.bias").copy_(torch.tensor([8.0, 80.0, 16.0]))
    chain(agent, [1.0, 2.0, 4.0, 8.0], ends=[3])
    assert not isinstance(agent.replay, PrioritisedReplay)
    batch = agent.replay.batch(torch.arange(4))
    # 1 + 2/2 + 4/4 + 80/8; 2 + 4/2 + 8/4, terminal; 4 + 8/2, terminal; 8, terminal
    assert agent._targets(batch).tolist() == [13.0, 6.0, 8.0, 8.0]


def test_categorical_targets_of_several_steps_by_hand(builder: BuildPart) -> None:
    settings = {**SMALL, "bins": 3, "value_low": 0.0, "value_high": 2.0, "discount": 0.5}
    agent = agent_of(builder, settings, spec=MLPSpec(widths=[]))
    with torch.no_grad():
        agent.target.tensor("head.linear.weight").zero_()
        agent.target.tensor("head.linear.bias").fill_(-1e4)
        agent.target.tensor("head.linear.bias")[[0, 3, 8]] = 0.0  # values 0, 0 and 2
    states = torch.zeros(1, 4)
    discount = torch.tensor([0.125])
    batch = ReplayBatch(states, torch.tensor([0]), torch.tensor([1.25]), torch.tensor([False]), states, discount)
    assert agent._targets(batch).tolist() == [[0.0, 0.5, 0.5]]  # 1.25 + 0.125 * 2 = 1.5


# Priorities and weights


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("squared", [3.0, 1.0]), ("huber", [3.0, 1.0])],  # absolute errors
)
def test_priorities_of_scalar_values_are_absolute_errors(builder: BuildPart, loss: str, expected: list[float]) -> None:
    agent = agent_of(builder, {**SMALL, "loss": loss, "prioritised": True})
    outputs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    batch = TargetBatch(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([4.0, 4.0]), torch.ones(2), torch.zeros(2, 4))
    assert agent._loss(outputs, batch)[1]["priorities"].tolist() == expected


def test_priorities_of_categorical_values_are_cross_entropies_up_to_100(builder: BuildPart) -> None:
    agent = agent_of(builder, {**SMALL, "bins": 2, "prioritised": True})
    outputs = torch.tensor([[[0.0, 0.0]] * 3, [[0.0, 500.0]] * 3])
    targets = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    batch = TargetBatch(torch.zeros(2, 4), torch.tensor([0, 1]), targets, torch.ones(2), torch.zeros(2, 4))
    assert agent._loss(outputs, batch)[1]["priorities"].tolist() == pytest.approx([0.693147, 100.0], abs=1e-5)


def test_the_loss_is_the_mean_of_weighted_errors(builder: BuildPart) -> None:
    agent = agent_of(builder, {**SMALL, "loss": "squared", "prioritised": True})
    outputs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    batch = TargetBatch(
        torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([4.0, 4.0]), torch.tensor([0.5, 1.0]), torch.zeros(2, 4)
    )
    assert agent._loss(outputs, batch)[0].item() == (0.5 * 9 + 1.0 * 1) / 2


def test_an_update_writes_the_priorities_of_what_was_drawn(builder: BuildPart) -> None:
    agent = agent_of(builder, {**SMALL, "loss": "squared", "prioritised": True, "batch_size": 8, "priority_exponent": 1.0})
    for index in range(8):
        agent.learn(step(index))
    assert isinstance(agent.replay, PrioritisedReplay)
    priorities = agent.replay.priorities
    read = priorities.tree.read(torch.arange(8))
    assert len(set(read.tolist())) > 2  # no longer all the same
    assert float(priorities.largest) >= float(read.max())


def test_beta_rises_from_the_first_update(builder: BuildPart) -> None:
    settings = {**SMALL, "warmup_env_steps": 10, "importance_env_steps": 20, "importance_start": 0.4, "importance_end": 1.0}
    agent = agent_of(builder, settings)
    seen = []
    for agent.env_steps in (0, 10, 20, 30, 100):
        seen.append(agent.importance)
    assert seen == pytest.approx([0.4, 0.4, 0.7, 1.0, 1.0])


def test_unprioritised_updates_weigh_all_alike_and_log_no_priorities(builder: BuildPart) -> None:
    agent = agent_of(builder, SMALL)
    logs = [agent.learn(step(index)) for index in range(3)]
    assert all("priorities" not in entry for entry in logs)
    assert set(logs[-1]) == {"train/loss", "train/target_value"}


# Noise


def test_noise_explores_and_evaluation_is_without(builder: BuildPart) -> None:
    agent = agent_of(builder, {**RAINBOW, "noise_deviation": 3.0})
    state = torch.zeros(1, 4)
    acted = {int(agent.act(state)) for _ in range(60)}
    assert acted == {0, 1, 2}
    assert len({int(agent.greedy(state)) for _ in range(20)}) == 1


def test_every_forward_of_an_update_has_noise_of_its_own(builder: BuildPart) -> None:
    agent = agent_of(builder, {**RAINBOW, "warmup_env_steps": 20})
    for index in range(20):
        agent.learn(step(index))
    seen: list[torch.Tensor] = []
    for network in (agent.q.network, agent.target):
        layer = network.noisy_layers[0]
        layer.register_forward_hook(lambda module, args, output: seen.append(module.noise[0]))
    agent.learn(step(20))
    assert agent.q.steps == 1
    assert len(seen) == 3
    assert len({tuple(noise.tolist()) for noise in seen}) == 3
    assert all(layer.noise is None for layer in (*agent.q.network.noisy_layers, *agent.target.noisy_layers))


def test_deviations_are_learned(builder: BuildPart) -> None:
    agent = agent_of(builder, RAINBOW)
    before = {name: value.clone() for name, value in agent.q.network.named_parameters() if "deviation" in name}
    for index in range(10):
        agent.learn(step(index))
    after = dict(agent.q.network.named_parameters())
    assert before
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_noise_does_not_compile(builder: BuildPart) -> None:
    with pytest.raises(ValueError, match="compile=true does not work with noisy layers; choose compile=false"):
        agent_of(builder, RAINBOW, compile=True)


# Settings


def test_streams_need_a_dueling_head() -> None:
    with pytest.raises(ValueError, match=r"agent.stream_widths=\[8\] needs agent.dueling=true"):
        DQNSettings(stream_widths=[8])


@pytest.mark.parametrize("setting", ["priority_exponent", "importance_start", "importance_end", "priority_uniform_fraction"])
def test_shares_are_between_0_and_1(setting: str) -> None:
    with pytest.raises(ValueError, match=f"agent.{setting}=1.5 must be between 0 and 1"):
        DQNSettings(**{setting: 1.5})


# Frames


@pytest.mark.parametrize("prioritised", [False, True])
def test_stacked_frames_are_stored_once(builder: BuildPart, prioritised: bool) -> None:
    spec = ConvSpec(widths=[4], channels=[2])
    settings = {**SMALL, "prioritised": prioritised, "buffer_transitions": 400, "warmup_env_steps": 10_000}
    one, four = (
        DQN(DQNSettings(**settings), 3, builder(spec=spec, inputs=(4, 12, 12), dtype=torch.uint8), stack) for stack in (1, 4)
    )
    frames = torch.randint(0, 256, (204, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    no = torch.tensor([False])
    for index in range(200):
        here, there = frames[index : index + 4].unsqueeze(0), frames[index + 1 : index + 5].unsqueeze(0)
        for agent in (one, four):
            agent.learn(Experience(Transitions(here, torch.tensor([0]), torch.tensor([1.0]), no, no, there), 0))
    rows = torch.arange(0, 200, 7)
    stores = [agent.replay.replay if isinstance(agent.replay, PrioritisedReplay) else agent.replay for agent in (one, four)]
    for column, other in zip(stores[0].batch(rows), stores[1].batch(rows), strict=True):
        assert torch.equal(column, other)
    assert stores[1].bytes_held < 0.4 * stores[0].bytes_held
