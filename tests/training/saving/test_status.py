"""The state of a run: while it runs, after each kind of end, and of folders from before there was a file."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plasticity.training.saving import status as status_module
from plasticity.training.saving.run_folder import create_run_folder, occupied, start_again
from plasticity.training.saving.status import Status, StatusFile, cpu_seconds, read_status

ROOT = Path(__file__).resolve().parents[3]
TINY = ["agent=dqn", "env=bandit", "metrics=none", "probe.every_steps=0", "progress=false", "log_every_steps=20"]


def raw(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "status.json").read_text()))


def begin(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "run_agent.py", *TINY, *words, f"run_dir={folder}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_that_goes_on_is_noted_at_most_every_five_seconds(tmp_path: Path) -> None:
    now, step = [100.0], [0]
    status = StatusFile(tmp_path, lambda: step[0], 50, clock=lambda: now[0])
    with status.kept():
        assert (raw(tmp_path)["state"], raw(tmp_path)["step"], raw(tmp_path)["ended"]) == ("running", 0, None)
        for now[0], step[0], noted in ((101.0, 10, 0), (104.9, 20, 0), (105.0, 30, 30), (109.0, 40, 30)):
            status.write(step[0], {}, {})
            assert raw(tmp_path)["step"] == noted
        now[0] = 110.0
        status.flush()
        assert raw(tmp_path)["step"] == 40
        step[0] = 50
        status.end("finished")
    assert (raw(tmp_path)["state"], raw(tmp_path)["step"], raw(tmp_path)["steps"]) == ("finished", 50, 50)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_the_first_end_is_the_right_one(tmp_path: Path) -> None:
    """The thread that ends a long step records this while the step is in progress."""
    status = StatusFile(tmp_path, lambda: 9, 50, clock=lambda: 1e9)
    with status.kept():
        status.end("stopped", step=7)
        status.end("finished")
        status.flush()
    assert (raw(tmp_path)["state"], raw(tmp_path)["step"]) == ("stopped", 7)


@pytest.mark.parametrize(
    ("error", "state", "line"),
    [(KeyboardInterrupt(), "stopped", None), (FloatingPointError("not\nfinite"), "failed", "FloatingPointError: not finite")],
)
def test_what_a_run_ends_by_is_kept(tmp_path: Path, error: BaseException, state: str, line: str | None) -> None:
    with pytest.raises(type(error)), StatusFile(tmp_path, lambda: 3, 5).kept():
        raise error
    assert (raw(tmp_path)["state"], raw(tmp_path)["error"], raw(tmp_path)["step"]) == (state, line, 3)


def test_costs_add_up_over_resumes_and_the_first_start_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"state": "running", "step": 5, "steps": 10, "started": "2020-01-01T00:00:00+00:00", "cpu_seconds": 40.0}
    (tmp_path / "status.json").write_text(json.dumps(before | {"peak_memory_bytes": 2**50, "resumed": 1}))
    clock = iter([100.0, 101.5, 103.25])
    monkeypatch.setattr(status_module, "cpu_seconds", lambda: next(clock))
    status = StatusFile(tmp_path, lambda: 6, 20, resumed=2)
    with status.kept():
        assert raw(tmp_path)["cpu_seconds"] == 41.5
        status.end("finished")
    found = read_status(tmp_path)
    assert (found.cpu_seconds, found.peak_memory_bytes, found.resumed) == (43.25, 2**50, 2)
    assert (found.started, found.steps, found.state) == ("2020-01-01T00:00:00+00:00", 20, "finished")


def test_processor_time_and_memory_of_children_count(tmp_path: Path) -> None:
    before = cpu_seconds()
    status = StatusFile(tmp_path, lambda: 0, 1)
    work = "x = bytearray(300 * 2**20)\nimport time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    with status.kept():
        status.end("finished")
    assert cpu_seconds() - before >= 0.3
    assert raw(tmp_path)["cpu_seconds"] >= 0.3
    assert raw(tmp_path)["peak_memory_bytes"] >= 300 * 2**20


def test_what_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    with StatusFile(tmp_path / "gone", lambda: 0, 1).kept():
        pass
    assert not (tmp_path / "gone").exists()


@pytest.mark.slow
def test_a_finished_run_says_so(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", "steps=60")
    assert process.communicate()[1] == ""
    found = read_status(tmp_path / "run")
    assert (found.state, found.step, found.steps, found.resumed, found.error) == ("finished", 60, 60, 0, None)
    assert (found.alive, found.killed) == (False, False)
    assert found.cpu_seconds is not None
    assert found.cpu_seconds > 0
    assert found.peak_memory_bytes is not None
    assert 2**25 < found.peak_memory_bytes < 2**34
    assert str(found.started) <= str(found.ended)


@pytest.mark.slow
def test_a_killed_run_stays_running_without_a_process_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with begin(folder, "steps=10000000", "checkpoint.every_steps=200") as process:
        wait_for(lambda: any(folder.glob("checkpoints/step_*.pt")))
        assert (read_status(folder).state, read_status(folder).alive) == ("running", True)
        os.kill(process.pid, signal.SIGKILL)
    found = read_status(folder)
    assert (found.state, found.alive, found.killed, found.ended) == ("running", False, True, None)
    step = max(int(path.stem[5:]) for path in folder.glob("checkpoints/step_*.pt"))
    command = [sys.executable, "run_agent.py", f"resume={folder}", f"steps={step + 20}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = read_status(folder)
    assert (after.state, after.step, after.resumed, after.started) == ("finished", step + 20, 1, found.started)
    assert float(after.cpu_seconds or 0) > float(found.cpu_seconds or 0)


@pytest.mark.slow
def test_a_stopped_run_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with begin(folder, "steps=10000000") as process:
        wait_for(lambda: (folder / "metrics.csv").exists())
        process.send_signal(signal.SIGTERM)
    found = read_status(folder)
    assert (found.state, found.alive, found.killed) == ("stopped", False, False)
    assert found.step == max(int(path.stem[5:]) for path in folder.glob("checkpoints/step_*.pt")) > 0
    assert found.ended is not None


@pytest.mark.slow
def test_a_failed_run_says_of_what(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", "steps=4000", "optimizer.learning_rate=1e30", "checkpoint.every_steps=100")
    process.communicate()
    found = read_status(tmp_path / "run")
    assert found.state == "failed"
    assert str(found.error).startswith("FloatingPointError: ")
    assert "\n" not in str(found.error)
    assert found.steps == 4000 > found.step


def test_asking_keeps_no_run_out_and_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 10\n")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # another reader, in the middle of asking
    try:
        assert not read_status(tmp_path).alive
    finally:
        os.close(descriptor)
    with occupied(tmp_path):
        assert read_status(tmp_path).alive
        assert read_status(tmp_path).state == "running"


def test_a_run_waits_for_a_reader_that_asks_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    monkeypatch.setattr("plasticity.training.saving.run_folder.time.sleep", lambda seconds: os.close(descriptor))
    with occupied(tmp_path):
        pass


@pytest.mark.parametrize(
    ("checkpoints", "outcome", "expected"),
    [
        ([60, 100], None, Status("finished", 100, 100, resumed=1)),
        ([60], None, Status("stopped", 80, 100, resumed=1)),
        ([], "failed: no space", Status("failed", 80, 100, resumed=1, error="no space")),
        ([60], "finished", Status("stopped", 80, 100, resumed=1)),
    ],
)
@pytest.mark.parametrize("damaged", [None, "", "{", '{"state": "odd", "step": 1, "steps": 2}'])
def test_a_folder_without_a_readable_file(
    tmp_path: Path, checkpoints: list[int], outcome: str | None, expected: Status, damaged: str | None
) -> None:
    folder = tmp_path / "0_seed=1"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("steps: 100\nseed: 1\n")
    (folder / "provenance.json").write_text(json.dumps({"overrides": [], "resumed": [{"step": 20}]}))
    (folder / "metrics.csv").write_text("step,name,value\n60,a,1.0\n80,a,1.0\n99,a")
    for step in checkpoints:
        (folder / "checkpoints" / f"step_{step:09d}.pt").touch()
    if outcome is not None:
        (tmp_path / "grid.csv").write_text(f"run,outcome,words\n0_seed=1,{outcome},seed=1\n")
    if damaged is not None:
        (folder / "status.json").write_text(damaged)
    assert read_status(folder) == expected


def test_what_is_no_run_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path} is not a run folder: "):
        read_status(tmp_path)


def test_a_run_that_starts_again_has_no_past(tmp_path: Path) -> None:
    create_run_folder(tmp_path, {"steps": 1}, [])
    (tmp_path / "status.json").write_text("{}")
    start_again(tmp_path, {"steps": 1}, [])
    assert not (tmp_path / "status.json").exists()
