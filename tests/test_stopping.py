"""Stopping a run and going on: whatever it was doing, what follows equals the uninterrupted run."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.metrics import observer as observer_module
from plasticity.training import commands
from plasticity.training.saving.checkpoint import latest_checkpoint, load_checkpoint
from plasticity.training.stopping import STOP, Stopped, unmasked
from run_agent import main

PROGRAM = Path(__file__).parents[1] / "run_agent.py"
MEASURED = ["metrics.every_steps=20", "metrics.inputs=40", "probe.every_steps=16", "probe.steps=3", "probe.inputs=32"]
SMALL = ["network.widths=[12,8]", "log_every_steps=10", "progress=false", "threads=1"]
LEARNER = ["agent=supervised", "env=permuted_pixels", "env.examples_per_task=200", "task_evaluation.forward_transfer=true"]
PPO = ["agent=ppo", "agent.rollout_steps=8", "agent.minibatch_size=4", "env=catch"]
DQN = ["agent.warmup_env_steps=10", "agent.batch_size=8", "env=catch", "evaluation.every_steps=16", "evaluation.episodes=2"]
SAC = ["agent=sac", "env=gym", "env.id=Pendulum-v1", "agent.warmup_env_steps=20", "agent.batch_size=8"]
C51 = [
    "agent=c51",
    "agent.warmup_env_steps=10",
    "agent.batch_size=8",
    "intervention=[redo]",
    "interventions.redo.every_updates=9",
]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(folder: Path) -> list[list[str]]:
    """Returns the rows of all tables, apart from times."""
    tables = []
    for name in ("metrics.csv", "curves.csv", "heatmap.csv"):
        if (folder / name).exists():
            with (folder / name).open() as file:
                tables += [row for row in csv.reader(file) if not row[1].startswith("time/")]
    return tables


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from tensors(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from tensors(each, f"{name}.{number}")


def weights(folder: Path) -> list[tuple[str, torch.Tensor]]:
    """Returns all tensors of agent and observers in the last checkpoint: weights, optimizer, generators, memories."""
    path = latest_checkpoint(folder)
    assert path is not None
    state = load_checkpoint(path)
    return [*tensors(state["agent"]), *tensors(state["observers"])]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tells whether two tensors are equal; what is not a number equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def assert_same_run(folder: Path, whole: Path) -> None:
    assert rows(folder) == rows(whole)
    ours, theirs = weights(folder), weights(whole)
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert [name for (name, a), (_, b) in zip(ours, theirs, strict=True) if not same(a, b)] == []


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ([*LEARNER, "metrics.every_steps=0"], {"MetricsObserver", "ProbeObserver", "TaskEvaluationObserver"}),
        (PPO, {"MetricsObserver", "ProbeObserver"}),
        (DQN, {"MetricsObserver", "EvaluationObserver"}),
    ],
    ids=["supervised", "ppo", "dqn"],
)
def test_a_measurement_that_is_abandoned_is_made_when_the_run_goes_on(
    words: list[str], kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of observer is stopped once after it has measured, when it remembers what it should not."""
    monkeypatch.setattr("plasticity.training.stopping.LIMIT_SECONDS", 1000.0)
    settings = [*words, *SMALL, *[word for word in MEASURED if word.partition("=")[0] not in str(words)], "steps=40"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*settings, f"run_dir={whole}"]) == 0
    left = set(kinds)

    def stopping(observer: Any, view: Any) -> Any:
        logs = observer_module.observe(observer, view)
        if view.step > 10 and type(observer).__name__ in left:
            left.remove(type(observer).__name__)
            os.kill(os.getpid(), signal.SIGINT)
        return logs

    monkeypatch.setattr("plasticity.training.observation.observe", stopping)
    code, number = main([*settings, f"run_dir={stopped}"]), 0
    while code == 130:
        number += 1
        code = main([f"resume={stopped}"])
    assert (code, number, left) == (0, len(kinds), set())
    assert_same_run(stopped, whole)


# Signals at random moments. The processes are forks of this one, which spares them the imports.


def words_of(agent: str) -> list[str]:
    words = {"supervised": LEARNER, "ppo": PPO, "dqn": DQN, "sac": SAC, "c51": C51}[agent]
    steps = {"supervised": 120, "ppo": 200, "dqn": 250, "sac": 250, "c51": 250}[agent]
    return [*words, *SMALL, *MEASURED, f"steps={steps}", "checkpoint.every_steps=40"]


def started(words: Sequence[str], folder: Path) -> int:
    """Runs the command in a fork, with its messages in a file, and returns the number of the process."""
    child = os.fork()
    if child:
        return child
    try:
        nowhere = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["run_agent.py", *words]
        os._exit(main())
    finally:
        os._exit(99)  # a traceback


