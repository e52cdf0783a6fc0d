from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.dqn.agent import DQN, DQNSettings
from plasticity.agents.losses.value_coding import ValueCoding
from plasticity.agents.parts import PartBuilder
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.agents.sac.agent import SAC, SACSettings
from plasticity.envs.experience import Experience, Transitions
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics import probe
from plasticity.metrics.log_values import Measurements, Series
from plasticity.metrics.observer import observe
from plasticity.metrics.probe import (
    Curve,
    ProbeObserver,
    ProbeSettings,
    fit,
    high_frequency_noise,
    latest_distinct,
    probe_targets,
)
from plasticity.metrics.probe_space import OutputSpace, PairSpace, Space, ValueSpace, space_of
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import View
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.registry import TORSOS
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.torso_network import TorsoNetwork
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

BALANCE = LoadBalancingSpec(low=0.5, high=0.5, step_size=0.01)
MOVING = MLPSpec(widths=[6, 5], normalisation=["batch"], load_balancing=BALANCE)
REGRESSION = HeadSpec("regression", 3)
QUICK = {"steps": 12, "inputs": 16, "batch_size": 8}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Learner:
    """An agent whose parts all see the same inputs, the first so many of them."""

    parts: dict[str, Updater]
    inputs: Tensor | None
    asked: list[tuple[str, int, Tensor]] = field(default_factory=list)

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        self.asked.append((part, count, generator.get_state()))
        return None if self.inputs is None else self.inputs[:count]


def vectors(count: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 2, 7, 6), generator=generator, dtype=torch.uint8)


def part_of(spec: NetworkSpec, head: HeadSpec, inputs: Tensor, name: str = "q") -> Updater:
    builder = PartBuilder(spec, inputs.shape[1:], inputs.dtype, OptimizerSettings())
    part = builder(name, head)
    if head.kind == "categorical":
        coding = ValueCoding("two_hot", head.bins, head.low, head.high, head.label_smoothing)
        part.value_errors = coding.errors_over(part.network.tensor("head.atoms"))
    return part


def learner(
    inputs: Tensor, head: HeadSpec = REGRESSION, parts: tuple[str, ...] = ("q",), torso: str = "mlp", **spec: Any
) -> Learner:
    made = {name: part_of(TORSOS[torso](**({"widths": [6, 5]} | spec)), head, inputs, name) for name in parts}
    return Learner(made, inputs)


def run_probe(agent: Any, seed: int = 0, step: int = 1, **settings: Any) -> Measurements:
    return observe(ProbeObserver(ProbeSettings(**(QUICK | settings)), seed), View(step, 0, agent))


def curves_of(logs: Measurements, part: str = "q") -> Series:
    series = logs[f"probe/curve/{part}"]
    assert isinstance(series, Series)
    return series


