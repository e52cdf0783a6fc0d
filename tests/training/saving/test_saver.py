"""When a run is saved, and what the signals do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.envs.experience import Examples, Experience
from plasticity.training.config.settings import CheckpointSettings
from plasticity.training.saving.checkpoint import latest_checkpoint, load_checkpoint
from plasticity.training.saving.saver import RunSaver, restore
from plasticity.training.step import Step
from plasticity.training.stopping import STOP, Stopped

ROOT = Path(__file__).resolve().parents[3]


class Part:
    device = torch.device("cpu")

    def raise_if_not_finite(self) -> None: ...


class Thing:
    """An agent, a stream and a tracker in one."""

    def __init__(self) -> None:
        self.step, self.value, self.flushed = 0, 0, 0
        self.parts: dict[str, Any] = {"q": Part()}

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any], folder: Path | None = None) -> None:
        self.value = state["value"]

    def flush(self) -> None:
        self.flushed += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield


def saver(folder: Path, every: int, keep: int = 2) -> tuple[RunSaver, Any, Any, Any]:
    agent, stream, tracker = (Thing() for _ in range(3))
    parts: Any = (agent, stream, tracker)
    return RunSaver(folder, CheckpointSettings(every, keep), {"seed": 1}, *parts), agent, stream, tracker


def passed(before: int, after: int, seconds: float = 0.0) -> Step:
    experience = Experience(Examples(torch.zeros(1, 1), torch.zeros(1)), 0)
    return Step(before, after, 0, experience, [], [], learned=True, seconds=seconds)


def names(folder: Path) -> list[int]:
    return sorted(int(path.stem.partition("_")[2]) for path in (folder / "checkpoints").glob("*.pt"))


def test_a_run_whose_weights_cannot_be_trusted_is_not_saved(tmp_path: Path) -> None:
    class Broken:
        def raise_if_not_finite(self) -> None:
            raise FloatingPointError("part q: the loss is not finite")

    save, agent, stream, _ = saver(tmp_path, every=10)
    stream.step = 10
    save.save()
    agent.parts, stream.step = {"q": Broken()}, 20
    with pytest.raises(FloatingPointError, match="part q"):
        save.save()
    assert names(tmp_path) == [10]


def test_it_saves_when_a_multiple_of_the_period_is_reached_or_passed_and_keeps_the_newest(tmp_path: Path) -> None:
    save, agent, stream, tracker = saver(tmp_path, every=10)
    for before, step in ((0, 9), (9, 12), (12, 19), (19, 20), (20, 45)):
        stream.step, agent.value = step, step
        assert save.after_step(passed(before, step)) is False
    assert names(tmp_path) == [20, 45]
    assert tracker.flushed == 3
    path = latest_checkpoint(tmp_path)
    assert path is not None
    state = load_checkpoint(path)
    assert (state["step"], state["config"], state["agent"]["value"]) == (45, {"seed": 1}, 45)
    agent.value = 0
    assert restore(state, tmp_path, agent, stream, {}) is None
    assert agent.value == 45


def test_it_saves_at_given_steps_for_good(tmp_path: Path) -> None:
    save, _, stream, _ = saver(tmp_path, every=10, keep=1)
    save.settings = CheckpointSettings(10, 1, [15, 24])
    for before, step in ((0, 8), (8, 16), (16, 24), (24, 32), (32, 40)):  # as eight environments go
        stream.step = step
        save.after_step(passed(before, step))
    assert names(tmp_path) == [16, 24, 40]


def test_a_period_of_0_saves_only_when_asked(tmp_path: Path) -> None:
    save, _, stream, _ = saver(tmp_path, every=0)
    stream.step = 1000
    save.after_step(passed(0, 1000))
    assert not (tmp_path / "checkpoints").exists()
    save.save()
    assert names(tmp_path) == [1000]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_saves_after_the_step(tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasticity.training.stopping.LIMIT_SECONDS", 1000.0)
    save, _, stream, _ = saver(tmp_path, every=0)
    before = signal.getsignal(number)
    with STOP.installed(), STOP.stepping(), save:
        assert save.after_step(passed(5, 6)) is False
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_DFL  # the second ends the process at once
        stream.step = 7
        assert save.after_step(passed(6, 7)) is True
    assert names(tmp_path) == [7]
    assert signal.getsignal(number) is before


def test_a_signal_leaves_what_changes_nothing_at_once_but_not_while_something_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plasticity.training.stopping.LIMIT_SECONDS", 1000.0)
    tape: list[str] = []

    class PuttingBack:
        def __enter__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            tape.append("put in")

        def __exit__(self, *error: object) -> None:
            tape.append("put back")

    def measure() -> None:
        with STOP.reading(), PuttingBack():
            time.sleep(5)
            tape.append("not reached")

    def measure_after_a_signal() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        with STOP.reading():
            tape.append("not reached")

    for measuring in (measure, measure_after_a_signal):
        with STOP.installed(), STOP.stepping(), pytest.raises(Stopped):
            measuring()
    assert tape == ["put in", "put back"]


def test_slow_steps_are_copied_and_the_copy_is_what_a_stop_in_the_next_one_saves(tmp_path: Path) -> None:
    save, agent, stream, _ = saver(tmp_path, every=0)
    save.before_step()
    stream.step = agent.value = 3
    assert save.after_step(passed(0, 3, seconds=0.6)) is False
    save.before_step()
    stream.step = agent.value = 4  # in the middle of the next step
    assert save._give_up()
    path = latest_checkpoint(tmp_path)
    assert path is not None
    state = load_checkpoint(path)
    assert (state["step"], state["agent"]["value"]) == (3, 3)


def test_a_stop_in_a_long_step_loses_a_minute_at_most(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save, _, stream, _ = saver(folder, every=0)
    save.removable = True
    save._saved_at -= 61
    assert not save._give_up()
    assert "returns to its start" in capfd.readouterr().err
    assert folder.exists()
    stream.step = 5
    save.save()
    assert save._give_up()
    assert "returns to step 5" in capfd.readouterr().err
    assert names(folder) == [5]


def test_the_folder_of_a_run_that_has_nothing_to_go_on_from_is_removed_by_the_process_that_made_it(tmp_path: Path) -> None:
    for removable in (False, True):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        save, *_ = saver(folder, every=0)
        save.removable = removable
        assert save._give_up()
        assert folder.exists() is not removable
    assert list(tmp_path.iterdir()) == []


def test_a_fork_has_the_signals_as_they_were_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with STOP.installed():
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGINT) is before and signal.set_wakeup_fd(-1) == -1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert signal.getsignal(signal.SIGINT) is not before


SLOW = """
import hashlib, sys, time
from plasticity.training.stopping import STOP
with STOP.installed(sys.argv[1]):
    print("in", flush=True)
    if sys.argv[1] == "reading":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # one call that does not come back to Python
    if sys.argv[1] == "stepping":
        with STOP.writing():
            time.sleep(2)
            print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("doing", "signals", "written"), [("loading", 1, ""), ("reading", 2, ""), ("stepping", 1, "written\n")])
def test_the_process_ends_in_time(doing: str, signals: int, written: str) -> None:
    """While it loads; within a call that never comes back at the second signal; and only after what is being written."""
    command = [sys.executable, "-c", SLOW, doing]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        try:
            output, _ = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode in (130, -signal.SIGINT)
    assert output == written
