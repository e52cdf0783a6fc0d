"""SAC's target, losses, temperature and scaling, by hand."""

from collections.abc import Callable
from math import log, tanh
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.losses.distributions import squashed_gaussian
from plasticity.agents.parts import PartBuilder
from plasticity.agents.replay.buffer import ReplayBatch
from plasticity.agents.sac.agent import SAC, ActorBatch, CriticBatch, SACSettings
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.networks.torsos.feedforward import MLPSpec

BuildPart = Callable[..., PartBuilder]
LINEAR = MLPSpec(widths=[])


def small(
    builder: BuildPart,
    low: float = -1.0,
    high: float = 1.0,
    dimensions: int = 1,
    part: dict[str, Any] | None = None,
    **settings: Any,
) -> SAC:
    chosen = {"warmup_env_steps": 0, "batch_size": 8, "buffer_transitions": 50} | settings
    bounds = [low] * dimensions, [high] * dimensions
    return SAC(SACSettings(**chosen), *bounds, builder(**({"inputs": (2,)} | (part or {}))))


def transitions(agent: SAC, index: int, count: int = 2) -> Experience:
    generator = torch.Generator().manual_seed(index)
    observations, following = torch.randn(2, count, 2, generator=generator)
    terminated, truncated = torch.rand(2, count, generator=generator) < 0.2
    rewards = torch.randn(count, generator=generator)
    return Experience(Transitions(observations, agent.act(observations), rewards, terminated, truncated, following), 0)


def set_linear(network: Any, path: str, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        network.tensor(f"{path}.weight").copy_(torch.tensor(weight))
        network.tensor(f"{path}.bias").copy_(torch.tensor(bias))


def hand_set(builder: BuildPart, **settings: Any) -> SAC:
    """Policy mean s_0, log deviation ln 0.5; target critics 10 + s_1 + 2 a and 12 - a; online critics far away."""
    agent = small(builder, part={"spec": LINEAR}, discount=0.5, initial_temperature=0.25, **settings)
    set_linear(agent.actor.network, "head.linear", [[1.0, 0.0], [0.0, 0.0]], [0.0, log(0.5)])
    set_linear(agent.target, "members.0.head.linear", [[0.0, 1.0, 2.0]], [10.0])
    set_linear(agent.target, "members.1.head.linear", [[0.0, 0.0, -1.0]], [12.0])
    for member in range(2):
        set_linear(agent.critic.network, f"members.{member}.head.linear", [[0.0, 0.0, 0.0]], [-1000.0])
    return agent


def test_targets_by_hand(builder: BuildPart) -> None:
    agent = hand_set(builder)
    noise = torch.tensor([[0.4], [-1.2], [0.0]])
    following = torch.tensor([[0.3, 5.0], [-0.5, -1.0], [2.0, 3.0]])
    rewards, ends = torch.tensor([1.0, 2.0, 7.0]), torch.tensor([False, False, True])
    discounts = torch.tensor([0.5, 0.125, 0.5])  # after one step, three, and one
    targets = agent._targets(
        ReplayBatch(following, torch.zeros(3, 1), rewards, ends, following, discounts), noise, agent.temperature.value
    )
    expected = []
    for row in range(2):
        s, e = following[row], noise[row].item()
        u = s[0].item() + 0.5 * e
        a = tanh(u)
        log_p = -0.5 * e * e - 0.5 * log(2 * torch.pi) - log(0.5) - log(1 - a * a)
        least = min(10 + s[1].item() + 2 * a, 12 - a)
        expected.append(rewards[row].item() + discounts[row].item() * (least - 0.25 * log_p))
    assert targets.tolist() == pytest.approx([*expected, 7.0], abs=1e-4)
    # Row 0: critics 15.9 and 11.5, the second is the least; row 1: 7.4 and 12.8, the first.


def test_targets_over_three_steps_by_hand(builder: BuildPart) -> None:
    # Discount 1/2, rewards 1 2 4 8 16, the episode ends in a terminal state after the fourth. The policy's action at s is
    # tanh(s_0) = 0 with ln p = -ln(2 pi) / 2 - ln 0.5 = -0.2258, and the least target critic 10 + s_1, so v = 10.0564 + s_1.
    agent = hand_set(builder, n_step=3)
    for step, reward in enumerate((1.0, 2.0, 4.0, 8.0, 16.0)):
        rows = torch.tensor([[[0.0, -step]], [[0.0, -step - 1.0]]])
        ends = torch.tensor([step == 3]), torch.tensor([False])
        agent.replay.add(Transitions(rows[0], torch.zeros(1, 1), torch.tensor([reward]), *ends, rows[1]))
    v = 10 + 0.25 * (0.5 * log(2 * torch.pi) + log(0.5))
    assert agent._targets(
        agent.replay.batch(torch.arange(5)), torch.zeros(5, 1), agent.temperature.value
    ).tolist() == pytest.approx(
        [
            1 + 2 / 2 + 4 / 4 + (v - 3) / 8,
            2 + 4 / 2 + 8 / 4,
            4 + 8 / 2,
            8,
            16 + (v - 5) / 2,
        ],
        abs=1e-4,
    )


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_replay_in_a_file_changes_nothing_and_leaves_no_file(
    builder: BuildPart, same: Any, tmp_path: Path, n_step: int
) -> None:
    folder = tmp_path / "frames"
    plain = small(builder, n_step=n_step)
    mapped = small(builder, n_step=n_step, replay_folder=str(folder))
    logs = [[agent.learn(transitions(agent, index)) for index in range(30)] for agent in (plain, mapped)]
    assert same(logs[0], logs[1])
    assert same(plain.state_dict(), mapped.state_dict())
    assert list(folder.iterdir()) == []


def test_targets_take_no_gradient(builder: BuildPart) -> None:
    agent = hand_set(builder)
    states = torch.zeros(3, 2)
    batch = ReplayBatch(states, torch.zeros(3, 1), torch.zeros(3), torch.zeros(3, dtype=torch.bool), states)
    assert not agent._targets(batch, torch.zeros(3, 1), agent.temperature.value).requires_grad


def test_the_critics_loss_is_the_sum_of_both_mean_squares(builder: BuildPart) -> None:
    agent = small(builder)
    loss, _ = agent._critic_loss(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), CriticBatch(torch.zeros(2, 3), torch.tensor([0.0, 1.0])))
    assert loss.item() == (1 + 4) / 2 + (4 + 16) / 2


