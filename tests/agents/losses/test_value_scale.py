"""Agents that learn normalised values: order, loss, targets, and worlds in which rewards are large."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.dqn.agent import DQN, DQNSettings
from plasticity.agents.factory import build_agent
from plasticity.agents.losses.value_scale import ValueScale
from plasticity.agents.parts import PartBuilder
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.agents.sac.agent import SAC, SACSettings
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.heads.pop_art import pop_art_heads
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings

BuildPart = Callable[..., PartBuilder]
SCALE = 1000.0


def transitions(agent: Any, index: int, count: int = 6) -> Experience:
    generator = torch.Generator().manual_seed(index)
    observations, following = (torch.randn(count, 4, generator=generator) for _ in range(2))
    no = torch.zeros(count, dtype=torch.bool)
    return Experience(
        Transitions(observations, agent.act(observations), 300 + 50 * torch.randn(count, generator=generator), no, no, following),
        0,
    )


def dqn(builder: BuildPart, **settings: Any) -> DQN:
    chosen = {"loss": "pop_art", "batch_size": 8, "warmup_env_steps": 0, "buffer_transitions": 100, "pop_art_decay": 0.1}
    agent = build_agent("dqn", DQNSettings(**(chosen | settings)), Problem("environment", 3, True, False), builder())
    assert isinstance(agent, DQN)
    return agent


def test_targets_and_loss_by_hand(builder: BuildPart) -> None:
    # Values are w x + b = 0 at first. Targets 10 and 30 at step size 0.5: mu = 10, nu = (1 + 500) / 2, sigma^2 = 150.5.
    part = builder(spec=MLPSpec(widths=[]), inputs=(1,))("critic", HeadSpec("value", 1, pop_art=True))
    part.network.load_state_dict(
        part.network.state_dict() | {"head.linear.weight": torch.zeros(1, 1), "head.linear.bias": torch.zeros(1)}
    )
    scale, targets = ValueScale(part, 0.5), torch.tensor([10.0, 30.0])
    scaled = scale.normalise(targets)
    deviation = 150.5**0.5
    assert scaled.tolist() == pytest.approx([0.0, 20 / deviation])
    outputs = part.network(torch.zeros(2, 1)).squeeze(1)
    assert outputs.tolist() == pytest.approx([-10 / deviation] * 2)  # which still stand for 0
    # Squared errors of normalised values are those of the values divided by sigma^2.
    assert (outputs - scaled).square().tolist() == pytest.approx([100 / 150.5, 900 / 150.5])
    measures = scale.measures(targets)
    assert {name: float(value) for name, value in measures.items()} == pytest.approx(
        {"train/target_value": 20.0, "train/value_mean": 10.0, "train/value_deviation": deviation}
    )


def test_without_pop_art_nothing_is_touched(builder: BuildPart) -> None:
    part = builder()("critic", HeadSpec("value", 1))
    scale, targets = ValueScale(part, 0.5), torch.tensor([10.0, 30.0])
    assert scale.normalise(targets) is targets
    assert scale.measures(targets) == {}


def test_dqn_bootstraps_from_values_and_learns_from_normalised_targets(
    builder: BuildPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = dqn(builder, target_every_updates=3, double=True)
    seen: list[tuple[Tensor, Tensor, list[float]]] = []
    update = agent.q.update

    def recording(objective: Any, batch: Any) -> Any:
        head = pop_art_heads(agent.q.network)[0]
        seen.append((batch.targets, agent.q.network.decode(agent.q.network(batch.inputs)), [float(head.mean)]))
        return update(objective, batch)

    monkeypatch.setattr(agent.q, "update", recording)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(9))
    for index in range(4):
        before = agent.q.network.decode(agent.q.network(inputs))
        logs = agent.learn(transitions(agent, index, count=1))
        assert {"train/target_value", "train/value_mean", "train/value_deviation"} <= logs.keys()
        assert float(logs["train/target_value"]) > 200  # as it is, not normalised
        assert float(seen[-1][0].abs().max()) < 10
        if index == 2:  # the target was copied, moments and all
            state, target = agent.q.network.state_dict(), agent.target.state_dict()
            assert all(torch.equal(state[name], target[name]) for name in state)
        assert not torch.equal(agent.q.network.decode(agent.q.network(inputs)), before)
    assert pop_art_heads(agent.target)[0].mean < pop_art_heads(agent.q.network)[0].mean


def test_sacs_targets_have_the_moments_of_the_critics_and_their_own_values(builder: BuildPart) -> None:
    settings = SACSettings(value_loss="pop_art", batch_size=8, warmup_env_steps=0, buffer_transitions=100, pop_art_decay=0.1)
    agent = build_agent("sac", settings, Problem("environment", 2, False, False, (-1.0, -1.0), (1.0, 1.0)), builder())
    assert isinstance(agent, SAC)
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(9))

    def values(network: Any) -> Tensor:
        return network.decode(network(inputs)).detach()

    for index in range(6):
        agent.settings.target_step_size = 0.0  # then targets keep their values, however the moments change
        before = values(agent.target)
        agent.learn(transitions(agent, index, count=1))
        torch.testing.assert_close(values(agent.target), before, rtol=1e-4, atol=1e-4)
        own, target = pop_art_heads(agent.critic.network), pop_art_heads(agent.target)
        assert {float(head.deviation) for head in (*own, *target)} == {float(own[0].deviation)}
        assert float(own[0].mean) > 10
    agent.settings.target_step_size = 1.0
    agent.learn(transitions(agent, 7, count=1))
    torch.testing.assert_close(values(agent.target), values(agent.critic.network))


@pytest.mark.parametrize("shared", [False, True])
def test_ppo_clips_and_learns_in_deviations(builder: BuildPart, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PPOSettings(
        rollout_steps=4, minibatch_size=12, epochs=2, shared_torso=shared, value_loss="pop_art", pop_art_decay=0.5
    )
    agent = build_agent("ppo", settings, Problem("environment", 3, True, False), builder())
    assert isinstance(agent, PPO)
    part = agent.parts["actor_critic" if shared else "critic"]
    seen: list[Any] = []
    update = part.update
    monkeypatch.setattr(part, "update", lambda objective, batch: (seen.append(batch), update(objective, batch))[1])
    for index in range(3):
        agent.learn(transitions(agent, index))
    logs = agent.learn(transitions(agent, 3))
    assert len(seen) == 4
    head = pop_art_heads(part.network)[0]
    # The old value was about 0 and the returns about 300 and more; in deviations both are of the order of 1.
    assert all(float(batch.values.abs().max()) < 5 and float(batch.returns.abs().max()) < 5 for batch in seen)
    assert float(head.mean) > 100
    assert torch.as_tensor(logs["train/target_value"]).min() > 200
    means = torch.as_tensor(logs["train/value_mean"])
    assert bool((means.diff() > 0).all())  # which took in every minibatch's returns
    assert len(means) == 4


def test_averages_of_weights_are_refused(builder: BuildPart) -> None:
    part = builder({"hare_and_tortoise": INTERVENTIONS["hare_and_tortoise"]})
    with pytest.raises(ValueError, match=r"^hare_and_tortoise averages weights that stand for other values"):
        build_agent("dqn", DQNSettings(loss="pop_art"), Problem("environment", 3, True, False), part)


def test_two_last_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^agent.loss=pop_art rescales one last map"):
        DQNSettings(loss="pop_art", dueling=True)


class LargeIdentity:
    """Pays 1000 for the action that equals the state, one of 4; a new state at every step."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state = torch.randint(4, (1,), generator=self.generator)

    def advance(self, act: Callable[[Tensor], Tensor]) -> Experience:
        observation = torch.eye(4)[self.state]
        actions = act(observation)
        paid = SCALE * (actions == self.state).float()
        self.state = torch.randint(4, (1,), generator=self.generator)
        no = torch.tensor([False])
        return Experience(Transitions(observation, actions, paid, no, no, torch.eye(4)[self.state]), 0)

    def hits(self, act: Callable[[Tensor], Tensor]) -> float:
        return sum(float(self.advance(act).batch.rewards) for _ in range(200)) / (200 * SCALE)  # type: ignore[union-attr]


