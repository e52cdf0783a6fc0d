"""PPO's objectives by hand, and what it learns from."""

from collections.abc import Callable
from math import exp, log, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.agent import learn_from
from plasticity.agents.parts import PartBuilder
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.batches import RolloutBatch
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

BuildPart = Callable[..., PartBuilder]
LINEAR = MLPSpec(widths=[])


def small(
    builder: BuildPart, discrete: bool = True, actions: int = 2, part: dict[str, Any] | None = None, **settings: Any
) -> PPO:
    chosen = {"rollout_steps": 4, "minibatch_size": 4, "epochs": 2, "normalise_advantages": False} | settings
    return PPO(PPOSettings(**chosen), actions, discrete, builder(**({"inputs": (2,)} | (part or {}))))


def transitions(agent: PPO, index: int, count: int = 3, ends: bool = True) -> Experience:
    generator = torch.Generator().manual_seed(index)
    observations, following = torch.randn(2, count, 2, generator=generator)
    terminated, truncated = torch.rand(2, count, generator=generator) < (0.2 if ends else -1)
    rewards = torch.randn(count, generator=generator)
    return Experience(Transitions(observations, agent.act(observations), rewards, terminated, truncated, following), 0)


def set_values(part: Updater, **values: Any) -> None:
    with torch.no_grad():
        for name, value in values.items():
            part.network.tensor(name.replace("__", ".")).copy_(torch.tensor(value))


# Objectives


def policy_batch(inputs: Tensor, actions: Tensor, log_probs: Tensor, advantages: Tensor) -> RolloutBatch:
    """A batch whose values and returns, which the policy does not learn from, are not numbers."""
    return RolloutBatch(inputs, actions, log_probs, advantages, log_probs * nan, log_probs * nan)


def value_batch(inputs: Tensor, values: Tensor, returns: Tensor) -> RolloutBatch:
    """A batch whose log-probabilities and advantages, which the value does not learn from, are not numbers."""
    return RolloutBatch(inputs, values * nan, values * nan, values * nan, values, returns)


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([[log(p), log(1 - p)] for p in probabilities], requires_grad=True)


def test_clipped_surrogate_by_hand(builder: BuildPart) -> None:
    agent = small(builder, clip=0.2)
    # Old probability 1/2 of action 0; new ones 0.75, 0.75, 0.25, 0.25, 0.55: ratios 1.5, 1.5, 0.5, 0.5, 1.1.
    outputs = logits_of(0.75, 0.75, 0.25, 0.25, 0.55)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    batch = policy_batch(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64), torch.full((5,), log(0.5)), advantages)
    loss, measures = agent._policy(outputs, batch)
    # min(r A, clip(r) A): 1.2, -1.5, 0.5, -0.8, 2.2.
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 2.2) / 5, abs=1e-6)
    assert measures["train/clip_fraction"].item() == pytest.approx(0.8)
    kl = [(r - 1) - log(r) for r in (1.5, 1.5, 0.5, 0.5, 1.1)]
    assert measures["train/approximate_kl"].item() == pytest.approx(sum(kl) / 5, abs=1e-6)
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.abs().sum(1).bool().tolist() == [False, True, True, False, True]  # clipped rows have no gradient


def test_the_entropy_bonus_by_hand(builder: BuildPart) -> None:
    plain, bonus = (small(builder, entropy_coefficient=weight) for weight in (0.0, 0.5))
    batch = policy_batch(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.tensor([log(0.25)]), torch.ones(1))
    entropy = -(0.25 * log(0.25) + 0.75 * log(0.75))
    without, with_bonus = (agent._policy(logits_of(0.25), batch)[0].item() for agent in (plain, bonus))
    assert without - with_bonus == pytest.approx(0.5 * entropy, abs=1e-6)


