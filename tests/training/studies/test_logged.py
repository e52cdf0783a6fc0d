"""Which values a study asks for that no run of it writes."""

import re
from pathlib import Path

import pytest

import run_agent
from plasticity.training.assembly import assemble
from plasticity.training.config.parsing import Train, parse
from plasticity.training.reports.specification import report_settings
from plasticity.training.studies import timing
from plasticity.training.studies.logged import asked_for, awaited, names_in, unwritten
from plasticity.training.studies.specification import StudySettings

SUPERVISED = ["agent=supervised", "env=permuted_pixels", "env.examples_per_task=160", "network.widths=[4]", "steps=100"]
CATCH = ["env=catch", "network=mlp", "network.widths=[4]", "agent.buffer_transitions=100", "steps=100"]


def later(words: list[str]) -> re.Pattern[str]:
    command = parse(words)
    assert isinstance(command, Train)
    return awaited(command.plan, assemble(command.plan))


@pytest.mark.parametrize(
    ("words", "may", "may_not"),
    [
        (
            SUPERVISED,
            ["task/online_accuracy", "task/test_loss", "task/mean_test_accuracy", "task/number", "time/steps_per_second"],
            [
                "task/online_acuracy",
                "fresh/online_accuracy",
                "epoch/test_loss",
                "eval/return",
                "rollout/return",
                "plasticity/rank",
            ],
        ),
        ([*SUPERVISED, "steps=4"], ["time/metrics_seconds"], ["task/online_accuracy"]),  # no task ends in four minibatches
        (
            [*SUPERVISED, "task_evaluation.fresh_every_tasks=1", "task_evaluation.every_epochs=1", "intervention=[redo]"],
            ["relative/online_accuracy", "epoch/test_accuracy", "redo/units_reset"],
            ["l2/penalty"],
        ),
        (CATCH, ["rollout/return", "plasticity/effective_rank"], ["rollout/returns", "eval/return", "task/online_accuracy"]),
        ([*CATCH, "evaluation.every_steps=50"], ["eval/return", "eval/return_std"], ["eval/returns"]),
    ],
)
def test_what_comes_later_than_the_first_steps(words: list[str], may: list[str], may_not: list[str]) -> None:
    words = list({word.partition("=")[0]: word for word in words}.values())
    known = later([*words, "metrics.every_steps=0"])
    assert [name for name in may if not known.fullmatch(name)] == []
    assert [name for name in may_not if known.fullmatch(name)] == []


def test_every_place_of_a_study_that_names_a_value_is_looked_at() -> None:
    report = {
        "outcome": {"value": "a/one"},
        "also": ["a/two", {"value": "a/one", "label": "again"}],
        "tables": [{"id": "t", "value": {"value": "a/three"}}],
        "figures": [
            {"id": "f", "values": ["a/four", "a/two"]},
            {"id": "s", "kind": "scatter", "metrics": ["rank"], "outcome": {"value": "a/five"}},
        ],
    }
    asked = asked_for(StudySettings(report=report_settings(report)))
    assert asked == {
        "a/one": "report.outcome.value",
        "a/two": "report.also.0.value",
        "a/three": "report.tables.t.value",
        "a/four": "report.figures.f.values",
        "a/five": "report.figures.s.value",
        "plasticity/rank": "report.figures.s.metrics",
    }
    cells = {"m/x": (["a/one", "a/tow", "plasticity/rank"], re.compile("a/f.*")), "m/y": (["a/one", "a/tow"], None)}
    assert list(unwritten(StudySettings(report=report_settings(report)), cells)) == [
        "report.also.0.value=a/two: no run will write it, as far as the timed steps show (did you mean a/tow?); "
        "written are a/one, a/tow",
        "report.tables.t.value=a/three: no run will write it, as far as the timed steps show; written are a/one, a/tow",
        "report.figures.s.value=a/five: no run of m/y will write it, as far as the timed steps show",
        "report.figures.f.values=a/four: no run of m/y will write it, as far as the timed steps show",
        "report.figures.s.metrics=plasticity/rank: no run of m/y will write it, as far as the timed steps show",
    ]


STUDY = """
common: [env.examples_per_task=20,
  agent=supervised, env=slowly_changing_regression, network=linear, optimizer=sgd, env.bits=4, env.slow_bits=2]
steps: 1000
seeds: 1
methods: {none: , l2: }
short: {}
report: {outcome: {value: online/los, better: lower}, also: [online/loss, task/online_loss, task/online_accuracy]}
"""


def test_a_plan_warns_of_an_outcome_that_no_run_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    (tmp_path / "mine.yaml").write_text(STUDY)
    assert run_agent.main([f"study={tmp_path / 'mine.yaml'}", f"run_dir={tmp_path / 's'}", "plan=true"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.partition(":")[2].partition("=")[0].strip() for line in lines] == ["report.outcome.value", "report.also.2.value"]
    assert "online/los: no run will write it, as far as the timed steps show (did you mean online/loss?)" in lines[0]


def test_names_are_read_from_a_run_that_was_made(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,name,value\n1,a/b,2.0\n2,c/d,nan\n3,torn")
    assert names_in(tmp_path / "metrics.csv") == {"a/b", "c/d"}
    assert names_in(tmp_path / "none.csv") == set()
