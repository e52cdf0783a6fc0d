"""Evaluation: which episodes count, what they are worth, and that the run notices nothing of them."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import run_agent
from plasticity.envs.environments.atari import AtariSettings
from plasticity.envs.environments.bandit import BanditSettings
from plasticity.envs.environments.dmc import DmcSettings
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.gym_stream import GymSettings
from plasticity.envs.environments.infinite_horizon import InfiniteHorizonEnv
from plasticity.envs.factory import build_stream
from plasticity.envs.simulation.evaluation import episode_bound
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.metrics.view import View
from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.training.evaluation.episodes import EvaluationObserver, EvaluationSettings, play, protocol, uniform_actions
from plasticity.training.saving.checkpoint import latest_checkpoint, load_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Player:
    """An agent that acts by a function of the observations; what it samples is one higher than what it likes best."""

    def __init__(self, choose: Callable[[Tensor], Tensor]) -> None:
        self.choose = choose
        self.parts: Any = {
            "q": SimpleNamespace(network=build_network(MLPSpec(widths=[2]), (1,), torch.float32, HeadSpec("q", 2), 0), device=CPU)
        }
        self.drawn: list[int] = []

    def greedy(self, observations: Tensor) -> Tensor:
        return self.choose(observations)

    def sampled(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        self.drawn.append(int(torch.randint(1000, (), generator=generator)))
        return self.choose(observations) + 1


def first(observations: Tensor) -> Tensor:
    return torch.zeros(len(observations), dtype=torch.int64)


def follow_the_ball(boards: Tensor) -> Tensor:
    """Catches every ball: the ball is the first one of the board, the paddle that of the last row."""
    paddle = boards[:, 0, -1].argmax(1)
    ball = boards[:, 0, :-1].flatten(1).argmax(1) % 5
    return (ball - paddle).sign() + 1


def observer(player: Any, name: str, settings: Mapping[str, Any] | None = None, **env: Any) -> EvaluationObserver:
    gym = GymSettings(id=f"plasticity/{name}-v0", **env)
    training, _ = build_stream(gym, 0, CPU)
    return EvaluationObserver(EvaluationSettings(every_steps=10, **(settings or {})), gym, 0, player, training)


# Hand-worked returns


@pytest.mark.parametrize(
    ("name", "kwargs", "choose", "score", "length"),
    [
        ("InfiniteHorizon", {}, first, 8.0, 8.0),
        ("InfiniteHorizon", {"episode_steps": 3}, first, 3.0, 3.0),
        ("DiscreteIdentity", {"episode_steps": 20}, lambda seen: seen.argmax(1), 20.0, 20.0),
        ("DiscreteIdentity", {"episode_steps": 20}, lambda seen: (seen.argmax(1) + 1) % 4, 0.0, 20.0),
        ("ContinuousIdentity", {"episode_steps": 7}, lambda seen: seen.clone(), 7.0, 7.0),
        ("Catch", {}, follow_the_ball, 1.0, 9.0),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_returns_are_those_of_whole_episodes(
    name: str, kwargs: dict[str, Any], choose: Any, score: float, length: float, num_envs: int
) -> None:
    evaluation = observer(Player(choose), name, {"episodes": 4, "num_envs": num_envs}, kwargs=kwargs)
    logs = evaluation.measure(View(10, 0, evaluation._agent))
    assert logs == {
        "eval/return": score,
        "eval/return_std": 0.0,
        "eval/return_min": score,
        "eval/return_max": score,
        "eval/length": length,
        "eval/episodes": 4.0,
    }


def test_mean_deviation_and_extremes() -> None:
    vector = SyncVector([lambda: InfiniteHorizonEnv(2), lambda: InfiniteHorizonEnv(6)])
    summary = play(EnvironmentStream(vector, 0), first, 2).summary()
    assert summary == {
        "return": 4.0,
        "return_std": 2.0,
        "return_min": 2.0,
        "return_max": 6.0,
        "length": 4.0,
        "episodes": 2.0,
    }


def test_rewards_are_not_clipped_or_scaled_in_returns() -> None:
    evaluation = observer(Player(first), "InfiniteHorizon", {"episodes": 1}, normalise_rewards=True, num_envs=2)
    for _ in range(5):
        evaluation._training.advance(first)
    assert evaluation.evaluate(10).returns.tolist() == [8.0]


# Which episodes count


@pytest.mark.parametrize(("episodes", "returns"), [(1, [1]), (2, [1, 10]), (5, [1, 1, 1, 10, 10])])
def test_each_copy_contributes_its_share_however_short_its_episodes(episodes: int, returns: list[float]) -> None:
    vector = SyncVector([lambda: InfiniteHorizonEnv(1), lambda: InfiniteHorizonEnv(10)])
    played = play(EnvironmentStream(vector, 0), first, episodes)
    assert played.returns.tolist() == returns
    assert played.lengths.tolist() == returns


def test_no_more_copies_than_episodes_are_made() -> None:
    evaluation = observer(Player(first), "InfiniteHorizon", {"episodes": 2, "num_envs": 50})
    evaluation.evaluate(0)
    assert evaluation._stream is not None
    assert evaluation._stream.num_envs == 2


def test_environments_are_built_at_the_first_evaluation_and_once() -> None:
    evaluation = observer(Player(first), "InfiniteHorizon")
    assert evaluation._stream is None
    evaluation.evaluate(10)
    stream = evaluation._stream
    evaluation.evaluate(20)
    assert evaluation._stream is stream


def test_it_is_due_when_the_period_ends() -> None:
    evaluation = observer(Player(first), "InfiniteHorizon")
    assert [evaluation.due(step - 3, step) for step in (3, 9, 12, 20)] == [False, False, True, True]
    assert not evaluation.at_task_switch


# Episodes without an end


class Endless(InfiniteHorizonEnv):
    """Has no end, and, as a class of its own, no say in how long its episodes are."""

    def step(self, action: Any) -> Any:
        seen, reward, _, _, info = super().step(action)
        return seen, reward, False, False, info


@pytest.fixture
def endless_id() -> Iterator[str]:
    gymnasium.register("Test/Endless-v0", Endless)
    yield "Test/Endless-v0"
    gymnasium.registry.pop("Test/Endless-v0")


def bounded(settings: Any, player: Any, **evaluation: Any) -> EvaluationObserver:
    training, _ = build_stream(settings, 0, CPU)
    return EvaluationObserver(EvaluationSettings(every_steps=10, **evaluation), settings, 0, player, training)


def test_an_episode_without_an_end_is_cut_and_begins_again(endless_id: str) -> None:
    evaluation = bounded(GymSettings(id=endless_id), Player(first), episodes=3, num_envs=2, episode_steps=7)
    played = evaluation.evaluate(10)
    assert (played.returns.tolist(), played.lengths.tolist()) == ([7.0] * 3, [7.0] * 3)


@pytest.mark.parametrize(
    ("settings", "asked", "bound"),
    [
        (GymSettings(id="CartPole-v1"), None, 500),
        (GymSettings(id="CartPole-v1", kwargs={"max_episode_steps": 200_000}), None, 200_000),
        (GymSettings(id="CartPole-v1"), 30, 30),
        (GymSettings(id="CartPole-v1"), 900, 500),
        (GymSettings(id="Test/Endless-v0"), None, 100_000),
        (GymSettings(id="Test/Endless-v0"), 200_000, 200_000),
        (GymSettings(id="plasticity/Catch-v0"), None, 9),
        (BanditSettings(episode_steps=50), None, 50),
        (BanditSettings(episode_steps=50), 20, 20),
        (DmcSettings(action_repeat=4), None, 250),
        (DmcSettings(tasks=["cartpole-swingup", "cartpole-balance"]), None, 1000),
        (AtariSettings(frame_skip=1), None, 108_000),
        (AtariSettings(), 12, 12),
    ],
)
def test_bounds_are_those_of_the_environment_or_of_the_user(
    settings: Any, asked: int | None, bound: int, endless_id: str
) -> None:
    stream = build_stream(settings, 0, CPU)[0]
    assert isinstance(stream, EnvironmentStream)
    assert episode_bound(settings, asked, stream) == bound
    assert f" episode_steps={bound}, " in protocol(EvaluationSettings(episode_steps=asked), settings, stream)


@pytest.mark.parametrize(
    "settings",
    [
        BanditSettings(episode_steps=50),
        AtariSettings(game="pong", num_threads=1),
        GymSettings(id="CartPole-v1", normalise_observations=True),
        DmcSettings(tasks=["cartpole-swingup", "cartpole-balance"], steps_per_task=5),
    ],
    ids=["bandit", "atari", "gym", "dmc"],
)
def test_the_users_bound_holds_in_every_vectorisation(settings: Any) -> None:
    still = (lambda seen: torch.zeros(len(seen), 1)) if isinstance(settings, DmcSettings) else first
    evaluation = bounded(settings, Player(still), episodes=2, episode_steps=4)
    for _ in range(7):  # into the second task
        evaluation._training.advance(still)
    assert evaluation.evaluate(10).lengths.tolist() == [4.0, 4.0]


# Policies and random numbers


def test_random_actions_replace_those_of_the_policy() -> None:
    right = Player(lambda seen: seen.argmax(1))
    scores = {}
    for probability in (0.0, 0.2, 1.0):
        settings = {"episodes": 20, "random_action_probability": probability}
        evaluation = observer(right, "DiscreteIdentity", settings, kwargs={"episode_steps": 100})
        scores[probability] = evaluation.evaluate(10).returns.mean().item()
    assert scores[0.0] == 100
    assert scores[0.2] == pytest.approx(85, abs=3)  # 80 + 20 / 4; the standard error is 0.8
    assert scores[1.0] == pytest.approx(25, abs=3)


def test_uniform_actions_fill_the_space() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = uniform_actions(spaces.Discrete(3), torch.zeros(1000, dtype=torch.int64), generator)
    assert (whole.dtype, set(whole.tolist())) == (torch.int64, {0, 1, 2})
    box = spaces.Box(torch.tensor([-1.0, 2.0]).numpy(), torch.tensor([1.0, 6.0]).numpy())
    real = uniform_actions(box, torch.zeros(4000, 2), generator)
    assert real.dtype == torch.float32
    torch.testing.assert_close(real.amin(0), torch.tensor([-1.0, 2.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(real.amax(0), torch.tensor([1.0, 6.0]), atol=0.01, rtol=0)


def test_the_sampled_policy_draws_the_same_at_the_same_step() -> None:
    player = Player(lambda seen: torch.zeros(len(seen), dtype=torch.int64))
    evaluation = observer(player, "InfiniteHorizon", {"episodes": 1, "policy": "sampled"})
    draws = []
    for step in (10, 20, 10):
        player.drawn.clear()
        evaluation.evaluate(step)
        draws.append(list(player.drawn))
    assert draws[0] == draws[2] != draws[1]
    assert len(draws[0]) == 8


def test_the_same_step_has_the_same_episodes_after_any_earlier_evaluation() -> None:
    settings = {"episodes": 12, "random_action_probability": 0.5}
    one, other = (observer(Player(follow_the_ball), "Catch", settings) for _ in range(2))
    for step in (10, 20):
        one.evaluate(step)
    assert torch.equal(one.evaluate(30).returns, other.evaluate(30).returns)
    assert not torch.equal(one.evaluate(30).returns, one.evaluate(40).returns)


def test_modes_of_networks_are_put_back() -> None:
    player = Player(first)
    network = player.parts["q"].network
    seen: list[bool] = []

    def choose(observations: Tensor) -> Tensor:
        seen.append(network.training)
        return first(observations)

    player.choose = choose
    observer(player, "InfiniteHorizon", {"episodes": 1}).evaluate(0)
    assert seen == [False] * 8
    assert network.training


def test_the_statistics_of_training_are_used_and_left_alone() -> None:
    evaluation = observer(Player(first), "InfiniteHorizon", normalise_observations=True)
    for _ in range(5):
        evaluation._training.advance(first)
    moments = evaluation._training.env.moments  # type: ignore[attr-defined]
    before = (moments.count, moments.mean.copy())
    evaluation.evaluate(10)
    assert evaluation._stream is not None
    own = evaluation._stream.env.moments  # type: ignore[attr-defined]
    assert (moments.count, own.count) == (before[0], before[0]) == (6, 6)
    assert (moments.mean == before[1]).all()
    assert (own.mean == before[1]).all()


# What is said and refused


def test_the_protocol_is_one_line_with_everything_in_it() -> None:
    settings = AtariSettings(game="pong", protocol="dqn2015")
    line = protocol(EvaluationSettings(episodes=3, num_envs=8), settings, build_stream(settings, 0, CPU)[0])
    parts = ("policy=greedy", "random_action_probability=0.0", "episodes=3", "num_envs=3", "env=atari game=pong", "noop_max=30")
    assert all(part in line for part in parts)
    assert " episode_steps=27000, " in line
    assert "life_loss_terminates=False" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("every_steps", -1),
        ("episodes", 0),
        ("num_envs", 0),
        ("episode_steps", 0),
        ("policy", "best"),
        ("random_action_probability", 1.1),
        ("step", -1),
    ],
)
def test_wrong_settings_are_named(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^evaluation\.{setting}={value} "):
        EvaluationSettings(**{setting: value})


# The law: a run that is evaluated equals the run that is not, and continues after a stop as if there had been none

SMALL = ["network.widths=[8]", "metrics.every_steps=40", "metrics.inputs=20", "probe.every_steps=0", "progress=false"]
OFTEN = [
    "evaluation.every_steps=20",
    "evaluation.episodes=3",
    "evaluation.num_envs=2",
    "evaluation.random_action_probability=0.1",
]
REPLAYED = ["agent.warmup_env_steps=10", "agent.batch_size=8"]
RUNS = {
    "dqn": ["env=catch", *REPLAYED, "network.normalisation=[batch]"],
    "rainbow": ["agent=rainbow", "env=catch", *REPLAYED],
    "ppo": [
        *["agent=ppo", "agent.rollout_steps=10", "agent.minibatch_size=5", "agent.epochs=2", "env=gym"],
        *["env.id=plasticity/DiscreteIdentity-v0", "env.num_envs=2", "env.normalise_observations=true"],
    ],
    "sac": ["agent=sac", "env=gym", "env.id=plasticity/ContinuousIdentity-v0", *REPLAYED],
}


def go(folder: Path, *words: str, steps: int = 100) -> Path:
    assert run_agent.main([f"run_dir={folder}", f"steps={steps}", "log_every_steps=10", *SMALL, *words]) == 0
    return folder


def rows(folder: Path, evaluation: bool) -> list[tuple[str, str, str]]:
    with (folder / "metrics.csv").open() as file:
        logged = [(step, name, value) for step, name, value in csv.reader(file) if not name.startswith("time/")]
    return [row for row in logged if row[1].startswith("eval/") == evaluation]


def state(folder: Path) -> dict[str, Any]:
    path = latest_checkpoint(folder)
    assert path is not None
    loaded = load_checkpoint(path)
    return {name: loaded[name] for name in ("step", "agent", "stream")}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


@pytest.mark.parametrize(
    ("agent", "policy"),
    [
        ("dqn", "greedy"),
        pytest.param("sac", "sampled", marks=pytest.mark.slow),
        pytest.param("rainbow", "sampled", marks=pytest.mark.slow),
        pytest.param("ppo", "greedy", marks=pytest.mark.slow),
        pytest.param("ppo", "sampled", marks=pytest.mark.slow),
    ],
)
def test_evaluation_changes_nothing_in_the_run(agent: str, policy: str, tmp_path: Path) -> None:
    plain = go(tmp_path / "plain", *RUNS[agent])
    evaluated = go(tmp_path / "evaluated", *RUNS[agent], *OFTEN, f"evaluation.policy={policy}")
    assert len(rows(evaluated, True)) == 5 * 6
    assert rows(plain, True) == []
    assert rows(plain, False) == rows(evaluated, False)
    assert same(state(plain), state(evaluated))
    assert sorted(os.listdir(plain / "checkpoints")) == sorted(os.listdir(evaluated / "checkpoints"))


@pytest.mark.parametrize("agent", [name if name == "dqn" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS])
def test_a_resumed_run_evaluates_as_if_it_had_not_stopped(agent: str, tmp_path: Path) -> None:
    words = [*RUNS[agent], *OFTEN, "evaluation.policy=sampled"]
    whole = go(tmp_path / "whole", *words)
    stopped = go(tmp_path / "stopped", *words, steps=50)
    assert run_agent.main([f"resume={stopped}", "steps=100"]) == 0
    assert rows(whole, True) == rows(stopped, True)
    assert same(state(whole), state(stopped))


def test_the_notes_hold_the_protocol_once(tmp_path: Path) -> None:
    folder = go(tmp_path / "run", *RUNS["dqn"], *OFTEN)
    assert run_agent.main([f"resume={folder}", "steps=120"]) == 0
    assert run_agent.main([f"resume={folder}", "steps=140", "evaluation.episodes=4"]) == 0
    lines = [line for line in (folder / "notes.log").read_text().splitlines() if " evaluation: " in line]
    assert [line.partition(":")[0] for line in lines] == ["step 0", "step 120"]
    assert "policy=greedy random_action_probability=0.1 episodes=3 num_envs=2 episode_steps=9," in lines[0]
    assert "episodes=4" in lines[1]
    assert "env=gym" in lines[0]
    assert "id=plasticity/Catch-v0" in lines[0]
