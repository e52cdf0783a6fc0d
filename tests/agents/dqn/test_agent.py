from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.dqn.agent import DQN, DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.agents.replay.buffer import ReplayBatch
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.networks.network import Network
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.updates.compiled_function import CompiledFunction

BuildPart = Callable[..., PartBuilder]
LINEAR = MLPSpec(widths=[])


def transitions(count: int, seed: int, inputs: int = 4, terminated: bool = False) -> Experience:
    generator = torch.Generator().manual_seed(seed)
    observations, following = torch.randn(2, count, inputs, generator=generator)
    actions = torch.randint(3, (count,), generator=generator)
    ends = torch.full((count,), terminated)
    rewards = torch.rand(count, generator=generator)
    return Experience(Transitions(observations, actions, rewards, ends, torch.zeros_like(ends), following), 0)


def small_dqn(builder: BuildPart, actions: int = 3, part: dict[str, Any] | None = None, **settings: Any) -> DQN:
    chosen = {"warmup_env_steps": 0, "batch_size": 4, "buffer_transitions": 50} | settings
    return DQN(DQNSettings(**chosen), actions, builder(**(part or {})))


def run(agent: DQN, advances: int, count: int = 1) -> list[int]:
    """Feeds transitions and returns the number of updates after each advance."""
    updates = []
    for index in range(advances):
        agent.learn(transitions(count, index))
        updates.append(agent.q.steps)
    return updates


