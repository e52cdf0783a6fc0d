"""Tests of the plugin: its tasks by hand, and runs that load it as a user would."""

import csv
import sys
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest
import torch

from plasticity.envs.registry import STREAMS
from plasticity.envs.tasks.task_data import TaskSource
from plasticity.settings.plugins import load_plugins

PLUGIN = Path(__file__).with_name("rotating_waves.py")
RUN_AGENT = Path(__file__).parents[2] / "run_agent.py"


@pytest.fixture(scope="module", autouse=True)
def _plugin() -> None:
    load_plugins([str(PLUGIN)])


def source(seed: int = 0, **settings: object) -> TaskSource:
    made: TaskSource = STREAMS["rotating_waves"](**settings).source(seed, torch.device("cpu"))  # type: ignore[attr-defined]
    return made


def test_targets_are_waves_along_one_direction() -> None:
    # On a line the direction is 1 or -1, so targets are sin(2 x) or its negative.
    signs = set()
    for number in range(20):
        train = source(inputs=1, frequency=2.0).task(number).train
        assert train.inputs.shape == train.targets.shape == (200, 1)
        sign = 1 if torch.allclose(train.targets, torch.sin(2 * train.inputs)) else -1
        torch.testing.assert_close(train.targets, sign * torch.sin(2 * train.inputs))
        signs.add(sign)
    assert signs == {1, -1}


def test_the_seed_and_the_task_alone_decide() -> None:
    one, again, other = source(3), source(3), source(4)
    expected = [one.task(number).train.inputs for number in range(3)]
    assert all(torch.equal(again.task(number).train.inputs, expected[number]) for number in (2, 0, 1))
    assert not torch.equal(expected[0], expected[1])
    assert not torch.equal(other.task(0).train.inputs, expected[0])


def called(*words: str) -> "CompletedProcess[str]":
    command = [sys.executable, str(RUN_AGENT), f"plugins=[{PLUGIN}]", "agent=supervised", "env=rotating_waves", *words]
    return run(command, capture_output=True, text=True, check=False)


def test_a_run_loads_it_and_shows_its_tasks(tmp_path: Path) -> None:
    small = ["steps=40", "env.examples_per_task=32", "log_every_steps=10", "metrics=none", "probe.every_steps=0"]
    done = called(*small, "progress=false", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "metrics.csv").open() as file:
        tasks = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "stream/task"]
    assert tasks == [2.0, 7.0, 12.0, 17.0]  # two minibatches a task: each line is the mean of tasks 0..4, 5..9, ...


@pytest.mark.slow
def test_a_misspelt_setting_and_a_value_out_of_range_are_named() -> None:
    done = called("env.frequencies=2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: env.frequencies is unknown (did you mean frequency?)")
    done = called("env.frequency=0")
    assert done.stderr == "error: env.frequency=0.0 must be above 0\n"