@pytest.mark.parametrize("value_loss", ["two_hot", "hl_gauss"])
def test_categorical_critics_have_the_same_target_each(builder: BuildPart, value_loss: str) -> None:
    agent = small(builder, value_loss=value_loss, bins=5, value_low=-2.0, value_high=2.0)
    inputs = torch.randn(4, 3)
    outputs, targets = agent.critic.network(inputs), torch.tensor([0.3, -1.0, 5.0, 1.9])
    assert outputs.shape == (4, 2, 5)
    loss, _ = agent._critic_loss(outputs, CriticBatch(inputs, targets))
    atoms = torch.linspace(-2, 2, 5)
    alone = [agent._coding.errors(outputs[:, member], targets, atoms).mean() for member in range(2)]
    torch.testing.assert_close(loss, alone[0] + alone[1])


def test_the_actors_loss_by_hand_leaves_the_critics_alone(builder: BuildPart) -> None:
    agent = hand_set(builder)
    for member, slope in enumerate((3.0, 1.0)):
        set_linear(agent.critic.network, f"members.{member}.head.linear", [[0.0, 0.0, slope]], [0.0])
    agent.critic.network.zero_grad()
    before = {name: value.clone() for name, value in agent.critic.network.state_dict().items()}
    noise = torch.tensor([[0.4], [-1.2]])
    states = torch.tensor([[0.3, 0.0], [-0.5, 0.0]])
    logs = agent.actor.update(agent._actor_objective, ActorBatch(states, noise, agent.temperature.value))
    mean = states[:, :1]
    actions, log_p = squashed_gaussian(mean, torch.full((2, 1), log(0.5)), noise)
    least = torch.minimum(3 * actions, actions).squeeze(1)
    assert float(logs["train/actor_loss"]) == pytest.approx((0.25 * log_p - least).mean().item(), abs=1e-6)
    assert float(logs["log_prob"]) == pytest.approx(log_p.mean().item(), abs=1e-6)
    assert all(parameter.grad is None for parameter in agent.critic.network.parameters())
    assert all(parameter.requires_grad for parameter in agent.critic.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in agent.critic.network.state_dict().items())
    # d/dm of alpha ln p - Q with a = tanh(u) is alpha 2 a - slope (1 - a^2); its mean is the gradient of the bias.
    slopes = torch.where(actions > 0, 1.0, 3.0)
    expected = (0.25 * 2 * actions - slopes * (1 - actions.square())).mean()
    gradient = agent.actor.network.tensor("head.linear.bias").grad
    assert gradient is not None
    assert gradient[0].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_critics_learn_from_their_own_loss_alone(builder: BuildPart) -> None:
    agent = small(builder)
    for index in range(6):
        agent.learn(transitions(agent, index))
    gradients = {name: value.grad.clone() for name, value in agent.critic.network.named_parameters() if value.grad is not None}
    assert len(gradients) == len(list(agent.critic.network.parameters()))
    observations = agent.replay.sample(8, torch.Generator().manual_seed(0)).inputs
    agent.actor.update(agent._actor_objective, ActorBatch(observations, torch.zeros(8, 1), agent.temperature.value))
    for name, value in agent.critic.network.named_parameters():
        assert value.grad is not None
        assert torch.equal(value.grad, gradients[name])


