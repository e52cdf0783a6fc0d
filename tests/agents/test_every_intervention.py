"""What must hold for every method besides the laws: resuming under SGD with momentum, bf16, other runs' checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from frequent_settings import FREQUENT
from registries import built_in_interventions
from torch import Tensor

from plasticity.agents.agent import Agent
from plasticity.agents.dqn.agent import DQN, DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience, Transitions
from plasticity.interventions.base import Intervention
from plasticity.networks.spec import NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

BuildPart = Callable[..., PartBuilder]

METHODS = built_in_interventions()
COMBINATIONS = [
    ["layer_norm", "l2", "redo"],
    ["continual_backprop", "shrink_and_perturb", "adam_state_reset", "l2_init"],
    ["load_balancing", "redo", "continual_backprop", "reset"],
]
CHOICES = [[name] for name in METHODS] + COMBINATIONS
# Methods that only some agents can run, others being refused.
ONLY = {"dr3": "dqn", "sample_weight_decay": "dqn"}
LEARNERS = [names for names in CHOICES if not ONLY.keys() & set(names)]
OF_ADAM = {"adam_state_reset", "adam_rel"}
# Methods that read or write the optimizer's state. The laws show with Adam that a run with each of the
# others continues exactly, and three of them at once do so here.
OF_THE_OPTIMIZER = {name for name, cls in METHODS.items() if "optimizer_state" in getattr(cls, "__dataclass_fields__", {})}
HALF = 9


def factories(names: list[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[[], Intervention]]:
    return {name: lambda name=name: METHODS[name](**settings.get(name, {})) for name in names}  # type: ignore[misc]


def build(
    kind: str,
    builder: BuildPart,
    names: list[str],
    settings: Mapping[str, Mapping[str, Any]] = FREQUENT,
    seed: int = 0,
    optimizer: str = "adam",
    spec: NetworkSpec | None = None,
) -> Agent:
    momentum = 0.0 if optimizer == "adam" else 0.9
    part = builder(
        factories(names, settings),
        seed,
        spec or ConvSpec(widths=[6], channels=[4], pools=[2], activations=["relu", "crelu"]),
        inputs=(1, 6, 6),
        optimizer=OptimizerSettings(optimizer, 0.01, momentum=momentum, max_gradient_norm=1.0),
    )
    if kind == "supervised":
        return SupervisedLearner(SupervisedSettings(recent_examples=30), 3, True, part)
    chosen = DQNSettings(
        batch_size=8, warmup_env_steps=0, buffer_transitions=40, target_every_updates=4, env_steps_per_update=4, epsilon_end=0.3
    )
    return DQN(chosen, 3, part)


def experience(kind: str, index: int, agent: Agent) -> Experience:
    """Four environment steps or eight examples, the same at each call with the same index; actions are the agent's."""
    generator = torch.Generator().manual_seed(index)
    inputs = torch.randn(8, 1, 6, 6, generator=generator)
    labels = torch.randint(3, (8,), generator=generator)
    if kind == "supervised":
        return Experience(Examples(inputs, labels), 0)
    ends = torch.rand(4, generator=generator) < 0.2
    rewards = torch.rand(4, generator=generator)
    return Experience(Transitions(inputs[:4], agent.act(inputs[:4]), rewards, ends, ~ends, inputs[4:]), 0)


def run(kind: str, agent: Agent, first: int, count: int) -> list[dict[str, Any]]:
    logs: list[dict[str, Any]] = []
    for index in range(first, first + count):
        if index in (6, 12):
            logs.append(agent.switch_task(index // 6))
        logs.append(agent.learn(experience(kind, index, agent)))
    return logs


def part_of(agent: Agent) -> Updater:
    return next(iter(agent.parts.values()))


def state(agent: Agent) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in part_of(agent).network.state_dict().items()}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, marks=() if len(names) > 1 or {*names} & (OF_ADAM | OF_THE_OPTIMIZER) else pytest.mark.slow)
        for names in CHOICES
    ],
    ids="-".join,
)
def test_resuming_equals_going_on(builder: BuildPart, same: Any, through_disk: Any, names: list[str]) -> None:
    kind, optimizer = next((ONLY[name] for name in names if name in ONLY), "supervised"), "sgd"
    if OF_ADAM & set(names):
        with pytest.raises(ValueError, match=r"adam_.* needs optimizer=adam, not sgd"):
            build(kind, builder, names, optimizer=optimizer)
        return
    whole = build(kind, builder, names, optimizer=optimizer)
    run(kind, whole, 0, HALF)
    half = through_disk(whole.state_dict())
    resumed = build(kind, builder, names, seed=5, optimizer=optimizer)
    resumed.load_state_dict(through_disk(half))
    assert same(half, resumed.state_dict())
    logs, others = (run(kind, agent, HALF, HALF) for agent in (whole, resumed))
    assert same(logs, others)
    assert same(whole.state_dict(), resumed.state_dict())
    assert not same(half, resumed.state_dict())


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_values_stay_finite_and_logs_are_scalars(builder: BuildPart, names: list[str]) -> None:
    agent = build("supervised", builder, names)
    for logs in run("supervised", agent, 0, 2 * HALF):
        for key, value in logs.items():
            assert key.split("/")[0] in {*names, "train", "online"}
            assert torch.as_tensor(value).shape == ()
            assert torch.isfinite(torch.as_tensor(value))
    assert all(torch.isfinite(value).all() for value in state(agent).values())


@pytest.mark.parametrize(
    "activation", ["crelu", pytest.param("relu", marks=pytest.mark.slow), pytest.param("abs", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("names", LEARNERS, ids="-".join)
def test_every_method_runs_in_bf16_on_every_layout(builder: BuildPart, names: list[str], activation: str) -> None:
    spec = ConvSpec(widths=[6, 5], channels=[4, 3], paddings=[1], activations=[activation], normalisation=["batch_std"])
    part = builder(factories(names, FREQUENT), 0, spec, (1, 6, 6), autocast=torch.bfloat16)
    agent = SupervisedLearner(SupervisedSettings(), 3, True, part)
    run("supervised", agent, 0, 7)  # the seventh after a task switch
    assert all(torch.isfinite(value).all() for value in state(agent).values())
    assert all(parameter.dtype == torch.float32 for parameter in part_of(agent).network.parameters())


# Checkpoints of another run


@pytest.mark.parametrize(("saved", "present"), [(["l2"], ["redo"]), ([], ["l2"]), (["l2"], []), (["l2", "redo"], ["redo", "l2"])])
def test_a_checkpoint_of_other_methods_is_refused(builder: BuildPart, saved: list[str], present: list[str]) -> None:
    old, new = build("supervised", builder, saved), build("supervised", builder, present)
    run("supervised", old, 0, 3)
    with pytest.raises(ValueError) as error:
        new.load_state_dict(old.state_dict())
    assert f"interventions {saved}, this run has {present}" in str(error.value)
    assert "part learner" in str(error.value)


def test_a_checkpoint_loads_onto_another_seed_exactly(builder: BuildPart, same: Any, through_disk: Any) -> None:
    names = ["continual_backprop", "shrink_and_perturb", "l2_init"]
    one, other = (build("dqn", builder, names, seed=seed) for seed in (0, 3))
    run("dqn", one, 0, HALF)
    run("dqn", other, 4, 7)
    assert not same(one.state_dict(), other.state_dict())
    other.load_state_dict(through_disk(one.state_dict()))
    assert same(one.state_dict(), other.state_dict())
    assert same(run("dqn", one, HALF, HALF), run("dqn", other, HALF, HALF))
    assert same(one.state_dict(), other.state_dict())