@pytest.mark.parametrize(
    ("clip_value", "expected"),
    [
        # New values 1.5, 0.1, -1; old 1, 0, 0; returns 2, 0, -2.
        (None, [0.25, 0.01, 1.0]),
        # Clipped to 1.2, 0.1, -0.2: squares 0.64, 0.01, 3.24; the larger of both.
        (0.2, [0.64, 0.01, 3.24]),
    ],
)
def test_value_loss_by_hand(builder: BuildPart, clip_value: float | None, expected: list[float]) -> None:
    agent = small(builder, clip_value=clip_value, value_coefficient=0.5)
    batch = value_batch(torch.zeros(3, 2), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2.0, 0.0, -2.0]))
    loss, measures = agent._value(torch.tensor([[1.5], [0.1], [-1.0]]), batch)
    assert loss.item() == pytest.approx(0.5 * sum(expected) / 3)
    assert measures["train/value_loss"].item() == loss.item()


def test_a_value_that_lies_beyond_its_return_is_not_kept_there_by_clipping(builder: BuildPart) -> None:
    # New 3, old 1, return 1: unclipped 4, clipped 0.04; the larger is unclipped, and has a gradient.
    agent = small(builder)
    outputs = torch.tensor([[3.0]], requires_grad=True)
    agent._value(outputs, value_batch(torch.zeros(1, 2), torch.ones(1), torch.ones(1)))[0].backward()
    assert outputs.grad is not None
    assert outputs.grad.item() == pytest.approx(0.5 * 2 * 2.0)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("value_loss", ["squared", "hl_gauss"])
def test_the_joint_objective_is_the_sum_of_both(builder: BuildPart, discrete: bool, value_loss: str) -> None:
    joint = small(builder, discrete, shared_torso=True, value_loss=value_loss, bins=5, entropy_coefficient=0.1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 2, generator=generator)
    outputs = joint.parts["actor_critic"].network(inputs)
    policy, value = joint._head.split(outputs)
    actions = torch.arange(6) % 2 if discrete else torch.randn(6, 2, generator=generator)
    rest = torch.randn(4, 6, generator=generator)
    batch = RolloutBatch(inputs, actions, *rest)
    expected = joint._policy(policy, policy_batch(inputs, actions, rest[0], rest[1]))[0]
    expected = expected + joint._value(value, value_batch(inputs, rest[2], rest[3]))[0]
    loss, measures = joint._joint(outputs, batch)
    torch.testing.assert_close(loss, expected)
    assert {"train/policy_loss", "train/value_loss", "train/entropy"} <= measures.keys()


def test_the_joint_objective_by_hand_on_a_hand_set_network(builder: BuildPart) -> None:
    agent = small(
        builder, part={"spec": LINEAR}, shared_torso=True, entropy_coefficient=1.0, value_coefficient=0.5, clip_value=None
    )
    part = agent.parts["actor_critic"]
    set_values(part, head__first__linear__weight=[[0.0, 0.0]] * 2, head__first__linear__bias=[0.0, log(3)])
    set_values(part, head__second__linear__weight=[[2.0, 3.0]], head__second__linear__bias=[1.0])
    # p = (1/4, 3/4); value 2 + 3 + 1 = 6. Old probability of action 1: 3/4, advantage 2; return 10.
    inputs = torch.ones(1, 2)
    one = torch.tensor([1])
    batch = RolloutBatch(inputs, one, torch.tensor([log(0.75)]), torch.tensor([2.0]), torch.tensor([6.0]), torch.tensor([10.0]))
    loss, _ = agent._joint(part.network(inputs), batch)
    entropy = -(0.25 * log(0.25) + 0.75 * log(0.75))
    assert loss.item() == pytest.approx(-2.0 + 0.5 * 16.0 - entropy, abs=1e-5)


# The data of a rollout


def rollout(agent: PPO, steps: int = 5, ends: bool = True) -> Transitions:
    batches = [transitions(agent, index, ends=ends).batch for index in range(steps)]
    return Transitions(*(torch.stack(column) for column in zip(*batches, strict=True)))


def outputs_for(agent: PPO, data: Transitions) -> Tensor:
    return torch.stack([agent._first.predict(observations) for observations in data.observations])


