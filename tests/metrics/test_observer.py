from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.agent import Agent
from plasticity.agents.dqn.agent import DQN, DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics.catalogue import groups
from plasticity.metrics.log_values import Heatmap, Histogram, Matrix, Measurements
from plasticity.metrics.observer import MetricsObserver, MetricsSettings, observe, passes
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import View
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

RICH = MLPSpec(widths=[6, 5], normalisation=["batch"], load_balancing=LoadBalancingSpec(low=0.5, high=0.5))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def builder(*methods: str, **spec: Any) -> PartBuilder:
    chosen = {name: INTERVENTIONS[name] for name in methods}
    return PartBuilder(MLPSpec(**({"widths": [6, 5]} | spec)), (4,), torch.float32, OptimizerSettings(), chosen)


def transitions(count: int, seed: int) -> Experience:
    generator = torch.Generator().manual_seed(seed)
    now, then = torch.randn(2, count, 4, generator=generator)
    never = torch.zeros(count, dtype=torch.bool)
    actions = torch.randint(3, (count,), generator=generator)
    return Experience(Transitions(now, actions, torch.rand(count, generator=generator), never, never, then), 0)


def examples(count: int, seed: int) -> Experience:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return Experience(Examples(inputs, torch.randint(3, (count,), generator=generator)), 0)


def dqn(*methods: str, **spec: Any) -> DQN:
    return DQN(DQNSettings(warmup_env_steps=0, batch_size=8, buffer_transitions=100), 3, builder(*methods, **spec))


def supervised(*methods: str, **spec: Any) -> SupervisedLearner:
    return SupervisedLearner(SupervisedSettings(), 3, True, builder(*methods, **spec))


AGENTS: dict[str, tuple[Callable[..., Agent], Callable[[int, int], Experience]]] = {
    "dqn": (dqn, transitions),
    "supervised": (supervised, examples),
}


@dataclass
class Asked:
    """An agent of two parts that notes the requests that it gets."""

    parts: dict[str, Updater]
    available: int = 20
    calls: list[tuple[str, int, Tensor]] = field(default_factory=list)

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        self.calls.append((part, count, generator.get_state()))
        return torch.randn(min(count, self.available), 4, generator=generator) if self.available else None


def asked(available: int = 20, **spec: Any) -> Asked:
    make = builder(**spec)
    return Asked({name: make(name, HeadSpec("regression", 2)) for name in ("actor", "critic")}, available)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def plain(logs: Measurements) -> dict[str, Any]:
    """Measurements as numbers that compare equal to themselves: an undefined value as its reason."""
    found: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, Undefined):
            found[name] = value.reason
        else:
            rich = isinstance(value, Histogram | Heatmap | Matrix)
            found[name] = [part.tolist() for part in value if isinstance(part, Tensor)] if rich else float(value)  # type: ignore[arg-type, union-attr]
    return found


# When


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("every", [8, 10, 24, 100])
def test_fires_equally_often_at_every_stride(stride: int, every: int) -> None:
    steps = range(0, 2400, stride)
    fired = [step + stride for step in steps if passes(step, step + stride, every)]
    assert len(fired) == 2400 // every
    assert all(0 <= step % every < stride for step in fired)


def test_fires_once_where_a_step_passes_several_periods() -> None:
    assert [passes(step, step + 8, 3) for step in (0, 8, 16)] == [True] * 3


def test_fires_at_the_multiple_itself_and_not_again_after_it() -> None:
    assert [passes(step - 1, step, 4) for step in range(1, 10)] == [False, False, False, True, False, False, False, True, False]
    assert not passes(0, 3, 4)
    assert not passes(4, 4, 4)
    assert not passes(4, 7, 4)


def test_zero_is_never() -> None:
    assert not any(passes(step, step + stride, 0) for step in range(50) for stride in (1, 3, 8))


@pytest.mark.parametrize(
    ("settings", "fires", "switch"), [({}, 2, True), ({"at_task_switch": False, "every_steps": 0}, 0, False)]
)
def test_settings_say_when(settings: dict[str, Any], fires: int, switch: bool) -> None:
    observer = MetricsObserver(MetricsSettings(**settings), seed=0)
    assert sum(observer.due(step, step + 1) for step in range(2000)) == fires
    assert observer.at_task_switch is switch


# What


def test_names_are_those_promised() -> None:
    observer, agent = MetricsObserver(MetricsSettings(), seed=0), asked()
    for part in agent.parts.values():
        part.step(part.forward(torch.ones(2, 4)).sum(), None)
    logs = observe(observer, View(1, 0, agent))
    layers = {f"{part}/{layer}" for part in ("actor", "critic") for layer in ("dense_1", "dense_2")}
    expected = {f"plasticity/firing_rate{kind}/{layer}" for layer in layers for kind in ("s", "_heatmap")}
    expected |= {"plasticity/firing_rate_heatmap"}
    with_heads = ("weight_", "distance_", "relative_", "gradient_", "update_", "intervention_")
    for name in groups()["default"]:
        blocks = layers | ({"actor/head", "critic/head"} if name.startswith(with_heads) else set())
        expected |= {f"plasticity/{name}"} | {f"plasticity/{name}/{block}" for block in blocks}
    assert logs.keys() == expected
    assert not any(isinstance(value, Undefined) for value in logs.values())