@pytest.mark.parametrize(("deviation", "rises"), [(1e-3, True), (0.9, False)])
def test_the_temperature_rises_while_the_entropy_is_below_its_target(builder: BuildPart, deviation: float, rises: bool) -> None:
    # In (-1, 1) a deviation of 0.001 has entropy ln 0.001 + 1.42 = -5.5; the broad one about 0.6. The target is -1 per dimension.
    agent = small(builder, dimensions=2, part={"spec": LINEAR}, temperature_learning_rate=0.01)
    set_linear(agent.actor.network, "head.linear", [[0.0, 0.0]] * 4, [0.0, 0.0, log(deviation), log(deviation)])
    agent.actor.optimizer.param_groups[0]["lr"] = 0.0
    agent.learn(transitions(agent, 0, count=1))
    assert (agent.temperature.value > 1.0).item() is rises
    assert agent.temperature.log.abs().item() == pytest.approx(0.01, rel=1e-3)


def test_the_temperature_follows_minus_log_p_minus_the_target(builder: BuildPart) -> None:
    agent = small(builder, dimensions=3, target_entropy_per_dimension=-0.5)
    seen: list[Tensor] = []
    agent.temperature.descend = lambda gradient: seen.append(gradient)  # type: ignore[method-assign]
    logs = agent.learn(transitions(agent, 0, count=1))
    # Gradient of -log alpha (ln p + target): with entropy -ln p, it is entropy - target, and the target is -0.5 * 3.
    assert seen[0].item() == pytest.approx(float(logs["train/entropy"]) + 1.5, abs=1e-5)


def test_a_constant_temperature(builder: BuildPart) -> None:
    agent = small(builder, temperature_learning_rate=0.0, initial_temperature=0.2)
    for index in range(4):
        agent.learn(transitions(agent, index))
    assert agent.temperature.value.item() == pytest.approx(0.2)


# Targets


@pytest.mark.parametrize("step_size", [0.005, 0.3, 1.0])
def test_target_critics_follow_by_polyak(builder: BuildPart, step_size: float) -> None:
    agent = small(builder, target_step_size=step_size)
    agent.learn(transitions(agent, 0, count=1))
    for index in range(1, 4):
        before = {name: value.clone() for name, value in agent.target.named_parameters()}
        agent.learn(transitions(agent, index, count=1))
        online = dict(agent.critic.network.named_parameters())
        for name, value in agent.target.named_parameters():
            expected = (1 - step_size) * before[name] + step_size * online[name]
            torch.testing.assert_close(value, expected)
            assert step_size < 1 or torch.equal(value, online[name])
            assert not torch.equal(value, before[name])


def test_target_critics_start_equal_and_copy_buffers(builder: BuildPart) -> None:
    agent = small(builder, part={"spec": MLPSpec(widths=[5], normalisation=["batch"])}, target_step_size=0.01)
    pairs = list(zip(agent.target.parameters(), agent.critic.network.parameters(), strict=True))
    assert all(torch.equal(one, two) and one.data_ptr() != two.data_ptr() and not one.requires_grad for one, two in pairs)
    assert agent.critic.copies["target"] is agent.target
    for index in range(3):
        agent.learn(transitions(agent, index))
    for member in range(2):
        name = f"members.{member}.torso.layers.dense_1.norms.0.running_mean"
        assert bool(agent.target.tensor(name).any())
        assert torch.equal(agent.target.tensor(name), agent.critic.network.tensor(name))


