"""PPO, SAC and C51: same seed, same run; saved and loaded in the middle, the same run; every method acts in all their parts."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from frequent_settings import FREQUENT as SHARED
from registries import built_in_interventions

from plasticity.agents.agent import Agent, learn_from
from plasticity.agents.dqn.agent import DQNSettings
from plasticity.agents.factory import build_agent
from plasticity.agents.parts import PartBuilder
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.agents.sac.agent import SACSettings
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings

BuildPart = Callable[..., PartBuilder]
METHODS = list(built_in_interventions())
FREQUENT: dict[str, dict[str, Any]] = SHARED | {"load_balancing": {"step_size": 0.05, "decay": 0.5}}
ONLY = {"dr3": ("c51",), "sample_weight_decay": ("sac", "c51")}
TOGETHER = ["redo", "continual_backprop", "l2_init"]
DISCRETE = Problem("environment", 3, True, False)
CONTINUOUS = Problem("environment", 2, False, False, (-1.0, -0.4), (1.0, 0.4))
ROLLOUT = {"rollout_steps": 4, "minibatch_size": 6, "epochs": 2}
REPLAY = {"batch_size": 8, "warmup_env_steps": 6, "env_steps_per_update": 2}
CATEGORICAL = {"bins": 7, "value_low": -3.0, "value_high": 3.0}
KINDS: dict[str, tuple[str, Any, Problem]] = {
    "ppo_discrete": ("ppo", PPOSettings(**ROLLOUT), DISCRETE),
    "ppo_continuous": ("ppo", PPOSettings(**ROLLOUT, value_loss="hl_gauss", **CATEGORICAL), CONTINUOUS),
    "ppo_shared_discrete": ("ppo", PPOSettings(**ROLLOUT, shared_torso=True, value_loss="two_hot", **CATEGORICAL), DISCRETE),
    "ppo_shared_continuous": ("ppo", PPOSettings(**ROLLOUT, shared_torso=True), CONTINUOUS),
    "sac": ("sac", SACSettings(**REPLAY, buffer_transitions=40, temperature_learning_rate=0.01), CONTINUOUS),
    "sac_hl_gauss": ("sac", SACSettings(**REPLAY, buffer_transitions=500, value_loss="hl_gauss", **CATEGORICAL), CONTINUOUS),
    "sac_pop_art": ("sac", SACSettings(**REPLAY, buffer_transitions=500, value_loss="pop_art", pop_art_decay=0.1), CONTINUOUS),
    "ppo_pop_art": ("ppo", PPOSettings(**ROLLOUT, shared_torso=True, value_loss="pop_art", pop_art_decay=0.1), DISCRETE),
    "dqn_pop_art": (
        "dqn",
        DQNSettings(**REPLAY, buffer_transitions=500, loss="pop_art", pop_art_decay=0.1, target_every_updates=4),
        DISCRETE,
    ),
    "c51": (
        "dqn",
        DQNSettings(**REPLAY, buffer_transitions=40, loss="categorical", target_every_updates=4, **CATEGORICAL),
        DISCRETE,
    ),
    "c51_double": (
        "dqn",
        DQNSettings(**REPLAY, buffer_transitions=500, loss="categorical", double=True, **CATEGORICAL),
        DISCRETE,
    ),
}
HALF = 10  # in the middle of PPO's third rollout


def factories(names: list[str]) -> dict[str, Callable[[], Intervention]]:
    return {name: lambda name=name: INTERVENTIONS.named(name)(**FREQUENT.get(name, {})) for name in names}  # type: ignore[misc]


def build(kind: str, builder: BuildPart, names: list[str], seed: int = 0, **part: Any) -> Agent:
    name, settings, task = KINDS[kind]
    optimizer = OptimizerSettings(learning_rate=0.01, max_gradient_norm=1.0, schedule="linear", schedule_steps=300)
    return build_agent(name, settings, task, builder(factories(names), seed, optimizer=optimizer, **part))


def run(agent: Agent, first: int, count: int) -> list[Any]:
    """Feeds transitions of three environments that depend on the index, and actions that are the agent's; returns all seen."""
    seen: list[Any] = []
    for index in range(first, first + count):
        if index % 9 == 8:
            seen.append(agent.switch_task(index // 9))
        generator = torch.Generator().manual_seed(index)
        observations, following = torch.randn(2, 3, 4, generator=generator)
        terminated, truncated = torch.rand(2, 3, generator=generator) < 0.2
        actions = agent.act(observations)
        rewards = torch.randn(3, generator=generator)
        batch = Transitions(observations, actions, rewards, terminated, truncated, following)
        seen += [actions, learn_from(agent, Experience(batch, 0), 3 * (index + 1))]
    return seen


# With methods there is all that there is without, and what they remember as well.
@pytest.mark.parametrize("names", [pytest.param([], id="plain", marks=pytest.mark.slow), pytest.param(TOGETHER, id="treated")])
@pytest.mark.parametrize("kind", KINDS)
def test_resuming_equals_going_on(builder: BuildPart, same: Any, through_disk: Any, kind: str, names: list[str]) -> None:
    whole = build(kind, builder, names)
    run(whole, 0, HALF)
    half = through_disk(whole.state_dict())
    resumed = build(kind, builder, names, seed=5)
    resumed.load_state_dict(through_disk(half))
    assert same(half, resumed.state_dict())
    before = {name: part.steps for name, part in whole.parts.items()}
    assert same(run(whole, HALF, HALF), run(resumed, HALF, HALF))
    assert same(whole.state_dict(), resumed.state_dict())
    assert not same(half, resumed.state_dict())
    assert all(part.steps > before[name] > 0 for name, part in whole.parts.items())


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_run_other_seed_another(builder: BuildPart, same: Any, kind: str) -> None:
    one, two, other = (build(kind, builder, TOGETHER, seed=seed) for seed in (0, 0, 1))
    torch.manual_seed(1)
    first = run(one, 0, HALF)
    torch.manual_seed(2)  # the global generator has no say
    assert same(first, run(two, 0, HALF))
    assert same(one.state_dict(), two.state_dict())
    run(other, 0, HALF)
    assert not same(one.state_dict(), other.state_dict())


@pytest.fixture(scope="module")
def untreated_weights(builder: BuildPart) -> Callable[[str], dict[str, dict[str, torch.Tensor]]]:
    """The weights of each part of an agent without methods after the first half."""

    @cache
    def get(kind: str) -> dict[str, dict[str, torch.Tensor]]:
        plain = build(kind, builder, [])
        run(plain, 0, HALF)
        return {name: part.network.state_dict() for name, part in plain.parts.items()}

    return get


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if kind == "sac" else pytest.mark.slow)
        for kind in ("ppo_continuous", "ppo_shared_continuous", "sac", "c51")
        for name in METHODS
        if kind in ONLY.get(name, (kind,))
    ],
)
def test_every_method_acts_in_every_part(
    builder: BuildPart, same: Any, through_disk: Any, untreated_weights: Any, kind: str, name: str
) -> None:
    whole = build(kind, builder, [name])
    run(whole, 0, HALF)
    for part_name, part in whole.parts.items():
        untreated, treated = untreated_weights(kind)[part_name], part.network.state_dict()
        shared = [key for key in treated if key in untreated and "linear" in key]
        assert any(not torch.equal(treated[key], untreated[key]) for key in shared), part_name
        assert all(value.isfinite().all() for value in treated.values())
    resumed = build(kind, builder, [name], seed=5)
    resumed.load_state_dict(through_disk(whole.state_dict()))
    assert same(*(run(agent, HALF, HALF) for agent in (whole, resumed)))
    assert same(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("kind", ["ppo_discrete", "sac"])
def test_a_method_may_act_in_one_part_alone(builder: BuildPart, kind: str) -> None:
    name, settings, task = KINDS[kind]
    make = {"redo": lambda: INTERVENTIONS.named("redo")(parts=["critic"], **FREQUENT["redo"])}
    agent = build_agent(name, settings, task, builder(make))
    assert list(agent.parts["critic"].interventions) == ["redo"]
    assert not agent.parts["actor"].interventions
    logs = [entry for entry in run(agent, 0, HALF) if isinstance(entry, dict)]
    keys = {key for entry in logs for key in entry}
    assert any(key.startswith("redo/") and key.endswith("/critic") for key in keys)
    assert not any(key.startswith("redo/") and key.endswith("/actor") for key in keys)


def test_reset_of_the_last_layer_resets_both_heads_of_both_kinds(builder: BuildPart) -> None:
    for kind, part, heads in [
        ("ppo_shared_continuous", "actor_critic", ["head.first.linear.weight", "head.second.linear.weight"]),
        ("sac", "critic", ["members.0.head.linear.weight", "members.1.head.linear.weight"]),
    ]:
        agent = build(kind, builder, ["reset"])
        run(agent, 0, 5)
        updater = agent.parts[part]
        before = {name: value.clone() for name, value in updater.network.named_parameters()}
        updater.task_switch(1)
        moved = {name for name, value in updater.network.named_parameters() if not torch.equal(value, before[name])}
        assert set(heads) <= moved
        assert all(".head." in f".{name}" for name in moved)
        for name in heads:
            assert (updater.network.tensor(name) != before[name]).all()


def test_values_of_networks_with_moving_statistics_resume_too(builder: BuildPart, same: Any, through_disk: Any) -> None:
    spec = MLPSpec(widths=[6, 5], normalisation=["batch"], activations=["crelu"])
    for kind in ("ppo_shared_discrete", "sac"):
        whole = build(kind, builder, TOGETHER, spec=spec)
        run(whole, 0, HALF)
        resumed = build(kind, builder, TOGETHER, seed=5, spec=spec)
        resumed.load_state_dict(through_disk(whole.state_dict()))
        assert same(*(run(agent, HALF, HALF) for agent in (whole, resumed)))
        assert same(whole.state_dict(), resumed.state_dict())