def number(logs: Measurements, name: str) -> float:
    value = logs[name]
    assert isinstance(value, float)
    return value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every noise that a probe draws."""
    drawn: list[Tensor] = []

    def note(network: Network, inputs: Tensor, seed: int, space: Space) -> Tensor:
        drawn.append(high_frequency_noise(network, inputs, seed, space))
        return drawn[-1]

    monkeypatch.setattr(probe, "high_frequency_noise", note)
    return drawn


# Noise and targets


def explicit(network: Network, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """sin(1e5 g(x)) for a network of two relu layers, written out, all of it in ``dtype``."""
    hidden = inputs.to(dtype)
    for path in ("torso.layers.dense_1", "torso.layers.dense_2", "head"):
        weight, bias = (network.tensor(f"{path}.linear.{leaf}").detach().to(dtype) for leaf in ("weight", "bias"))
        hidden = (hidden if path.endswith("1") else hidden.clamp(min=0)) @ weight.T + bias
    return torch.sin(1e5 * hidden)


def test_noise_is_the_sine_of_a_fresh_network_in_float64() -> None:
    network = build_network(MLPSpec(widths=[32, 32]), (4,), torch.float32, REGRESSION, 0)
    inputs = vectors(500)
    noise = high_frequency_noise(network, inputs, 7)
    assert (noise.dtype, noise.shape) == (torch.float32, (500, 3))
    other = network.fresh(7)
    torch.testing.assert_close(noise, explicit(other, inputs, torch.float64).float(), rtol=0, atol=1e-6)
    # A float32 output near 0.3 is off by some 1e-8, which is 1e-3 of a radian: small, yet not the same numbers.
    assert (explicit(other, inputs, torch.float32) - noise).abs().max() > 0.001
    # An output of some hundred is off by 1e-5, a whole radian; in float64 by 1e-14.
    large = 1000 * inputs
    noise = high_frequency_noise(network, large, 7)
    torch.testing.assert_close(noise, explicit(other, large, torch.float64).float(), rtol=0, atol=1e-6)
    assert (explicit(other, large, torch.float32) - noise).abs().mean() > 0.2


def test_bytes_are_scaled_in_float64() -> None:
    spec = MLPSpec(widths=[8, 8])
    inputs = images(50)
    network = build_network(spec, (2, 7, 6), torch.uint8, REGRESSION, 0)
    expected = explicit(network.fresh(7), inputs.flatten(1).double() / 255, torch.float64).float()
    torch.testing.assert_close(high_frequency_noise(network, inputs, 7), expected, rtol=0, atol=1e-6)


def test_noise_looks_like_the_sine_of_a_uniform_phase() -> None:
    # Of a uniform phase the sine has mean 0 and variance 1/2; over 15,000 values the mean is good to 0.006 (one sigma).
    network = build_network(MLPSpec(widths=[32, 32]), (4,), torch.float32, REGRESSION, 0)
    noise = high_frequency_noise(network, vectors(5000), 7)
    assert noise.abs().max() <= 1
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.var()) == pytest.approx(0.5, abs=0.02)
    # Nearby inputs get unrelated values.
    nearby = high_frequency_noise(network, vectors(5000) + 1e-3, 7)
    correlation = torch.corrcoef(torch.stack([noise.flatten(), nearby.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.05


def test_noise_depends_on_seed_and_input_alone() -> None:
    network, inputs = build_network(MOVING, (4,), torch.float32, REGRESSION, 0), vectors(40)
    noise = high_frequency_noise(network, inputs, 7)
    torch.manual_seed(99)
    trained = deepcopy(network).train()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1.0)
        trained(vectors(40, seed=1))
    assert torch.equal(high_frequency_noise(trained, inputs, 7), noise)
    rows = torch.tensor([3, 3, 17])
    torch.testing.assert_close(high_frequency_noise(network, inputs[rows], 7), noise[rows], rtol=0, atol=1e-6)
    assert (high_frequency_noise(network, inputs, 8) - noise).abs().mean() > 0.3


@pytest.mark.parametrize("training", [True, False])
def test_targets_are_the_output_plus_the_noise(training: bool) -> None:
    network = build_network(MOVING, (4,), torch.float32, REGRESSION, 0)
    network(vectors(30, seed=1))
    network.train(training)
    before = deepcopy(network.state_dict())
    inputs, noise = vectors(10), torch.rand(10, 3)
    targets = probe_targets(network, inputs, noise)
    assert network.training is training
    assert same(network.state_dict(), before)
    assert torch.equal(targets, network.eval()(inputs).detach() + noise)
    assert not targets.requires_grad


def test_targets_around_the_mean_by_hand() -> None:
    # y = 2 x + 1 of x = 1 and 3 is 3 and 7, with mean 5; the other output is -y, with mean -5.
    network = build_network(MLPSpec(widths=[]), (1,), torch.float32, HeadSpec("regression", 2), 0)
    with torch.no_grad():
        for name, value in {"weight": [[2.0], [-2.0]], "bias": [1.0, -1.0]}.items():
            network.tensor(f"head.linear.{name}").copy_(torch.tensor(value))
    inputs, noise = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5, 0.25], [-0.5, 0.0]])
    assert probe_targets(network, inputs, noise, offset="mean").tolist() == [[5.5, -4.75], [4.5, -5.0]]
    assert probe_targets(network, inputs, noise).tolist() == [[3.5, -2.75], [6.5, -7.0]]


# Inputs


@pytest.mark.parametrize(("count", "expected"), [(1, [2]), (2, [3, 2]), (3, [1, 3, 2]), (9, [1, 3, 2])])
def test_latest_distinct_inputs_by_hand(count: int, expected: list[int]) -> None:
    # 1, 2, 1, 3, 2, 2: their last places are 2, 5 and 3.
    rows = torch.tensor([1, 2, 1, 3, 2, 2], dtype=torch.uint8)
    chosen = latest_distinct(rows.view(6, 1, 1).expand(6, 2, 3), count)
    assert chosen.dtype == torch.uint8
    assert chosen.shape == (len(expected), 2, 3)
    assert chosen[:, 0, 0].tolist() == chosen[:, 1, 2].tolist() == expected


def test_distinct_inputs_stay_as_they_are() -> None:
    inputs = vectors(9)
    assert torch.equal(latest_distinct(inputs, 9), inputs)
    assert torch.equal(latest_distinct(inputs, 4), inputs[-4:])


def test_repeated_inputs_do_not_make_the_probe_easier(noises: list[Tensor]) -> None:
    # Every input is drawn twice; what is fitted are the 16, not 8 of them twice.
    inputs = vectors(16)
    once, twice = learner(inputs), learner(inputs.repeat_interleave(2, dim=0))
    alone, repeated = (run_probe(agent, steps=50) for agent in (once, twice))
    assert [noise.shape[0] for noise in noises] == [16, 16]
    assert number(repeated, "probe/loss") == number(alone, "probe/loss")
    assert number(repeated, "probe/fresh_loss") == number(alone, "probe/fresh_loss")


# Fitting


def test_first_step_of_adam_by_hand() -> None:
    # y = w x + b from 0 to 1 at x = 1: Adam's first step moves w and b by the learning rate 0.1, to y = 0.2 and loss 0.64.
    network = build_network(MLPSpec(widths=[]), (1,), torch.float32, HeadSpec("regression", 1), 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    settings = ProbeSettings(steps=1, batch_size=3, learning_rate=0.1)
    targets = torch.ones(2, 1)
    generator = torch.Generator().manual_seed(0)
    curve = fit(network, torch.ones(2, 1), lambda y, rows: functional.mse_loss(y, targets[rows]), settings, generator)
    assert curve.steps.tolist() == [0, 1]
    assert curve.losses.tolist() == pytest.approx([1.0, 0.64])


def test_batches_come_from_the_generator() -> None:
    # Row numbers as inputs: the loss and the network receive the same rows.
    network = build_network(MLPSpec(widths=[3]), (1,), torch.float32, HeadSpec("regression", 1), 0)
    inputs, seen = torch.arange(5.0).unsqueeze(1), []

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        assert outputs.shape[0] == rows.shape[0]
        if torch.is_grad_enabled():
            seen.append(rows)
        return outputs.square().mean()

    settings = ProbeSettings(steps=4, batch_size=9)
    fit(network, inputs, loss, settings, torch.Generator().manual_seed(3))
    expected = torch.Generator().manual_seed(3)
    assert same(seen, [torch.randint(5, (9,), generator=expected) for _ in range(4)])


@pytest.mark.parametrize("steps", [1, 7, 20, 39, 40, 50, 107])
def test_curve_ends_at_the_last_step(steps: int) -> None:
    x = curves_of(run_probe(learner(vectors(4), widths=[2]), steps=steps, batch_size=2)).x.tolist()
    assert x[0] == 0
    assert x[-1] == steps
    assert x == sorted(set(x))
    assert min(steps, 20) < len(x) <= 41


def test_a_network_with_room_fits_a_few_inputs() -> None:
    logs = run_probe(learner(vectors(4), widths=[64, 64]), steps=800)
    assert number(logs, "probe/loss") < 1e-3
    assert number(logs, "probe/fresh_loss") < 1e-3
    assert number(logs, "probe/explained_variance") > 0.99


def test_a_network_of_dead_units_reaches_the_best_constant_and_no_further(noises: list[Tensor]) -> None:
    # Only the head's bias can move: the best it can do for each output is the mean of its noise, which leaves the variance.
    agent = learner(vectors(16))
    with torch.no_grad():
        for layer in ("dense_1", "dense_2"):
            agent.parts["q"].network.tensor(f"torso.layers.{layer}.linear.weight").zero_()
            agent.parts["q"].network.tensor(f"torso.layers.{layer}.linear.bias").fill_(-1.0)
    logs = run_probe(agent, steps=800, batch_size=64)
    best = float(noises[0].var(0, correction=0).mean())
    start = float(noises[0].square().mean())
    assert start > 1.05 * best
    assert best <= number(logs, "probe/loss") < 1.01 * best
    assert number(logs, "probe/fresh_loss") < 0.95 * best
    assert number(logs, "probe/relative_loss") > 1.05


# The comparison with a fresh network


CASES = {
    "mlp": (MLPSpec(widths=[6, 5]), REGRESSION, vectors(16)),
    "moving_buffers": (MOVING, REGRESSION, vectors(16)),
    "layer_norm_crelu": (MLPSpec(widths=[6], normalisation=["layer"], activations=["crelu"]), REGRESSION, vectors(16)),
    "linear": (MLPSpec(widths=[]), HeadSpec("q", 2), vectors(16)),
    "two_hot": (MLPSpec(widths=[6]), HeadSpec("categorical", 2, bins=5, low=-1.0, high=1.0), vectors(16)),
    "classification": (MLPSpec(widths=[6]), HeadSpec("classification", 4), vectors(16)),
    "conv_bytes": (
        ConvSpec(widths=[5], channels=[3], pools=[2], normalisation=["batch"], load_balancing=BALANCE),
        HeadSpec("q", 2),
        images(16),
    ),
}


@pytest.fixture(params=CASES)
def agent(request: pytest.FixtureRequest) -> Learner:
    """An agent of one part after three updates."""
    spec, head, inputs = CASES[request.param]
    part = part_of(spec, head, inputs)
    for _ in range(3):
        part.step(part.forward(inputs).square().mean(), None)
    return Learner({"q": part}, inputs)


@pytest.mark.parametrize("batch_size", [5, 40])
def test_both_curves_start_at_the_mean_square_of_the_noise(agent: Learner, batch_size: int, noises: list[Tensor]) -> None:
    logs = run_probe(agent, steps=30, batch_size=batch_size)
    curves = curves_of(logs)
    (noise,) = noises
    assert agent.inputs is not None
    assert noise.shape == agent.parts["q"].network.decode(agent.parts["q"].predict(agent.inputs)).shape
    assert curves.ys.keys() == {"aged", "fresh"}
    for losses in curves.ys.values():
        assert losses.shape == curves.x.shape
        assert losses.isfinite().all()
        assert float(losses[0]) == pytest.approx(float(noise.square().mean()), rel=1e-6)
        assert losses[-1] != losses[0]
    assert number(logs, "probe/loss") == float(curves.ys["aged"][-1])
    assert number(logs, "probe/fresh_loss") == float(curves.ys["fresh"][-1])


@dataclass
class Tape:
    """Forwards made by every network, in order of appearance: its weights at first, and its training batches."""

    weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    batches: dict[int, list[Tensor]] = field(default_factory=dict)
    networks: list[Network] = field(default_factory=list)  # kept alive, so that no number is given twice


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    notes, forward = Tape(), TorsoNetwork.forward

    def taped(self: TorsoNetwork, inputs: Tensor) -> Tensor:
        if id(self) not in notes.weights:
            notes.networks.append(self)
            notes.weights[id(self)] = {name: value.detach().clone() for name, value in self.weights().items()}
            notes.batches[id(self)] = []
        if torch.is_grad_enabled():
            assert self.training
            notes.batches[id(self)].append(inputs.clone())
        else:
            assert not self.training
        return forward(self, inputs)

    monkeypatch.setattr(TorsoNetwork, "forward", taped)
    return notes


def test_aged_and_fresh_see_the_same_batches(agent: Learner, tape: Tape) -> None:
    run_probe(agent, random_labels=False)
    noise, aged, fresh = tape.batches.values()
    assert noise == []
    assert len(aged) == len(fresh) == QUICK["steps"]
    assert same(aged, fresh)
    assert not all(torch.equal(batch, aged[0]) for batch in aged)


def test_networks_of_a_probe_share_no_weights(agent: Learner, tape: Tape) -> None:
    part = agent.parts["q"]
    run_probe(agent, random_labels=False)
    run_probe(agent, random_labels=False, step=2)
    noise, aged, fresh, noise_2, aged_2, fresh_2 = tape.weights.values()
    assert id(part.network) not in tape.weights
    assert same(aged, dict(part.network.weights()))
    assert same(aged_2, aged)
    drawn = [part.initial, noise, fresh, noise_2, fresh_2]
    for name in aged:
        values = [tensors[name].float() for tensors in drawn]
        assert not any(torch.equal(a, b) for index, a in enumerate(values) for b in values[:index])
        assert {value.shape for value in values} == {part.initial[name].shape}
    assert {value.dtype for value in noise.values()} == {torch.float64}


def test_random_labels_pair_the_networks_too(tape: Tape) -> None:
    spec, head, inputs = CASES["classification"]
    part = part_of(spec, head, inputs)
    run_probe(Learner({"q": part}, inputs))
    _, aged, _, label_aged, label_fresh = tape.batches.values()
    assert same(label_aged, label_fresh)
    assert not same(label_aged, aged)
    _, start, fresh_start, label_start, label_fresh_start = tape.weights.values()
    assert same(start, label_start)
    assert same(fresh_start, label_fresh_start)


def test_an_untrained_network_is_about_as_good_as_a_fresh_one() -> None:
    logs = run_probe(learner(vectors(32), widths=[32, 32]), steps=200, inputs=32)
    assert 0.7 < number(logs, "probe/relative_loss") < 1.4


# Values


TWO_HOT = HeadSpec("categorical", 2, bins=5, low=-2.0, high=2.0)


def test_values_are_read_and_learned_by_hand() -> None:
    # Atoms 0, 1, 2; logits of (0.2, 0.3, 0.5) and of (1, 0, 0): values 1.3 and 0. Learning 1.75 and 0 as two-hot, (0, 1/4, 3/4)
    # and (1, 0, 0): cross-entropies -(log 0.3 + 3 log 0.5) / 4 and 0.
    part = part_of(MLPSpec(), HeadSpec("categorical", 2, bins=3, low=0.0, high=2.0), vectors(2))
    space = space_of(part.network, part.value_errors, "values")
    assert isinstance(space, ValueSpace)
    outputs = torch.tensor([[[0.2, 0.3, 0.5], [1.0, 1e-30, 1e-30]]]).log()
    assert space.read(part.network, outputs)[0].tolist() == pytest.approx([1.3, 0.0])
    loss = space.loss(part.network, outputs, torch.tensor([[1.75, 0.0]]))
    assert loss.item() == pytest.approx(-(log(0.3) + 3 * log(0.5)) / 8)
    assert isinstance(space_of(part.network, part.value_errors, "outputs"), OutputSpace)


def test_a_value_with_a_policy_is_read_and_learned_by_hand() -> None:
    # The policy's columns 1 and -1 are to be 2 and -1: squares 1 and 0. The value's error is -(log 0.3 + 3 log 0.5) / 4.
    head = HeadSpec("policy", 2, second=HeadSpec("categorical", 1, bins=3, low=0.0, high=2.0))
    network = part_of(MLPSpec(), head, vectors(2)).network
    coding = ValueCoding("two_hot", 3, 0.0, 2.0)
    space = space_of(network, coding.errors_over(torch.tensor([0.0, 1.0, 2.0])), "values")
    assert isinstance(space, PairSpace)
    outputs = torch.cat([torch.tensor([[1.0, -1.0]]), torch.tensor([[0.2, 0.3, 0.5]]).log()], dim=1)
    assert space.read(network, outputs)[0].tolist() == pytest.approx([1.0, -1.0, 1.3])
    loss = space.loss(network, outputs, torch.tensor([[2.0, -1.0, 1.75]]))
    assert loss.item() == pytest.approx((1 + 0 - (log(0.3) + 3 * log(0.5)) / 4) / 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_two_hot_network_with_room_learns_values(smoothing: float, noises: list[Tensor]) -> None:
    # Its cross-entropy cannot fall to 0, and the error of its values does.
    agent = learner(vectors(4), replace(TWO_HOT, label_smoothing=smoothing), widths=[64, 64])
    logs = run_probe(agent, steps=300, learning_rate=0.005)
    start = float(noises[0].square().mean())
    assert number(logs, "probe/loss") < 0.01 * start
    assert number(logs, "probe/fresh_loss") < 0.01 * start
    assert noises[0].shape == (4, 2)
    assert float(curves_of(logs).ys["aged"][0]) == pytest.approx(start, rel=1e-5)


def test_noise_of_values_is_that_of_the_decoded_network_in_float64() -> None:
    part, inputs = part_of(MLPSpec(widths=[32, 32]), TWO_HOT, vectors(1)), vectors(300)
    space = space_of(part.network, part.value_errors, "values")
    assert space is not None
    noise = high_frequency_noise(part.network, inputs, 7, space)
    other = part.network.fresh(7).double()
    exact = (other(inputs.double()).softmax(-1) @ torch.arange(-2, 3).double()).detach()
    torch.testing.assert_close(noise, torch.sin(1e5 * exact).float(), rtol=0, atol=1e-6)
    assert (torch.sin(1e5 * exact.float()) - noise).abs().max() > 1e-3
    assert float(noise.var()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("head", [HeadSpec("q", 2), HeadSpec("q", 2, pop_art=True), HeadSpec("classification", 3), REGRESSION])
def test_scalars_and_classes_are_the_same_in_either_space(head: HeadSpec) -> None:
    logs = [run_probe(learner(vectors(16), head), space=space, random_labels=False) for space in ("values", "outputs")]
    curves = [own.pop("probe/curve/q") for own in logs]
    assert logs[0] == logs[1]
    assert all(isinstance(curve, Series) for curve in curves)


def test_logits_are_fitted_where_outputs_are_asked_for(noises: list[Tensor]) -> None:
    logs = run_probe(learner(vectors(16), TWO_HOT), space="outputs")
    assert noises[0].shape == (16, 2, 5)
    assert number(logs, "probe/loss") != number(run_probe(learner(vectors(16), TWO_HOT)), "probe/loss")


def dqn_of(builder: PartBuilder, **settings: Any) -> DQN:
    return DQN(DQNSettings(warmup_env_steps=1000, buffer_transitions=100, discount=0.9, **settings), 3, builder)


def ppo_of(builder: PartBuilder, **settings: Any) -> PPO:
    return PPO(PPOSettings(rollout_steps=1000, discount=0.9, **settings), 3, True, builder)


def sac_of(builder: PartBuilder, **settings: Any) -> SAC:
    return SAC(SACSettings(warmup_env_steps=1000, buffer_transitions=100, discount=0.9, **settings), [-1.0], [1.0], builder)


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (lambda b: dqn_of(b, loss="two_hot", label_smoothing=0.1), {"q": 3}),
        (lambda b: dqn_of(b, loss="hl_gauss"), {"q": 3}),
        (lambda b: dqn_of(b, loss="categorical", dueling=True, stream_widths=[4], noise_deviation=0.1), {"q": 3}),
        (lambda b: ppo_of(b, value_loss="two_hot"), {"actor": 3, "critic": 1}),
        (lambda b: ppo_of(b, value_loss="hl_gauss", shared_torso=True), {"actor_critic": 4}),
        (lambda b: sac_of(b, value_loss="hl_gauss"), {"actor": 2, "critic": 2}),
    ],
    ids=["two_hot", "hl_gauss", "rainbow", "ppo", "ppo_shared", "sac"],
)
def test_parts_of_every_agent_are_probed_as_values(
    make: Callable[[PartBuilder], Any], columns: dict[str, int], noises: list[Tensor]
) -> None:
    agent = make(PartBuilder(MLPSpec(widths=[6, 5]), (4,), torch.float32, OptimizerSettings()))
    seen = transitions(16, 0).batch
    assert isinstance(seen, Transitions)
    actions = seen.actions.float().unsqueeze(1) - 1 if isinstance(agent, SAC) else seen.actions
    agent.learn(Experience(seen._replace(actions=actions), 0))
    logs = run_probe(agent)
    assert {name: noise.shape[1:] for name, noise in zip(agent.parts, noises, strict=True)} == {
        name: (count,) for name, count in columns.items()
    }
    for name, noise in zip(agent.parts, noises, strict=True):
        for losses in curves_of(logs, name).ys.values():
            assert float(losses[0]) == pytest.approx(float(noise.square().mean()), rel=1e-4)
            assert losses[-1] != losses[0]


def test_a_part_that_does_not_say_how_it_learns_values_is_not_probed_by_a_guess() -> None:
    agent = learner(vectors(16), TWO_HOT)
    agent.parts["q"].value_errors = None
    value = run_probe(agent)["probe/loss"]
    assert isinstance(value, Undefined)
    assert value.reason.endswith("probe.space=outputs fits logits")
    assert number(run_probe(agent, space="outputs"), "probe/loss") > 0


# Random labels


def test_fresh_network_memorises_random_labels() -> None:
    logs = run_probe(learner(vectors(64), HeadSpec("classification", 10), widths=[64, 64]), inputs=64, batch_size=64, steps=400)
    assert number(logs, "probe/fresh_random_label_accuracy") > 0.8
    assert number(logs, "probe/random_label_accuracy") > 0.8
    assert number(logs, "probe/fresh_random_label_loss") < 0.5 * log(10)


def test_a_dead_classifier_memorises_only_the_commonest_label() -> None:
    agent = learner(vectors(64), HeadSpec("classification", 10))
    with torch.no_grad():
        agent.parts["q"].network.tensor("torso.layers.dense_2.linear.bias").fill_(-1e6)
    logs = run_probe(agent, inputs=64, batch_size=64, steps=300, learning_rate=0.01)
    # The commonest of 10 labels has at least 7 of 64 rows.
    assert 7 / 64 <= number(logs, "probe/random_label_accuracy") < 0.3
    assert number(logs, "probe/random_label_loss") > 2.0


def test_random_labels_are_for_classifiers_that_want_them() -> None:
    asked = run_probe(learner(vectors(16), HeadSpec("classification", 4)))
    keys = {f"{prefix}random_label_{key}" for prefix in ("", "fresh_") for key in ("loss", "accuracy")}
    assert {name for name in asked if "random" in name} == {f"probe/{key}{suffix}" for key in keys for suffix in ("", "/q")}
    assert not [name for name in run_probe(learner(vectors(16))) if "random" in name]
    declined = run_probe(learner(vectors(16), HeadSpec("classification", 4)), random_labels=False)
    assert declined.keys() == {name for name in asked if "random" not in name}


# The numbers


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[float]]]:
    """Curves to return in turn instead of fitting, and the noise: 1, -1, 3, 1, with mean 1 and variance 2."""
    script: dict[str, list[list[float]]] = {"curves": [], "noise": [[1.0, -1.0], [3.0, 1.0]]}

    def curve(*_: Any) -> Curve:
        return Curve(torch.tensor([0, 1, 2]), torch.tensor(script["curves"].pop(0)))

    monkeypatch.setattr(probe, "fit", curve)
    monkeypatch.setattr(probe, "high_frequency_noise", lambda *_: torch.tensor(script["noise"]))
    return script


HAND = {
    "loss": 1.0,
    "fresh_loss": 0.5,
    "relative_loss": 2.0,
    "explained_variance": 0.5,  # 1 - 1 / 2
    "auc": 7 / 3,
    "fresh_auc": 1.5,
}


def test_numbers_by_hand(given: dict[str, list[list[float]]]) -> None:
    given["curves"] = [[4.0, 2.0, 1.0], [3.0, 1.0, 0.5]]
    logs = run_probe(learner(vectors(2), HeadSpec("regression", 2)))
    curves = curves_of(logs)
    assert curves.x.tolist() == [0, 1, 2]
    assert {name: losses.tolist() for name, losses in curves.ys.items()} == {"aged": [4.0, 2.0, 1.0], "fresh": [3.0, 1.0, 0.5]}
    del logs["probe/curve/q"]
    assert logs == pytest.approx({f"probe/{key}{suffix}": value for key, value in HAND.items() for suffix in ("", "/q")})


def test_numbers_of_two_parts_are_averaged(given: dict[str, list[list[float]]]) -> None:
    # The second part: loss 2 and fresh loss 2, ratio 1, no variance explained.
    given["curves"] = [[4.0, 2.0, 1.0], [3.0, 1.0, 0.5], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    logs = run_probe(learner(vectors(2), HeadSpec("regression", 2), parts=("actor", "critic")))
    assert number(logs, "probe/loss") == 1.5
    assert number(logs, "probe/relative_loss") == 1.5
    assert number(logs, "probe/explained_variance") == 0.25
    assert (number(logs, "probe/relative_loss/actor"), number(logs, "probe/relative_loss/critic")) == (2.0, 1.0)
    assert curves_of(logs, "critic").ys["aged"].tolist() == [2.0, 2.0, 2.0]


def test_numbers_of_two_targets_are_averaged_and_logged_one_by_one(given: dict[str, list[list[float]]]) -> None:
    # Of each output the noise is 1 away from its mean: the best constant leaves 1. The second target is fitted to 0.5 from 2,
    # by the fresh network to 0.25.
    given["curves"] = [[4.0, 2.0, 1.0], [3.0, 1.0, 0.5], [2.0, 2.0, 0.5], [1.0, 1.0, 0.25]]
    logs = run_probe(learner(vectors(2), HeadSpec("regression", 2)), targets=2, offset="mean")
    second = {"loss": 0.5, "fresh_loss": 0.25, "relative_loss": 2.0, "explained_variance": 0.75, "auc": 1.5, "fresh_auc": 0.75}
    each = [HAND | {"baseline_loss": 1.0, "plasticity": 0.0}, second | {"baseline_loss": 1.0, "plasticity": 0.5}]
    curves = curves_of(logs)
    assert {name: losses.tolist() for name, losses in curves.ys.items()} == {"aged": [3.0, 2.0, 0.75], "fresh": [2.0, 1.0, 0.375]}
    del logs["probe/curve/q"]
    expected = {key: (each[0][key] + each[1][key]) / 2 for key in each[0]}
    expected |= {f"{key}_repeat_{number}": value for number, own in enumerate(each) for key, value in own.items()}
    assert logs == pytest.approx({f"probe/{key}{suffix}": value for key, value in expected.items() for suffix in ("", "/q")})


def test_the_first_of_several_targets_is_that_of_a_single_probe(noises: list[Tensor]) -> None:
    agent = learner(vectors(16), HeadSpec("classification", 4))
    single, several = run_probe(agent), run_probe(agent, targets=3)
    assert torch.equal(noises[0], noises[1])
    assert not any(torch.equal(a, b) for index, a in enumerate(noises[1:]) for b in noises[2 + index :])
    for key in HAND:
        each = [number(several, f"probe/{key}_repeat_{place}") for place in range(3)]
        assert each[0] == number(single, f"probe/{key}")
        assert len(set(each)) == 3
        assert number(several, f"probe/{key}") == pytest.approx(sum(each) / 3)
    assert number(several, "probe/random_label_loss") == number(single, "probe/random_label_loss")
    assert {name for name in several if "random" in name} == {name for name in single if "random" in name}
    assert not {name for name in single if "repeat" in name or "plasticity" in name or "baseline" in name}


def test_around_the_mean_a_dead_network_has_no_plasticity_and_one_with_room_all_of_it(noises: list[Tensor]) -> None:
    agent = learner(vectors(16))
    with torch.no_grad():
        for layer in ("dense_1", "dense_2"):
            agent.parts["q"].network.tensor(f"torso.layers.{layer}.linear.weight").zero_()
            agent.parts["q"].network.tensor(f"torso.layers.{layer}.linear.bias").fill_(-1.0)
    logs = run_probe(agent, steps=800, batch_size=64, offset="mean")
    baseline = float(noises[0].var(0, correction=0).mean())
    assert number(logs, "probe/baseline_loss") == pytest.approx(baseline)
    assert -0.01 * baseline < number(logs, "probe/plasticity") <= 0
    roomy = run_probe(learner(vectors(4), widths=[64, 64]), steps=800, offset="mean")
    assert number(roomy, "probe/plasticity") == pytest.approx(number(roomy, "probe/baseline_loss"), abs=1e-3)
    assert number(roomy, "probe/baseline_loss") > 0.1


def test_a_perfect_fresh_network_leaves_no_ratio(given: dict[str, list[list[float]]]) -> None:
    given["curves"] = [[4.0, 2.0, 1.0], [3.0, 1.0, 0.0], [4.0, 2.0, 1.0], [3.0, 1.0, 0.5]]
    logs = run_probe(learner(vectors(2), HeadSpec("regression", 2), parts=("actor", "critic")))
    for name in ("probe/relative_loss", "probe/relative_loss/actor"):
        value = logs[name]
        assert isinstance(value, Undefined)
        assert value.reason == "the fresh network fits exactly"
    assert number(logs, "probe/relative_loss/critic") == 2.0
    assert number(logs, "probe/fresh_loss") == 0.25


def test_noise_without_variance_leaves_none_to_explain() -> None:
    logs = run_probe(learner(vectors(1), HeadSpec("regression", 1)), inputs=1)
    for name in ("probe/explained_variance", "probe/explained_variance/q"):
        value = logs[name]
        assert isinstance(value, Undefined)
        assert value.reason == "the noise is the same everywhere"
    assert number(logs, "probe/loss") >= 0


# When, and on what


def test_settings_say_when() -> None:
    observer = ProbeObserver(ProbeSettings(every_steps=10), 0)
    assert [step for step in range(1, 40) if observer.due(step - 1, step)] == [10, 20, 30]
    assert not any(ProbeObserver(ProbeSettings(every_steps=0), 0).due(step, step + 8) for step in range(100))
    assert not observer.at_task_switch


@pytest.mark.parametrize(
    ("setting", "value", "least"),
    [
        ("every_steps", -1, 0),
        ("steps", 0, 1),
        ("inputs", 0, 1),
        ("batch_size", 0, 1),
        ("learning_rate", -0.1, 0),
        ("targets", 0, 1),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: float, least: int) -> None:
    with pytest.raises(ValueError, match=f"probe.{setting}={value} must be at least {least}"):
        ProbeSettings(**{setting: value})  # type: ignore[arg-type]


def test_an_unknown_space_or_offset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^probe.space=logits is unknown; choose from values, outputs$"):
        ProbeSettings(space="logits")
    with pytest.raises(ValueError, match=r"^probe.offset=zzz is unknown; choose from prediction, mean$"):
        ProbeSettings(offset="zzz")


def test_no_inputs_yet() -> None:
    agent = learner(vectors(2))
    agent.inputs = None
    logs = run_probe(agent)
    assert logs.keys() == {"probe/loss"}
    assert isinstance(logs["probe/loss"], Undefined)
    assert logs["probe/loss"].reason == "there are no inputs yet"


def test_inputs_are_asked_for_with_a_generator_of_seed_part_and_step() -> None:
    states = []
    for seed, step in [(0, 1), (0, 2), (1, 1)]:
        agent = learner(vectors(16), widths=[2], parts=("actor", "critic"))
        run_probe(agent, seed, step, steps=1, inputs=9)
        assert [(part, count) for part, count, _ in agent.asked] == [("actor", 4 * 9), ("critic", 4 * 9)]
        states += [state for _, _, state in agent.asked]
    assert not any(torch.equal(a, b) for index, a in enumerate(states) for b in states[:index])


def test_the_same_step_gives_the_same_numbers_and_another_step_others() -> None:
    agent = learner(vectors(16), HeadSpec("classification", 4))
    numbers = []
    for step in (1, 1, 2):
        logs = run_probe(agent, step=step)
        del logs["probe/curve/q"]
        numbers.append(logs)
        torch.manual_seed(99)
    assert numbers[0] == numbers[1]
    assert all(numbers[0][name] != numbers[2][name] for name in ("probe/loss", "probe/fresh_loss", "probe/random_label_loss"))


# Without a trace


@pytest.mark.parametrize("training", [True, False])
def test_part_is_left_as_it_was(agent: Learner, training: bool) -> None:
    part = agent.parts["q"]
    with part.network.taps.record():
        part.step(part.forward(agent.inputs).square().mean(), None)  # type: ignore[arg-type]
    part.network.train(training)
    before, random = deepcopy(part.state_dict()), torch.get_rng_state()
    gradients = [(p.grad, p.grad.clone()) for p in part.network.parameters() if p.grad is not None]
    taps = dict(part.network.taps.post)
    modes = [module.training for module in part.network.modules()]
    run_probe(agent)
    assert same(part.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert part.network.training is training
    assert [module.training for module in part.network.modules()] == modes
    assert gradients
    for parameter, (old, value) in zip(part.network.parameters(), gradients, strict=True):
        assert parameter.grad is old
        assert torch.equal(old, value)
    assert all(part.network.taps.post[name] is tensor for name, tensor in taps.items())


def transitions(count: int, seed: int) -> Experience:
    generator = torch.Generator().manual_seed(seed)
    now, then = torch.randn(2, count, 4, generator=generator)
    never = torch.zeros(count, dtype=torch.bool)
    actions = torch.randint(3, (count,), generator=generator)
    return Experience(Transitions(now, actions, torch.rand(count, generator=generator), never, never, then), 0)


@pytest.mark.parametrize("method", [None, "redo", "continual_backprop", "shrink_and_perturb"])
def test_a_run_is_the_same_with_and_without_probes(method: str | None) -> None:
    ends = []
    for probed in (True, False):
        torch.manual_seed(5)
        methods = {} if method is None else {method: INTERVENTIONS[method]}
        builder = PartBuilder(MOVING, (4,), torch.float32, OptimizerSettings(), methods)
        dqn = DQN(DQNSettings(warmup_env_steps=0, batch_size=8, buffer_transitions=100), 3, builder)
        for step in range(10):
            dqn.learn(transitions(4, step))
            if probed and step % 4 == 1:
                run_probe(dqn, step=step)
        ends.append((deepcopy(dqn.state_dict()), torch.get_rng_state()))
    assert same(ends[0], ends[1])
