"""Tests of the plugin: one update by hand, and runs that load it as a user would."""

import csv
import sys
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest
import torch

from plasticity.agents.factory import build_agent
from plasticity.agents.parts import PartBuilder
from plasticity.agents.registry import AGENTS
from plasticity.envs.experience import Experience, Transitions
from plasticity.envs.problem import Problem
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.settings.plugins import load_plugins

PLUGIN = Path(__file__).with_name("online_q.py")
RUN_AGENT = Path(__file__).parents[2] / "run_agent.py"
SMALL = ["metrics.every_steps=30", "probe.every_steps=0", "progress=false", "log_every_steps=10"]


def command(folder: Path, *words: str) -> "CompletedProcess[str]":
    return run([sys.executable, str(RUN_AGENT), f"plugins=[{PLUGIN}]", *words], capture_output=True, text=True, cwd=folder)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if not row["name"].startswith("time/")]


def test_one_update_by_hand() -> None:
    load_plugins([str(PLUGIN)])
    # Without hidden layers, Q(s, a) = w_a s + b_a; w = (1, 2) and b = 0 are set. From s = 1 the action 0 gave reward 3
    # and led to s' = 2, where the best value is 4: target 3 + 0.5 * 4 = 5. SGD of step size 0.1 on (w_0 s + b_0 - 5)^2, of slope
    # 2 (1 - 5) = -8 in both: w_0 = 1.8, b_0 = 0.8. If s' is terminal the target is 3, the slope -4: w_0 = 1.4, b_0 = 0.4.
    for terminal, weight, bias in ((False, 1.8, 0.8), (True, 1.4, 0.4)):
        builder = PartBuilder(MLPSpec(widths=[]), (1,), torch.float32, OptimizerSettings("sgd", 0.1))
        settings = AGENTS.named("online_q").settings(discount=0.5)  # type: ignore[call-arg]
        agent = build_agent("online_q", settings, Problem("environment", 2, True, False), builder)
        weights, biases = agent.parts["q"].network.parameters()
        with torch.no_grad():
            weights.copy_(torch.tensor([[1.0], [2.0]]))
            biases.zero_()
        flag, no = torch.tensor([terminal]), torch.tensor([False])
        step = Transitions(torch.ones(1, 1), torch.tensor([0]), torch.tensor([3.0]), flag, no, torch.full((1, 1), 2.0))
        agent.learn(Experience(step, 0))
        assert weights.flatten().tolist() == pytest.approx([weight, 2.0])
        assert biases.tolist() == pytest.approx([bias, 0.0])


def test_a_run_loads_it_with_an_intervention_and_goes_on_exactly(tmp_path: Path) -> None:
    words = ["agent=online_q", "env=catch", "intervention=[redo]", "interventions.redo.every_updates=20", *SMALL]
    done = command(tmp_path, *words, "steps=60", f"run_dir={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stderr
    assert {"train/loss", "redo/units_reset", "plasticity/dead_fraction/q/dense_1"} <= {
        row["name"] for row in rows(tmp_path / "whole")
    }
    assert command(tmp_path, *words, "steps=30", f"run_dir={tmp_path / 'parts'}").returncode == 0
    resumed = command(tmp_path, f"resume={tmp_path / 'parts'}", "steps=60")
    assert resumed.returncode == 0, resumed.stderr
    last = [{row["name"]: row["value"] for row in rows(tmp_path / run) if row["step"] == "60"} for run in ("whole", "parts")]
    assert last[0] == last[1]
    assert "train/loss" in last[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent.epsilon=2"], "error: agent.epsilon=2.0 must be between 0 and 1"),
        (["agent.epsilom=0.1"], "error: agent.epsilom is unknown (did you mean epsilon?)"),
        (["env=permuted_pixels"], "error: agent=online_q cannot learn from this env, which is a data stream"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    done = command(tmp_path, "agent=online_q", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
