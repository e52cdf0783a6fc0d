from typing import Any

import numpy as np
import pytest
import torch

from plasticity.envs.environments.atari import AtariSettings
from plasticity.envs.environments.bandit import BanditSettings
from plasticity.envs.environments.dmc import DmcSettings
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.gym_stream import GymSettings
from plasticity.envs.environments.mujoco_stream import MujocoSettings
from plasticity.envs.factory import build_stream
from plasticity.envs.simulation.evaluation import environment_line, evaluation_stream, follow_conditions
from plasticity.envs.tasks.transformed_tasks import TaskStreamSettings

CPU = torch.device("cpu")


def training(settings: Any) -> EnvironmentStream:
    stream, _ = build_stream(settings, 0, CPU)
    assert isinstance(stream, EnvironmentStream)
    return stream


def test_episodes_after_a_restart_depend_on_its_seed_alone(play: Any, same: Any) -> None:
    settings = GymSettings(id="plasticity/Catch-v0")
    stream, other = (evaluation_stream(settings, 0, 2) for _ in range(2))
    assert (stream.num_envs, settings.num_envs) == (2, 1)
    play(other, 13)
    runs = []
    for each, seed in ((stream, 5), (other, 5), (other, 6)):
        each.restart(seed)
        runs.append(play(each, 40))
    assert all(map(same, runs[0], runs[1]))
    assert not all(map(same, runs[0], runs[2]))
    assert stream.step == 80


def test_evaluation_draws_other_episodes_than_training(play: Any, same: Any) -> None:
    settings = GymSettings(id="plasticity/Catch-v0")
    assert not all(map(same, play(training(settings), 40), play(evaluation_stream(settings, 0, 1), 40)))


def test_statistics_and_physics_of_the_moment_are_held(play: Any) -> None:
    settings = MujocoSettings(
        id="Hopper-v5",
        kwargs={"max_episode_steps": 5},
        shift="friction",
        shift_values=[1.0, 0.5, 0.25],
        change_every_steps=10,
        normalise_observations=True,
        num_envs=2,
    )
    source, evaluation = training(settings), evaluation_stream(settings, 0, 3)
    play(source, 5)
    for _ in range(2):
        follow_conditions(evaluation, source)
        evaluation.restart(0)
        seen = play(evaluation, 12)
        assert {e.stats["stream/friction"] for e in seen if "stream/friction" in e.stats} == {0.5}
    mean = source.env.moments.mean  # type: ignore[attr-defined]
    np.testing.assert_array_equal(evaluation.env.moments.mean, mean)  # type: ignore[attr-defined]
    play(source, 5)
    follow_conditions(evaluation, source)
    evaluation.restart(0)
    assert play(evaluation, 1)[0].stats["stream/friction"] == 0.25


def test_a_drift_is_held_as_far_as_it_has_come(play: Any) -> None:
    values = {"shift": "gravity", "shift_values": [1.0, 0.5], "change_every_steps": 10, "drift_steps": 10}
    settings = MujocoSettings(id="Hopper-v5", kwargs={"max_episode_steps": 5}, num_envs=2, **values)
    source, evaluation = training(settings), evaluation_stream(settings, 0, 3)
    play(source, 7)  # 14 steps over both copies, four of ten into the drift
    follow_conditions(evaluation, source)
    evaluation.restart(0)
    seen = play(evaluation, 12)
    felt = {e.stats["stream/gravity"] for e in seen if "stream/gravity" in e.stats}
    assert list(felt) == [pytest.approx(0.5**0.4)]
    labels = BanditSettings(label_permutation=1, drift_steps=10)
    source, evaluation = training(labels), evaluation_stream(labels, 0, 3)
    play(source, 7)
    follow_conditions(evaluation, source)
    evaluation.restart(0)
    play(evaluation, 12)
    assert evaluation.env.labels.share == 0.7  # type: ignore[attr-defined]


def test_the_game_of_the_moment_is_held_and_lives_are_not_terminal(play: Any) -> None:
    settings = AtariSettings(protocol="dqn2015", games=["pong", "breakout"], steps_per_game=10, num_threads=1)
    source, evaluation = training(settings), evaluation_stream(settings, 0, 1)
    play(source, 12)
    follow_conditions(evaluation, source)
    evaluation.restart(0)
    seen = play(evaluation, 150)
    assert {e.task for e in seen} == {1}
    assert sum(int(e.batch.terminated.sum()) for e in seen) == sum("rollout/return" in e.stats for e in seen) <= 1
    assert settings.life_loss_terminates


def test_physics_that_are_drawn_are_those_of_training(play: Any) -> None:
    settings = MujocoSettings(id="Hopper-v5", kwargs={"max_episode_steps": 5}, shift="gravity", change_every_steps=5)
    source, evaluation = training(settings), evaluation_stream(settings, 0, 1)
    trained_in, evaluated_in = [], []
    for _ in range(2):
        trained_in.append([e.stats["stream/gravity"] for e in play(source, 5) if "stream/gravity" in e.stats][-1])
        follow_conditions(evaluation, source)
        evaluation.restart(0)
        evaluated_in.append(play(evaluation, 1)[0].stats["stream/gravity"])
    assert evaluated_in == trained_in
    assert len(set(trained_in)) == 2


def test_the_last_step_of_a_task_is_evaluated_on_that_task(play: Any) -> None:
    settings = DmcSettings(tasks=["cartpole-swingup", "cartpole-balance"], steps_per_task=10)
    source, evaluation = training(settings), evaluation_stream(settings, 0, 1)
    tasks = []
    for steps in (9, 1, 1):
        play(source, steps)
        resumed = training(settings)
        resumed.load_state_dict(source.state_dict())
        for each in (source, resumed):
            follow_conditions(evaluation, each)
            evaluation.restart(0)
            tasks.append(play(evaluation, 1)[0].stats["stream/task"])
    assert tasks == [0, 0, 0, 0, 1, 1]


def test_the_line_about_an_environment_names_what_decides_a_return() -> None:
    assert (
        environment_line(BanditSettings(num_envs=3))
        == "env=bandit dataset=digits reward=1.0 episode_steps=100 label_permutation=0 drift_steps=0"
    )
    atari = environment_line(AtariSettings(games=["pong", "breakout"]))
    assert atari.startswith("env=atari games=pong,breakout protocol=dopamine sticky_action_probability=0.25 noop_max=0 ")


def test_examples_cannot_be_played() -> None:
    with pytest.raises(TypeError, match="TaskStreamSettings is not the settings of an environment"):
        evaluation_stream(TaskStreamSettings(), 0, 1)