def test_what_was_computed_for_other_observations_is_not_used(builder: BuildPart) -> None:
    agent = small(builder)
    first, second = (transitions(agent, index) for index in range(2))
    agent.act(first.batch.observations)
    agent.learn(second)
    agent.act(first.batch.observations)
    agent.learn(first)
    for step, experience in zip(agent._rollout, (second, first), strict=True):
        assert torch.equal(step.outputs, agent._first.predict(experience.batch.observations))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("discrete", [False, True])
def test_the_first_minibatch_has_ratio_1(builder: BuildPart, discrete: bool, shared: bool) -> None:
    # For any minibatch size, the very first update must find ratio 1, up to rounding: approximate KL 0, nothing clipped.
    agent = small(builder, discrete, shared_torso=shared, minibatch_size=5)
    seen: list[tuple[Tensor, Tensor]] = []
    objective = agent._joint if shared else agent._policy

    def watched(outputs: Tensor, batch: Any) -> Any:
        policy = agent._head.split(outputs)[0] if shared else outputs
        seen.append((agent._log_probs(policy, batch.actions)[0].detach(), batch.log_probs))
        return objective(outputs, batch)

    setattr(agent, "_joint_objective" if shared else "_policy_objective", watched)
    for index in range(4):
        agent.learn(transitions(agent, index))
    assert len(seen) == 2 * 3  # 12 transitions in minibatches of 5, 5, 2, twice
    torch.testing.assert_close(seen[0][0], seen[0][1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(seen[-1][0], seen[-1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_returns_are_advantages_plus_values_row_by_row(builder: BuildPart, shared: bool) -> None:
    agent = small(builder, shared_torso=shared, discount=0.9, trace_decay=0.0)
    data = rollout(agent)
    data.next_observations[:-1, 1] = data.observations[1:, 1]  # environment 1 has an unbroken chain, the others have none
    computed: list[int] = []
    values_of = agent._values
    agent._values = lambda x: computed.append(len(x)) or values_of(x)  # type: ignore[assignment, method-assign, func-returns-value]
    joint = agent._joint_data(data, outputs_for(agent, data))
    assert computed == ([11] if shared else [15, 11])  # 4 of the 15 next values are those of the step that follows
    agent._values = values_of  # type: ignore[method-assign]
    # With lambda 0: return = r + gamma v(s') unless terminated. Row t * N + n belongs to step t of environment n.
    for row in range(15):
        step, column = divmod(row, 3)
        assert torch.equal(joint.inputs[row], data.observations[step, column])
        value, following = (
            agent._values(x[step, column].unsqueeze(0)).item() for x in (data.observations, data.next_observations)
        )
        bootstrap = 0.0 if data.terminated[step, column] else 0.9 * following
        expected = data.rewards[step, column].item() + bootstrap
        assert joint.returns[row].item() == pytest.approx(expected, abs=1e-5)
        assert joint.values[row].item() == pytest.approx(value, abs=1e-6)
        assert joint.advantages[row].item() == pytest.approx(expected - value, abs=1e-5)


def test_every_epoch_shows_every_transition_once_in_another_order(builder: BuildPart) -> None:
    agent = small(builder, minibatch_size=5, epochs=3)
    seen: list[Tensor] = []
    agent._update = lambda batch: seen.append(batch.inputs) or {}  # type: ignore[assignment, method-assign, func-returns-value]
    shown = [transitions(agent, index) for index in range(4)]
    for experience in shown:
        agent.learn(experience)
    everything = torch.cat([experience.batch.observations for experience in shown])  # type: ignore[union-attr]
    assert [len(inputs) for inputs in seen] == [5, 5, 2] * 3
    epochs = [torch.cat(seen[start : start + 3]) for start in (0, 3, 6)]
    for epoch in epochs:
        assert torch.equal(epoch.sort(0).values, everything.sort(0).values)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], everything)


def test_advantages_are_normalised_over_the_minibatch(builder: BuildPart) -> None:
    agent = small(builder, normalise_advantages=True)
    seen: list[Tensor] = []
    plain = agent._policy
    agent._policy_objective = lambda outputs, batch: seen.append(batch.advantages) or plain(outputs, batch)  # type: ignore[func-returns-value]
    for index in range(4):
        agent.learn(transitions(agent, index))
    for advantages in seen:
        assert advantages.mean().item() == pytest.approx(0.0, abs=1e-5)
        assert advantages.std().item() == pytest.approx(1.0, abs=1e-4)


def test_a_minibatch_of_one_is_not_normalised_away(builder: BuildPart) -> None:
    agent = small(builder, normalise_advantages=True, minibatch_size=11)
    for index in range(4):
        agent.learn(transitions(agent, index))  # 12 transitions: a last minibatch of 1
    assert all(bool(value.isfinite().all()) for value in agent.parts["actor"].network.parameters())


def test_nothing_is_learned_before_the_rollout_is_complete(builder: BuildPart) -> None:
    agent = small(builder)
    for index in range(3):
        assert agent.learn(transitions(agent, index)) == {}
    assert agent.parts["actor"].steps == 0
    logs = agent.learn(transitions(agent, 3))
    assert agent.parts["actor"].steps == agent.parts["critic"].steps == 2 * 3
    assert torch.as_tensor(logs["train/value_loss"]).shape == (6,)
    assert agent.learn(transitions(agent, 4)) == {}


@pytest.mark.parametrize("shared", [False, True])
def test_the_learning_rate_falls_in_a_straight_line(builder: BuildPart, shared: bool) -> None:
    optimizer = OptimizerSettings(learning_rate=0.01, schedule="linear", schedule_steps=48)
    agent = small(builder, shared_torso=shared, part={"optimizer": optimizer})
    rates = []
    for index in range(20):
        learn_from(agent, transitions(agent, index), 3 * (index + 1))
        if index % 4 == 3:
            rates.append([part.optimizer.param_groups[0]["lr"] for part in agent.parts.values()])
    for share, found in zip([0.75, 0.5, 0.25, 0.0, 0.0], rates, strict=True):
        assert found == [0.01 * share] * len(agent.parts)  # to the bit


# Acting


def test_continuous_actions_are_drawn_unbounded_and_stored_as_drawn(builder: BuildPart) -> None:
    agent = small(builder, discrete=False, part={"spec": LINEAR})
    set_values(agent.parts["actor"], head__linear__weight=[[0.0, 0.0]] * 2, head__linear__bias=[1.0, -2.0])
    set_values(agent.parts["actor"], head__log_deviation=[log(0.5), log(3.0)])
    actions = agent.act(torch.zeros(20_000, 2))
    assert actions.dtype == torch.float32
    assert actions.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.1)
    assert actions.std(0).tolist() == pytest.approx([0.5, 3.0], rel=0.03)
    assert agent.greedy(torch.zeros(1, 2)).tolist() == [[1.0, -2.0]]
    log_probs, entropy = agent._log_probs(agent._first.predict(torch.zeros(1, 2)), torch.tensor([[1.0, 1.0]]))
    density = (1 / (0.5 * (2 * torch.pi) ** 0.5)) * (exp(-0.5) / (3 * (2 * torch.pi) ** 0.5))
    assert log_probs.item() == pytest.approx(log(density), abs=1e-5)
    assert entropy.item() == pytest.approx(log(2 * torch.pi * exp(1) * 0.5 * 3.0), abs=1e-5)


def test_discrete_actions_are_drawn_and_the_likeliest_is_greedy(builder: BuildPart) -> None:
    agent = small(builder, part={"spec": LINEAR})
    set_values(agent.parts["actor"], head__linear__weight=[[0.0, 0.0]] * 2, head__linear__bias=[0.0, log(3.0)])
    assert agent.act(torch.zeros(8000, 2)).float().mean().item() == pytest.approx(0.75, abs=0.02)
    assert agent.greedy(torch.zeros(2, 2)).tolist() == [1, 1]


def test_parts(builder: BuildPart) -> None:
    assert list(small(builder).parts) == ["actor", "critic"]
    assert list(small(builder, shared_torso=True).parts) == ["actor_critic"]


def test_a_data_stream_is_refused(builder: BuildPart) -> None:
    with pytest.raises(TypeError, match="agent=ppo learns from an environment"):
        small(builder).learn(Experience(Examples(torch.zeros(1, 2), torch.zeros(1)), 0))
