"""Tests of the plugin: its rules by hand, and runs that load it as a user would."""

import csv
import sys
from pathlib import Path
from subprocess import CompletedProcess, run
from types import ModuleType

import pytest
import torch

from plasticity.envs.problem import Problem
from plasticity.envs.registry import STREAMS
from plasticity.envs.stream import Stream
from plasticity.settings.plugins import load_plugins

PLUGIN = Path(__file__).with_name("moving_target.py")
RUN_AGENT = Path(__file__).parents[2] / "run_agent.py"


@pytest.fixture(scope="module", autouse=True)
def plugin() -> ModuleType:
    load_plugins([str(PLUGIN)])
    return sys.modules[STREAMS["moving_target"].__module__]


def test_an_episode_by_hand(plugin: ModuleType) -> None:
    env = plugin.MovingTarget(4)
    env.reset(seed=0)
    env.place = 2
    steps = [env.step(action) for action in (2, 2, 2, 1, 0, 1, 1, 1, 1, 1)]  # to 3, 4, at the wall, stays, to 3, stays
    assert [reward for _, reward, _, _, _ in steps] == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert [int(seen.argmax()) for seen, _, _, _, _ in steps] == [3, 4, 4, 4, 3, 3, 3, 3, 3, 3]
    assert [truncated for _, _, _, truncated, _ in steps] == [False] * 9 + [True]


def test_tasks_follow_the_schedule_and_a_saved_stream_goes_on() -> None:
    def built() -> tuple[Stream, Problem]:
        return STREAMS["moving_target"](num_envs=2, steps_per_task=40).build(3, torch.device("cpu"))  # type: ignore[call-arg]

    def act(observations: torch.Tensor) -> torch.Tensor:
        return (observations.argmax(1) + 1) % 3

    (stream, problem), (resumed, _) = built(), built()
    assert (problem.outputs, problem.discrete, problem.announces_tasks) == (3, True, True)
    tasks = [stream.advance(act).task for _ in range(53)]
    assert tasks == [0] * 20 + [1] * 20 + [2] * 13
    assert getattr(stream, "exact_resume", False)
    resumed.load_state_dict(stream.state_dict())
    for _ in range(30):
        one, other = stream.advance(act), resumed.advance(act)
        assert (one.task, one.stats.keys()) == (other.task, other.stats.keys())
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.batch, other.batch, strict=True))


def called(*words: str) -> "CompletedProcess[str]":
    command = [sys.executable, str(RUN_AGENT), f"plugins=[{PLUGIN}]", "env=moving_target", *words]
    return run(command, capture_output=True, text=True, check=False)


def test_a_run_loads_it_and_learns_one_task_after_the_other(tmp_path: Path) -> None:
    small = ["steps=90", "agent.warmup_env_steps=20", "env.steps_per_task=30", "log_every_steps=30", "metrics=none"]
    small += ["evaluation.every_steps=45", "evaluation.episodes=2", "probe.every_steps=0", "progress=false"]
    done = called(*small, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = {row["name"]: [float(each["value"]) for each in rows if each["name"] == row["name"]] for row in rows}
    assert max(told["stream/task"]) >= 2
    assert max(told["stream/target"]) > 2  # a mean of the targets that resets said: 0 in task 0, and 4 in task 1
    assert len(told["eval/return"]) == 2


@pytest.mark.slow
def test_a_place_off_the_board_is_refused() -> None:
    done = called("env.targets=[0,5]")
    assert done.returncode == 2
    assert done.stderr == "error: env.targets=5 must be between 0 and 4\n"