def set_linear(network: Network, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        network.tensor("head.linear.weight").copy_(torch.tensor(weight))
        network.tensor("head.linear.bias").copy_(torch.tensor(bias))


# Targets


def hand_set_agent(builder: BuildPart, **settings: Any) -> DQN:
    """Q of the network at inputs (1, 0) and (0, 1): (1, 5) and (3, 2). Q of the target: (10, 20) and (30, 40)."""
    agent = small_dqn(builder, actions=2, part={"spec": LINEAR, "inputs": (2,)}, discount=0.5, **settings)
    set_linear(agent.q.network, [[1.0, 3.0], [5.0, 2.0]], [0.0, 0.0])
    set_linear(agent.target, [[10.0, 30.0], [20.0, 40.0]], [0.0, 0.0])
    return agent


def hand_batch(terminated: list[bool]) -> ReplayBatch:
    states = torch.eye(2)
    half = torch.tensor([0.5, 0.5])
    return ReplayBatch(states, torch.tensor([0, 1]), torch.tensor([1.0, 2.0]), torch.tensor(terminated), states, half)


@pytest.mark.parametrize(
    ("double", "expected"),
    [
        (False, [11.0, 22.0]),  # 1 + 0.5 * max(10, 20), 2 + 0.5 * max(30, 40)
        (True, [11.0, 17.0]),  # the network prefers action 1 and action 0: 1 + 0.5 * 20, 2 + 0.5 * 30
    ],
)
def test_targets_by_hand(builder: BuildPart, double: bool, expected: list[float]) -> None:
    assert hand_set_agent(builder, double=double)._targets(hand_batch([False, False])).tolist() == expected


@pytest.mark.parametrize("double", [False, True])
def test_termination_stops_the_sum(builder: BuildPart, double: bool) -> None:
    assert hand_set_agent(builder, double=double)._targets(hand_batch([True, True])).tolist() == [1.0, 2.0]


def test_truncation_bootstraps_and_termination_does_not(builder: BuildPart) -> None:
    agent, states = hand_set_agent(builder), torch.eye(2)
    ends = torch.tensor([True, False])
    batch = Transitions(states, torch.tensor([0, 1]), torch.tensor([1.0, 2.0]), ends, ~ends, states)
    agent.replay.add(batch)
    drawn = agent.replay.sample(40, torch.Generator().manual_seed(0))
    targets = agent._targets(drawn)
    # Row 0 terminated: 1. Row 1 truncated: 2 + 0.5 * 40.
    assert torch.equal(targets, torch.where(drawn.actions == 0, 1.0, 22.0))
    assert set(targets.tolist()) == {1.0, 22.0}


@pytest.mark.parametrize(("loss", "expected"), [("squared", (100.0 + 400.0) / 2), ("huber", (9.5 + 19.5) / 2)])
def test_loss_by_hand(builder: BuildPart, loss: str, expected: float) -> None:
    # Chosen values Q(s0, 0) = 1 and Q(s1, 1) = 2; targets 11 and 22: differences 10 and 20.
    agent = hand_set_agent(builder, loss=loss)
    errors = agent._coding.errors(torch.tensor([1.0, 2.0]), torch.tensor([11.0, 22.0]), None)
    assert errors.mean().item() == expected


def test_update_learns_from_the_chosen_action_alone(builder: BuildPart) -> None:
    # Gradient of ((Q(s0, 0) - 11)^2) / 1 reaches row 0 and its first column: 2 * (1 - 11) = -20; the rest has none.
    agent = hand_set_agent(builder, batch_size=1)
    agent.replay.add(Transitions(*(field[:1] for field in transitions_of_hand())))
    agent._update()
    gradient = agent.q.network.tensor("head.linear.weight").grad
    assert gradient is not None
    assert gradient.tolist() == [[-20.0, 0.0], [0.0, 0.0]]


def transitions_of_hand() -> Transitions:
    states, no = torch.eye(2), torch.zeros(2, dtype=torch.bool)
    return Transitions(states, torch.tensor([0, 1]), torch.tensor([1.0, 2.0]), no, no, states)


def test_two_hot_loss_is_the_cross_entropy_with_the_encoded_target(builder: BuildPart) -> None:
    # Atoms 0, 1, 2; target 1.25 is (0, 0.75, 0.25), smoothed by 0.3: 0.7 p + 0.1 = (0.1, 0.625, 0.275).
    agent = small_dqn(builder, loss="two_hot", bins=3, value_low=0.0, value_high=2.0, label_smoothing=0.3)
    logits = torch.tensor([[0.3, -0.2, 1.0]])
    expected = functional.cross_entropy(logits, torch.tensor([[0.1, 0.625, 0.275]]))
    torch.testing.assert_close(agent._coding.errors(logits, torch.tensor([1.25]), agent._atoms)[0], expected)


def test_two_hot_targets_bootstrap_from_decoded_values(builder: BuildPart) -> None:
    # Head biases alone: action 0 puts its mass on atom 2, action 1 on atom 0. max_a Q = 2: target 1 + 0.5 * 2 = 2.
    support = {"bins": 3, "value_low": 0.0, "value_high": 2.0}
    agent = small_dqn(builder, actions=2, part={"spec": LINEAR, "inputs": (2,)}, discount=0.5, loss="two_hot", **support)
    set_linear(agent.target, [[0.0, 0.0]] * 6, [-100.0, -100.0, 100.0, 100.0, -100.0, -100.0])
    assert agent._targets(hand_batch([False, True])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(("discount", "high"), [(0.0, 1), (0.9, 10), (0.98, 50), (0.99, 100)])
def test_default_atoms_are_the_whole_numbers_of_every_return(builder: BuildPart, discount: float, high: int) -> None:
    agent = small_dqn(builder, discount=discount, loss="two_hot")
    assert agent.q.network.get_buffer("head.atoms").tolist() == pytest.approx(list(range(-high, high + 1)))


def test_support_can_be_set(builder: BuildPart) -> None:
    agent = small_dqn(builder, loss="two_hot", bins=3, value_low=-2.0, value_high=4.0)
    assert agent.q.network.get_buffer("head.atoms").tolist() == [-2.0, 1.0, 4.0]


# Target network


def test_target_is_copied_on_its_updates_and_on_no_other(builder: BuildPart) -> None:
    agent = small_dqn(builder, target_every_updates=3)
    copied = []
    for index in range(10):
        before = {name: value.clone() for name, value in agent.target.state_dict().items()}
        agent.learn(transitions(1, index))
        now, network = agent.target.state_dict(), agent.q.network.state_dict()
        equal = all(torch.equal(now[name], network[name]) for name in now)
        kept = all(torch.equal(now[name], before[name]) for name in now)
        assert equal != kept
        if equal:
            copied.append(agent.q.steps)
    assert copied == [3, 6, 9]


def test_target_starts_as_a_copy_of_its_own(builder: BuildPart) -> None:
    agent = small_dqn(builder)
    pairs = list(zip(agent.target.parameters(), agent.q.network.parameters(), strict=True))
    assert all(torch.equal(copy, original) and copy.data_ptr() != original.data_ptr() for copy, original in pairs)
    assert not any(copy.requires_grad for copy, _ in pairs)
    assert agent.q.copies["target"] is agent.target


def test_target_copies_buffers_too(builder: BuildPart) -> None:
    agent = small_dqn(builder, part={"spec": MLPSpec(widths=[5], normalisation=["batch"])}, target_every_updates=2)
    run(agent, 4)
    mean = "torso.layers.dense_1.norms.0.running_mean"
    assert bool(agent.target.get_buffer(mean).any())
    assert torch.equal(agent.target.get_buffer(mean), agent.q.network.get_buffer(mean))


# Acting


def test_epsilon_falls_with_environment_steps(builder: BuildPart) -> None:
    agent = small_dqn(builder, epsilon_start=1.0, epsilon_end=0.1, epsilon_env_steps=9, warmup_env_steps=10**6)
    seen = [agent.epsilon]
    for index in range(4):
        agent.learn(transitions(3, index))
        seen.append(agent.epsilon)
    assert seen == pytest.approx([1.0, 0.7, 0.4, 0.1, 0.1])  # 0.1 less at each environment step, three at a time


def test_uniform_behaviour_never_looks_at_the_values(builder: BuildPart) -> None:
    agent = small_dqn(builder, behaviour="uniform", epsilon_start=0.0, epsilon_end=0.0)
    assert agent.epsilon == 1.0
    set_nan(agent.q.network)
    counts = torch.bincount(agent.act(torch.zeros(6000, 4)), minlength=3)
    # Binomial with n = 6000, p = 1/3: standard deviation 36.5.
    assert (counts - 2000).abs().max() < 150


def set_nan(network: Network) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float("nan"))


def test_greedy_action_has_the_highest_value(builder: BuildPart) -> None:
    agent = hand_set_agent(builder, epsilon_start=0.0, epsilon_end=0.0)
    assert agent.act(torch.eye(2)).tolist() == [1, 0]
    assert agent.act(torch.eye(2)).dtype == torch.int64


def test_share_of_greedy_actions_is_that_of_epsilon(builder: BuildPart) -> None:
    # With epsilon 0.4 and 2 actions the greedy one has probability 0.6 + 0.2 = 0.8; 10,000 draws: deviation 0.004.
    agent = hand_set_agent(builder, epsilon_start=0.4, epsilon_end=0.4)
    states = torch.tensor([[1.0, 0.0]]).repeat(10_000, 1)
    assert agent.act(states).float().mean().item() == pytest.approx(0.8, abs=0.02)


def test_exploration_does_not_depend_on_the_values(builder: BuildPart) -> None:
    agents = [small_dqn(builder, epsilon_start=0.5, epsilon_end=0.5) for _ in range(2)]
    with torch.no_grad():
        agents[1].q.network.tensor("head.linear.bias").copy_(torch.tensor([0.0, 0.0, 1e6]))
        agents[0].q.network.tensor("head.linear.bias").copy_(torch.tensor([1e6, 0.0, 0.0]))
    states = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    one, two = (torch.cat([agent.act(row) for row in states.split(4)]) for agent in agents)
    # Greedy actions are 0 and 2; wherever either did something else, both explored and drew the same.
    explored = (one != 0) | (two != 2)
    assert torch.equal(one[explored], two[explored])
    assert 0.2 < explored.float().mean() < 0.8
    states_after = [agent.state_dict()["generators"][0] for agent in agents]
    assert torch.equal(*states_after)


def test_fully_random_steps_draw_as_many_numbers_as_others(builder: BuildPart) -> None:
    agents = [small_dqn(builder, epsilon_start=epsilon, epsilon_end=epsilon) for epsilon in (1.0, 0.0)]
    for agent in agents:
        agent.act(torch.zeros(3, 4))
    assert torch.equal(*(agent.state_dict()["generators"][0] for agent in agents))


def test_acting_takes_the_evaluation_mode_and_leaves_buffers_alone(builder: BuildPart) -> None:
    agent = small_dqn(builder, part={"spec": MLPSpec(widths=[5], normalisation=["batch"])}, epsilon_start=0, epsilon_end=0)
    before = {name: value.clone() for name, value in agent.q.network.state_dict().items()}
    agent.act(torch.randn(20, 4))
    assert all(torch.equal(value, before[name]) for name, value in agent.q.network.state_dict().items())


# Schedule of updates


@pytest.mark.parametrize(
    ("count", "per_update", "warmup", "expected"),
    [
        (1, 1, 0, [1, 2, 3, 4]),
        (1, 1, 2, [0, 0, 1, 2]),  # two steps of warm-up, then one update per step
        (1, 4, 0, [0, 0, 0, 1, 1, 1, 1, 2]),
        (3, 1, 0, [3, 6, 9]),
        (3, 4, 0, [0, 1, 2, 3, 3, 4]),  # steps 3 6 9 12 15 18: floor(steps / 4)
        (3, 4, 6, [0, 0, 0, 1, 2, 3, 3]),  # counting from step 6: 3 6 9 12 15 more
        (3, 1, 7, [0, 0, 3, 6]),  # step 9 is the first beyond 7, and it owes its own three
        (5, 2, 0, [2, 5, 7, 10]),
    ],
)
def test_number_of_updates(builder: BuildPart, count: int, per_update: int, warmup: int, expected: list[int]) -> None:
    agent = small_dqn(builder, env_steps_per_update=per_update, warmup_env_steps=warmup)
    assert run(agent, len(expected), count) == expected
    assert agent.env_steps == count * len(expected)
    assert agent.replay.size == min(50, agent.env_steps)


def test_updates_owed_survive_a_checkpoint(builder: BuildPart, through_disk: Callable[[Any], Any]) -> None:
    # Three steps of four are done: one more makes the update due.
    agents = [small_dqn(builder, env_steps_per_update=4) for _ in range(2)]
    assert run(agents[0], 1, 3) == [0]
    agents[1].load_state_dict(through_disk(agents[0].state_dict()))
    assert [run(agent, 1, 1) for agent in agents] == [[1], [1]]


def test_logs_of_an_update(builder: BuildPart) -> None:
    agent = small_dqn(builder, warmup_env_steps=1)
    assert agent.learn(transitions(1, 0)) == {}
    logs = agent.learn(transitions(1, 1))
    assert set(logs) == {"train/loss", "train/target_value"}
    assert all(torch.isfinite(torch.as_tensor(value)) for value in logs.values())


def test_a_data_stream_is_refused(builder: BuildPart) -> None:
    experience = Experience(Examples(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)), 0)
    with pytest.raises(TypeError, match="choose agent=supervised"):
        small_dqn(builder).learn(experience)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.0}, "agent.discount=1.0"),
        ({"discount": -0.1}, "agent.discount=-0.1"),
        ({"batch_size": 0}, "agent.batch_size=0"),
        ({"buffer_transitions": 0}, "agent.buffer_transitions=0"),
        ({"env_steps_per_update": 0}, "agent.env_steps_per_update=0"),
        ({"target_every_updates": 0}, "agent.target_every_updates=0"),
        ({"epsilon_start": 1.5}, "agent.epsilon_start=1.5"),
        ({"epsilon_end": -0.5}, "agent.epsilon_end=-0.5"),
        ({"label_smoothing": 2.0}, "agent.label_smoothing=2.0"),
        ({"warmup_env_steps": -1}, "agent.warmup_env_steps=-1"),
        ({"loss": "sqared"}, r"agent.loss=sqared is unknown \(did you mean squared\?\); choose from squared, huber, two_hot"),
        (
            {"behaviour": "greedy"},
            r"agent.behaviour=greedy is unknown \(did you mean epsilon_greedy\?\); choose from epsilon_greedy, uniform",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        DQNSettings(**settings)


def test_smoothed_values_are_decoded_for_acting_and_for_targets(builder: BuildPart) -> None:
    # Atoms -1, 0, 1, smoothing 0.4. Action 0 has all mass on 0; action 1 is the smoothed target of 0.5: 0.6 (0, 0.5, 0.5) plus
    # 2/15 each, with a mean of 0.3. Decoded as published action 1 is worth 0.3 and its target 1 + 0.5 * 0.3.
    smoothed = torch.tensor([2.0, 6.5, 6.5]).div(15).log().tolist()
    for decoding, target in (("corrected", 1.25), ("published", 1.15)):
        agent = small_dqn(
            builder,
            actions=2,
            part={"spec": LINEAR, "inputs": (2,)},
            discount=0.5,
            loss="two_hot",
            bins=3,
            value_low=-1.0,
            value_high=1.0,
            label_smoothing=0.4,
            label_smoothing_decoding=decoding,
        )
        for network in (agent.q.network, agent.target):
            set_linear(network, [[0.0, 0.0]] * 6, [-100.0, 100.0, -100.0, *smoothed])
        assert agent.greedy(torch.eye(2)).tolist() == [1, 1]
        assert agent._targets(hand_batch([False, False])).tolist() == pytest.approx([target, target + 1])


def test_targets_of_c51_are_not_smoothed_and_their_values_not_corrected(builder: BuildPart) -> None:
    agent = small_dqn(builder, loss="categorical", bins=3, value_low=-1.0, value_high=1.0, label_smoothing=0.4)
    logits = torch.tensor([[[0.2, 0.3, 0.5]]]).log()
    assert agent.q.network.decode(logits).item() == pytest.approx(0.3)


# Seeds and measurements


def weights_after(builder: BuildPart, seed: int, steps: int = 6) -> list[Tensor]:
    agent = small_dqn(builder, part={"seed": seed}, epsilon_start=0.5)
    run(agent, steps, 3)
    return list(agent.q.network.parameters())


def test_same_seed_same_weights_other_seed_others(builder: BuildPart) -> None:
    one, two, other = (weights_after(builder, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_sample_inputs_disturbs_nothing(builder: BuildPart, same: Callable[[Any, Any], bool], through_disk: Any) -> None:
    agent = small_dqn(builder)
    assert agent.sample_inputs("q", 5, torch.Generator()) is None
    run(agent, 3)
    before = through_disk(agent.state_dict())
    inputs = agent.sample_inputs("q", 5, torch.Generator().manual_seed(0))
    assert inputs is not None
    assert inputs.shape == (5, 4)
    assert same(before, agent.state_dict())


def test_uint8_images_stay_so_in_the_replay(builder: BuildPart) -> None:
    spec = ConvSpec(widths=[8], channels=[3])
    agent = small_dqn(builder, part={"spec": spec, "inputs": (1, 6, 6), "dtype": torch.uint8})
    images = torch.randint(256, (4, 1, 6, 6), dtype=torch.uint8)
    no = torch.zeros(4, dtype=torch.bool)
    agent.learn(Experience(Transitions(images, torch.zeros(4, dtype=torch.int64), torch.ones(4), no, no, images), 0))
    assert agent.q.steps == 4
    assert agent.replay.sample(2, torch.Generator()).inputs.dtype == torch.uint8


# Targets inside of a compiled update


def weights_and_examples(builder: BuildPart, inside: bool, **settings: Any) -> list[Tensor]:
    """Returns the weights after five updates, and what is remembered of the latest of them."""
    agent = small_dqn(builder, part={"compile": True}, target_every_updates=2, **settings)
    assert agent._targets_inside
    agent._targets_inside = inside
    run(agent, advances=5)
    examples = agent.q.examples.state_dict()
    assert examples is not None
    return [*agent.q.network.state_dict().values(), *examples]


@pytest.mark.parametrize("settings", [{}, {"prioritised": True, "loss": "categorical", "bins": 5, "n_step": 2}])
def test_targets_inside_of_the_update_are_those_of_a_call_before_it(
    builder: BuildPart, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CompiledFunction, "_compile", lambda self, _: self._function)  # the same without waiting for a compiler
    inside, before = (weights_and_examples(builder, inside, **settings) for inside in (True, False))
    for got, expected in zip(inside, before, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.slow  # the compiler takes its time
@pytest.mark.parametrize("settings", [{}, {"prioritised": True, "loss": "categorical", "bins": 5, "n_step": 2}])
def test_targets_inside_of_a_compiled_update(builder: BuildPart, settings: dict[str, Any]) -> None:
    inside, before = (weights_and_examples(builder, inside, **settings) for inside in (True, False))
    for got, expected in zip(inside, before, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"double": True}, {"loss": "pop_art"}])
def test_targets_that_read_what_the_update_changes_stay_outside(builder: BuildPart, settings: dict[str, Any]) -> None:
    assert not small_dqn(builder, part={"compile": True}, **settings)._targets_inside