def ended(process: int) -> int:
    """Waits for a process and returns how it ended, as ``subprocess`` has it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def goes_on(folder: Path, whole: Path) -> None:
    """Asserts that the folder is absent, or that the run in it goes on to the same end."""
    if folder.exists():
        code = ended(started([f"resume={folder}"], folder))
        said = folder.with_suffix(".txt").read_text()
        assert code == 0 or (code == 2 and " already; give a larger steps=" in said), said
        assert_same_run(folder, whole)
    assert "Traceback" not in folder.with_suffix(".txt").read_text()
    assert [path.name for path in folder.parent.iterdir() if path.name.endswith(".tmp")] == []


def stopped_at(number: int, seconds: float, words: Sequence[str], folder: Path, whole: Path) -> float:
    """Sends a signal so many seconds after the start, and returns how long the process went on."""
    process = started([*words, f"run_dir={folder}"], folder)
    time.sleep(seconds)
    os.kill(process, number)
    sent = time.monotonic()
    code = ended(process)
    took = time.monotonic() - sent
    assert code in ((-signal.SIGKILL, 0) if number == signal.SIGKILL else (0, 130, -signal.SIGINT)), code
    if number == signal.SIGKILL:
        for path in folder.parent.glob(f".{folder.name}.*.tmp"):  # killed while the folder was made under another name
            shutil.rmtree(path)
    goes_on(folder, whole)
    return took


def test_a_run_that_is_stopped_at_its_start_in_the_middle_and_at_its_end_goes_on(tmp_path: Path) -> None:
    words, whole = words_of("supervised"), tmp_path / "whole"
    began = time.monotonic()
    assert ended(started([*words, f"run_dir={whole}"], whole)) == 0
    length = time.monotonic() - began
    for number, share in enumerate((0.1, 0.5, 0.9)):
        stopped_at(signal.SIGINT, share * length, words, tmp_path / str(number), whole)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["supervised", "ppo", "dqn", "sac", "c51"])
def test_runs_go_on_after_signals_at_random_moments(agent: str, tmp_path: Path) -> None:
    words, whole, draw = words_of(agent), tmp_path / "whole", random.Random(agent)
    began = time.monotonic()
    assert ended(started([*words, f"run_dir={whole}"], whole)) == 0
    length = time.monotonic() - began
    took = []
    for number in range(4):
        took.append(stopped_at(signal.SIGINT, draw.random() * length, words, tmp_path / f"int{number}", whole))
        stopped_at(signal.SIGKILL, draw.random() * length, words, tmp_path / f"kill{number}", whole)
    print(f"{agent}: a run takes {length:.1f} s, and ends {', '.join(f'{seconds:.2f}' for seconds in took)} s after Ctrl-C")


def test_ctrl_c_while_the_program_loads_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(PROGRAM), "run_dir=run"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "hydra" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@contextmanager
def tidied_up(error: Exception) -> Iterator[None]:
    """A library's block that fails at putting things back once it is cut off."""
    try:
        yield
    finally:
        raise error


def test_a_library_that_fails_as_it_is_cut_off_does_not_hide_the_stop() -> None:
    with pytest.raises(Stopped), STOP.reading(), tidied_up(AttributeError("half made")):
        raise Stopped
    with pytest.raises(OSError, match="disk is full"), unmasked(), tidied_up(OSError("the disk is full")):
        raise Stopped
    with pytest.raises(AttributeError, match="its own"), unmasked(), tidied_up(AttributeError("its own")):
        pass


def test_a_stop_that_a_library_hides_while_words_are_read_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def cut_off(_: object) -> Any:
        with tidied_up(AttributeError("half made")):
            raise Stopped

    monkeypatch.setattr(commands, "parse", cut_off)
    assert main([f"run_dir={tmp_path / 'run'}"]) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("patience", [1000.0, 0.05])
def test_a_launcher_learns_of_a_stop_when_the_runs_of_others_are_saved_or_time_is_up(
    patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plasticity.training.stopping.OTHERS_SECONDS", patience)
    monkeypatch.setattr("plasticity.training.stopping.LIMIT_SECONDS", 0.05)  # which ends a process that waits for nothing
    asked: list[float] = []

    def unsaved() -> bool:
        asked.append(time.monotonic())
        return patience < 1 or asked[-1] < asked[0] + 0.3

    def launch() -> None:
        with STOP.waiting_for(unsaved):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(100)

    with STOP.installed(), pytest.raises(Stopped):
        launch()
    assert asked[-1] - asked[0] >= 0.3 if patience > 1 else asked[-1] - asked[0] < 0.3


WORKERS = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
STUDY = """
common: [agent=supervised, env=slowly_changing_regression, network=linear, log_every_steps=10, checkpoint.every_steps=1000000]
steps: 1000000
seeds: 5
methods: {none: }
short: {}
report: {outcome: {value: online/loss}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "study"])
def test_ctrl_c_saves_every_run_of_a_launcher_with_workers(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(STUDY)
    words = [f"study={tmp_path / 'mine.yaml'}"]
    if kind == "grid":
        words = ["-m", *SMALL, "agent=supervised", "env=slowly_changing_regression", "seed=range(5)", "steps=1000000"]
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *words, *WORKERS, f"run_dir={tmp_path / 's'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while sum(b"online/loss" in path.read_bytes() for path in tmp_path.glob("s/**/metrics.csv")) < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    statuses = [json.loads(path.read_text()) for path in tmp_path.glob("s/**/status.json")]
    assert [status["state"] for status in statuses] == ["stopped"] * 2, "no other run is begun either"
    saved = sorted(path.name for path in tmp_path.glob("s/**/step_*.pt"))
    assert saved == sorted(f"step_{status['step']:09d}.pt" for status in statuses)
    if kind == "grid":
        with (tmp_path / "s/grid.csv").open(newline="") as file:
            outcomes = [row["outcome"] for row in csv.DictReader(file)]
        assert sorted(outcomes) == sorted(f"stopped at step {status['step']}" for status in statuses)