def test_dqn_copies_a_state_for_a_thousand(builder: BuildPart) -> None:
    """The values too are right: 1000 for a hit and 400 / 0.6 for what follows; plain squared errors do not get there in time."""
    found = {}
    for loss in ("pop_art", "squared"):
        settings = DQNSettings(
            discount=0.4,
            loss=loss,
            pop_art_decay=0.01,
            buffer_transitions=1200,
            warmup_env_steps=50,
            target_every_updates=50,
            epsilon_env_steps=600,
            env_steps_per_update=2,
        )
        part = builder(seed=3, inputs=(4,), spec=MLPSpec(widths=[64]), optimizer=OptimizerSettings(learning_rate=2e-3))
        agent = build_agent("dqn", settings, Problem("environment", 4, True, False), part)
        assert isinstance(agent, DQN)
        world = LargeIdentity(3)
        for _ in range(1200):
            agent.learn(world.advance(agent.act))
        values = agent.q.network.decode(agent.q.predict(torch.eye(4)))
        found[loss] = LargeIdentity(4).hits(agent.greedy), float((values.max(1).values - SCALE / 0.6).abs().mean())
    assert found["pop_art"][0] >= 0.95
    assert found["pop_art"][1] < 0.15 * SCALE / 0.6
    assert found["squared"][1] > 0.3 * SCALE / 0.6