def test_names_choose_metrics_in_their_order() -> None:
    settings = MetricsSettings(names=["srank", "dead_fraction"], histograms=False, heatmaps=False)
    logs = MetricsObserver(settings, seed=0).measure(View(1, 0, asked(widths=[3])))
    suffixes = ("", "/actor/dense_1", "/critic/dense_1")
    assert list(logs) == [f"plasticity/{name}{suffix}" for name in ("srank", "dead_fraction") for suffix in suffixes]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "dormant_fractoin",
            r"metrics.names=dormant_fractoin is unknown \(did you mean dormant_fraction\?\); choose from default, all, dormant_",
        ),
        ("zzz", r"metrics.names=zzz is unknown; choose from default, all, dormant_fraction, .*, moment_gradient_cosine$"),
    ],
)
def test_unknown_names_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        MetricsSettings(names=["srank", name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("setting", "value"), [("every_steps", -1), ("inputs", 1)])
def test_settings_that_make_no_sense_are_refused(setting: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"metrics.{setting}={value} must be at least"):
        MetricsSettings(**{setting: value})  # type: ignore[arg-type]


def test_histograms_are_the_firing_rates_of_the_layers_that_have_them() -> None:
    agent = asked(widths=[6, 5, 4, 3], activations=["relu", "tanh", "crelu", "identity"])
    logs = MetricsObserver(MetricsSettings(), seed=0).measure(View(1, 0, agent))
    histograms = {name: value for name, value in logs.items() if isinstance(value, Histogram)}
    places = {"actor/dense_1": 6, "actor/dense_3": 4, "critic/dense_1": 6, "critic/dense_3": 4}
    assert {name: len(value.values) for name, value in histograms.items()} == {
        f"plasticity/firing_rates/{place}": units for place, units in places.items()
    }
    for place in places:
        rates = histograms[f"plasticity/firing_rates/{place}"].values
        assert rates.min() >= 0
        assert rates.max() <= 1
        assert float(rates.mean()) == pytest.approx(float(logs[f"plasticity/firing_rate/{place}"]))  # type: ignore[arg-type]
        assert len(rates.unique()) > 1


def test_histograms_can_be_left_out() -> None:
    logs = MetricsObserver(MetricsSettings(histograms=False), seed=0).measure(View(1, 0, asked()))
    assert not any(isinstance(value, Histogram) for value in logs.values())


def test_no_inputs_yet() -> None:
    logs = MetricsObserver(MetricsSettings(), seed=0).measure(View(1, 0, asked(available=0)))
    assert plain(logs)["plasticity/dormant_fraction"] == "there are no inputs yet"
    assert plain(logs)["plasticity/effective_rank"] == "there are no inputs yet"
    assert float(logs["plasticity/weight_norm"]) > 0  # type: ignore[arg-type]
    assert not any(isinstance(value, Histogram) for value in logs.values())
    assert all(isinstance(value, Undefined) for value in logs.values() if isnan(float(value)))  # type: ignore[arg-type]


def gradient_norm(parameters: list[torch.nn.Parameter]) -> float:
    return float(torch.stack([parameter.grad.norm() for parameter in parameters if parameter.grad is not None]).norm())


def test_update_measured_is_the_first_or_the_last_hundredth() -> None:
    agent = dqn()
    observer = MetricsObserver(MetricsSettings(names=["gradient_norm"], histograms=False, heatmaps=False), seed=0)
    parameters = list(agent.q.network.parameters())
    assert plain(observe(observer, View(0, 0, agent)))["plasticity/gradient_norm"] == "no update has been traced yet"
    reported, real = [], []
    for step in range(1, 206):
        agent.learn(transitions(1, step))
        real.append(gradient_norm(parameters))
        reported.append(plain(observe(observer, View(step, 0, agent)))["plasticity/gradient_norm"])
    assert len({round(norm, 6) for norm in real}) > 200  # no two updates alike, so that the wrong one would show
    assert reported == pytest.approx([real[0]] * 99 + [real[99]] * 100 + [real[199]] * 6)


# Without a trace


def test_sample_is_drawn_from_a_generator_of_seed_part_and_step() -> None:
    states: dict[tuple[int, int, str], Tensor] = {}
    for seed, step in [(0, 1), (0, 2), (1, 1)]:
        agent = asked()
        MetricsObserver(MetricsSettings(inputs=7), seed).measure(View(step, 0, agent))
        assert [(part, count) for part, count, _ in agent.calls] == [("actor", 7), ("critic", 7)]
        states |= {(seed, step, part): state for part, _, state in agent.calls}
    keys = list(states)
    assert all(not torch.equal(states[a], states[b]) for a in keys for b in keys if a != b)


@pytest.mark.parametrize("name", AGENTS)
def test_measuring_twice_gives_the_same_numbers(name: str) -> None:
    make, experience = AGENTS[name]
    agent = make()
    observer = MetricsObserver(MetricsSettings(inputs=10, heatmaps=False), seed=0)
    agent.learn(experience(30, 0))
    first = plain(observe(observer, View(5, 0, agent)))
    torch.manual_seed(99)
    assert plain(observe(observer, View(5, 0, agent))) == first
    assert plain(observe(MetricsObserver(MetricsSettings(inputs=10, heatmaps=False), seed=0), View(5, 0, agent))) == first


def test_another_step_measures_another_sample() -> None:
    agent = dqn()
    agent.learn(transitions(30, 0))
    observer = MetricsObserver(MetricsSettings(inputs=10, names=["effective_rank"], heatmaps=False), seed=0)
    assert plain(observe(observer, View(5, 0, agent))) != plain(observe(observer, View(6, 0, agent)))


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("methods", [(), ("continual_backprop",), ("redo", "l2_init")])
def test_a_run_is_the_same_with_and_without_metrics(name: str, methods: tuple[str, ...]) -> None:
    make, experience = AGENTS[name]
    observer = MetricsObserver(MetricsSettings(names=["all"]), seed=0)
    ends = []
    for measured in (True, False):
        torch.manual_seed(5)
        agent = make(*methods, normalisation=["batch"], load_balancing=RICH.load_balancing)
        for step in range(12):
            agent.learn(experience(4, step))
            if measured and step % 4 == 0:
                observe(observer, View(step, 0, agent))
        ends.append((deepcopy(agent.state_dict()), torch.get_rng_state()))
    assert same(ends[0], ends[1])


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("training", [True, False])
def test_a_measurement_leaves_everything_as_it_was(name: str, training: bool) -> None:
    make, experience = AGENTS[name]
    agent = make(normalisation=["batch"], load_balancing=RICH.load_balancing)
    agent.learn(experience(30, 0))
    (part,) = agent.parts.values()
    part.network.train(training)
    before, random = deepcopy(agent.state_dict()), torch.get_rng_state()
    gradients = [parameter.grad for parameter in part.network.parameters()]
    observe(MetricsObserver(MetricsSettings(names=["all"]), seed=0), View(1, 0, agent))
    assert same(agent.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training is training for module in part.network.modules())
    assert all(parameter.grad is old for parameter, old in zip(part.network.parameters(), gradients, strict=True))


class Careless:
    """An observer that draws from the global generator and asks for gradients; it fails if told to."""

    at_task_switch = False

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.graph = True

    def due(self, before: int, after: int) -> bool:
        return True

    def measure(self, view: View) -> Measurements:
        torch.rand(100)
        self.graph = torch.ones(1, requires_grad=True).exp().requires_grad
        if self.fails:
            raise RuntimeError("no")
        return {"answer": 1.0}


@pytest.mark.parametrize("fails", [False, True])
def test_observe_shields_the_run_from_any_observer(fails: bool) -> None:
    random, observer = torch.get_rng_state(), Careless(fails)
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            observe(observer, View(1, 0, asked()))
    else:
        assert observe(observer, View(1, 0, asked())) == {"answer": 1.0}
    assert torch.equal(torch.get_rng_state(), random)
    assert not observer.graph
    assert torch.is_grad_enabled()


# What it remembers


def test_costs_are_told_once_in_a_run_and_after_the_first_update() -> None:
    agent, settings = supervised(), MetricsSettings(names=["srank", "dead_fraction"])
    observer = MetricsObserver(settings, seed=0)
    observe(observer, View(1, 0, agent))
    assert observer.remarks() == {}
    agent.learn(examples(30, 0))
    observe(observer, View(2, 0, agent))
    (line,) = observer.remarks().values()
    assert all(name in line for name in ("srank", "dead_fraction", "forward"))
    resumed = MetricsObserver(settings, seed=0)
    resumed.load_state_dict(observer.state_dict())
    for told in (observer, resumed):
        observe(told, View(3, 0, agent))
        assert told.remarks() == {}


def test_features_are_compared_on_the_inputs_of_the_measurement_before() -> None:
    agent, settings = dqn(), MetricsSettings(inputs=20, names=["feature_drift", "feature_change"])
    observer, resumed = MetricsObserver(settings, seed=0), MetricsObserver(settings, seed=0)
    agent.learn(transitions(30, 0))
    first = plain(observe(observer, View(1, 0, agent)))
    assert first["plasticity/feature_change"] == "there was no measurement before"
    unchanged = plain(observe(observer, View(2, 0, agent)))
    assert unchanged["plasticity/feature_change"] == 0.0
    assert unchanged["plasticity/feature_drift"] == pytest.approx(0.0, abs=1e-12)
    resumed.load_state_dict(observer.state_dict())
    agent.learn(transitions(5, 1))
    logs = [plain(observe(seer, View(3, 0, agent))) for seer in (observer, resumed)]
    assert logs[0] == logs[1]
    assert logs[0]["plasticity/feature_change"] > 0
