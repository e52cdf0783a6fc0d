"""The comparison of whole loops, with tiny numbers."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import agents
from benchmarks.agent_rows import ROWS
from benchmarks.alternate import alternate
from benchmarks.worker import Worker, serve
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ECHO = "print('noise'); print('ready', flush=True)\nfor line in __import__('sys').stdin: print('done', flush=True)"


def test_a_program_works_once_for_every_line() -> None:
    calls: list[int] = []
    answers = io.StringIO()
    serve(lambda: calls.append(1), io.StringIO("go\ngo\n"), answers)
    assert len(calls) == 3
    assert answers.getvalue().split() == ["ready", "done", "done"]


def test_a_worker_waits_for_its_program() -> None:
    with Worker([sys.executable, "-c", ECHO]) as worker:
        worker()
        worker()
        assert worker.processor_seconds() > 0


def test_a_program_that_ends_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with code 3"):
        Worker([sys.executable, "-c", "raise SystemExit(3)"])


def test_each_program_has_its_clock() -> None:
    ticks = {"a": iter([0.0, 5.0, 7.0]), "b": iter([0.0, 10.0, 13.0])}
    clocks = {name: lambda own=own: next(own) for name, own in ticks.items()}
    assert alternate({"a": lambda: None, "b": lambda: None}, 1, clocks) == {"a": [2.0], "b": [3.0]}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_row_is_a_run_of_the_command_line(name: str) -> None:
    for words in ROWS[name].variants.values():
        plan_from(compose_config(words, CONFIGS))


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        agents.main(["--rows", "dqn,nothing"])
    assert "choose from dqn, c51" in capsys.readouterr().err


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []

    class Echo(Worker):
        def __init__(self, command: Sequence[str]) -> None:
            commands.append(command)
            super().__init__([sys.executable, "-c", ECHO])

    monkeypatch.setattr(agents, "Worker", Echo)
    agents.main(["--rows", "sac", "--rounds", "1", "--steps", "1", "--clock", "processor"])
    printed = capsys.readouterr().out
    for label in ("SAC, Ant-v5 (processor time", "bare PyTorch loop", "testbed"):
        assert label in printed
    assert all(command[-2:] == ["--steps", "1"] for command in commands)
    assert "testbed" in [command[-3] for command in commands]