# Acting


def test_uniform_actions_during_the_warm_up_and_the_policy_after(builder: BuildPart) -> None:
    agent = small(builder, -0.4, 0.4, part={"spec": LINEAR}, warmup_env_steps=4)
    set_linear(agent.actor.network, "head.linear", [[0.0, 0.0]] * 2, [0.5, -20.0])
    actions = agent.act(torch.zeros(4000, 2))
    assert actions.min() >= -0.4
    assert actions.max() <= 0.4
    # Uniform on (-0.4, 0.4): deviation 0.8 / sqrt(12).
    assert actions.mean().item() == pytest.approx(0.0, abs=0.02)
    assert actions.std().item() == pytest.approx(0.8 / 12**0.5, rel=0.03)
    agent.learn(transitions(agent, 0, count=2))
    agent.learn(transitions(agent, 1, count=2))
    assert agent.critic.steps == agent.actor.steps == 0
    assert agent.act(torch.zeros(3, 2)).flatten().tolist() == pytest.approx([0.4 * tanh(0.5)] * 3, abs=1e-5)
    agent.learn(transitions(agent, 2, count=2))
    assert agent.critic.steps == agent.actor.steps == 2


@pytest.mark.parametrize(("low", "high"), [(-0.4, 0.4), (-2.0, 6.0)])
def test_the_replay_holds_actions_in_minus_1_to_1(builder: BuildPart, low: float, high: float) -> None:
    agent = small(builder, low, high, dimensions=2, warmup_env_steps=100)
    given = torch.tensor([[low, high], [(low + high) / 2, low + 0.75 * (high - low)]])
    states, no = torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool)
    agent.learn(Experience(Transitions(states, given, torch.zeros(2), no, no, states), 0))
    held = agent.replay.sample(50, torch.Generator().manual_seed(0)).actions
    expected = torch.tensor([[-1.0, 1.0], [0.0, 0.5]])
    for row in held:
        assert any(torch.allclose(row, wanted, atol=1e-6) for wanted in expected)
    torch.testing.assert_close(agent._scaled(expected), given)


def test_greedy_actions_are_the_squashed_means(builder: BuildPart) -> None:
    agent = small(builder, -2.0, 6.0, part={"spec": LINEAR})
    set_linear(agent.actor.network, "head.linear", [[1.0, 0.0], [0.0, 0.0]], [0.0, 1.0])
    actions = agent.greedy(torch.tensor([[0.0, 0.0], [0.7, 1.0], [100.0, 0.0]]))
    assert actions.flatten().tolist() == pytest.approx([2.0, 2 + 4 * tanh(0.7), 6.0], abs=1e-5)


def test_a_wild_log_deviation_is_bounded(builder: BuildPart) -> None:
    agent = small(builder, part={"spec": LINEAR})
    _, bounded = agent._policy(torch.tensor([[0.0, 50.0], [0.0, -50.0], [0.0, 1.0]]))
    assert bounded.flatten().tolist() == [2.0, -20.0, 1.0]


def test_inputs_for_measurements_are_those_of_each_part(builder: BuildPart) -> None:
    agent = small(builder, warmup_env_steps=100)
    assert agent.sample_inputs("critic", 3, torch.Generator()) is None
    agent.learn(transitions(agent, 0))
    shapes = [agent.sample_inputs(part, 3, torch.Generator()) for part in ("actor", "critic")]
    assert [None if inputs is None else tuple(inputs.shape) for inputs in shapes] == [(3, 2), (3, 3)]


@pytest.mark.parametrize("bound", [float("inf"), -2.0])
def test_unbounded_actions_are_refused(builder: BuildPart, bound: float) -> None:
    with pytest.raises(ValueError, match="agent=sac needs bounded actions"):
        small(builder, -1.0, bound)


def test_images_and_data_streams_are_refused(builder: BuildPart) -> None:
    with pytest.raises(ValueError, match="agent=sac needs vector observations"):
        small(builder, part={"inputs": (1, 4, 4)})
    with pytest.raises(TypeError, match="agent=sac learns from an environment"):
        small(builder).learn(Experience(Examples(torch.zeros(1, 2), torch.zeros(1)), 0))
