"""Studies of real runs, as small as they can be; pages are made in the slow test alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_agent
from plasticity.training.studies import running
from plasticity.training.studies.cells import Cell
from plasticity.training.studies.folder import StudyFolder

ROOT = Path(run_agent.__file__).parent
PLUGIN = '''
from dataclasses import dataclass

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention


@intervention("{name}")
@dataclass
class Method(Intervention):
    """Shrinks the loss."""

    def loss(self, u):
        return 0.001 * sum(weight.square().sum() for weight in u.network.parameters())
'''
STUDY = """
common: [agent=supervised, env=slowly_changing_regression, network=linear, optimizer=sgd, {common}]
steps: {steps}
seeds: {seeds}
methods: {{{methods}}}
short: {{steps: 5}}
report: {{outcome: {{value: online/loss, better: lower}}}}
"""
QUIET = "env.bits=4, env.slow_bits=2, env.examples_per_task=20, probe.every_steps=0, metrics.every_steps=0, log_every_steps=10"


def study(folder: Path, methods: str = "none: []", seeds: str = "1", steps: int = 20, common: str = QUIET) -> list[str]:
    """Writes a study; returns the words that run it."""
    (folder / "mine.yaml").write_text(STUDY.format(common=common, steps=steps, seeds=seeds, methods=methods))
    return [f"study={folder / 'mine.yaml'}", f"run_dir={folder / 's'}"]


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted((folder / "s" / "runs").rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages take seconds; runs in processes of their own make them all the same."""
    monkeypatch.setattr(running, "_report", lambda study: 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two methods, the second of which diverges."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_report", lambda study: 0)
        assert run_agent.main(study(folder, 'none: [], wild: ["optimizer.learning_rate=1e30"]')) == 1
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> list[str]:
    """The same, to be changed: its words."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return [f"study={tmp_path / 'mine.yaml'}", f"run_dir={tmp_path / 's'}"]


def test_each_run_has_its_folder_and_a_failure_stops_no_other(done: Path) -> None:
    s = done / "s"
    assert json.loads((s / "runs/main/none/seed_0/status.json").read_text())["state"] == "finished"
    assert json.loads((s / "runs/main/wild/seed_0/status.json").read_text())["state"] == "failed"
    events = StudyFolder(s).last_events()
    assert [events[f"runs/main/{name}/seed_0"]["event"] for name in ("none", "wild")] == ["finished", "failed"]
    columns = "cell,condition,method,seed,words,folder,seconds,bytes,identity,moment,remedy,repeat"
    assert (s / "plan.csv").read_text().splitlines()[0] == columns


def test_again_nothing_is_done_and_the_failure_is_named(
    copy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(tmp_path)
    assert run_agent.main(copy) == 1
    out, err = capsys.readouterr()
    assert "mine: 0 of 2 to do (1 done, 1 failed)" in out
    assert "1 of 2 failed: main/wild/seed_0" in err
    assert "not finite" in err
    assert "retry=true" in err
    assert times(tmp_path) == before


def test_retry_runs_the_failed_one_alone(copy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(tmp_path)
    assert run_agent.main([*copy, "retry=true"]) == 1
    assert "mine: 1 of 2 to do" in capsys.readouterr().out
    changed = {name for name, when in times(tmp_path).items() if before.get(name) != when}
    assert changed
    assert all("/wild/" in name for name in changed)


def test_a_removed_run_is_the_one_that_is_done(copy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tmp_path / "s/runs/main/none/seed_0")
    run_agent.main(copy)
    assert "mine: 1 of 2 to do (1 failed)" in capsys.readouterr().out
    assert (tmp_path / "s/runs/main/none/seed_0/metrics.csv").exists()


def test_other_settings_are_named_and_left(copy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(tmp_path)
    study(tmp_path, steps=25)
    assert run_agent.main(copy) == 1
    out, err = capsys.readouterr()
    assert "mine: 0 of 1 to do (1 other settings or code)" in out
    assert "steps=20 in the run, 25 in the study" in err
    assert times(tmp_path) == before


def test_a_run_that_another_process_has_is_skipped(copy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tmp_path / "s/runs/main/none/seed_0")
    cell = Cell("runs/main/none/seed_0", "main", "none", 0, (), (), 20, "")
    with StudyFolder(tmp_path / "s").taken(cell):
        run_agent.main(copy)
    out = capsys.readouterr().out
    assert "mine: 0 of 2 to do (1 failed, 1 busy)" in out
    assert "0 of 2 done, 1 busy in another process" in out


def test_it_is_known_whether_a_process_works_on_one_of_some_runs(tmp_path: Path) -> None:
    cells = [Cell(f"runs/main/none/seed_{seed}", "main", "none", seed, (), (), 20, "") for seed in (0, 1)]
    folder = StudyFolder(tmp_path)
    assert not folder.has_taken(cells, {os.getpid()})
    with folder.taken(cells[1]):
        assert folder.has_taken(cells, {1, os.getpid()})
        assert not folder.has_taken(cells[:1], {os.getpid()})
        assert not folder.has_taken(cells, {os.getpid() + 1})
        assert not folder.has_taken(cells, set())
    assert not folder.has_taken(cells, {os.getpid()})


def test_words_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(study(tmp_path, "none: [], odd: [optimizer.learning_rat=1]")) == 2
    err = capsys.readouterr().err
    assert "mine.yaml: main/odd: optimizer.learning_rat is unknown (did you mean learning_rate?)" in err
    assert run_agent.main(study(tmp_path, 'both: ["optimizer.learning_rate=1,2"]')) == 2
    assert "methods.both: optimizer.learning_rate=1,2 names several runs" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def start(words: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "run_agent.py", *words],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def wait_for(path: Path, process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


SLOW = f"{QUIET}, checkpoint.every_steps=200"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_study_that_was_ended_in_its_second_run_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    words = study(tmp_path, seeds="3", steps=4000, common=SLOW)
    first = start(words, tmp_path / "first")
    second = tmp_path / "s/runs/main/none/seed_1"
    wait_for(second / "checkpoints/step_000000200.pt", first)
    first.send_signal(how)
    assert first.wait(60) == (130 if how == signal.SIGINT else -9)
    assert not (tmp_path / "s/runs/main/none/seed_2").exists()
    before = {path: when for path, when in times(tmp_path).items() if "/seed_0/" in path}
    again = start(words, tmp_path / "again")
    assert again.wait(300) == 0
    told = (tmp_path / "again").read_text()
    assert "mine: 2 of 3 to do (1 done, 1 interrupted)" in told
    assert {path: when for path, when in times(tmp_path).items() if "/seed_0/" in path} == before
    assert json.loads((second / "status.json").read_text())["resumed"] == 1
    assert (tmp_path / "s/report/index.html").exists()


@pytest.mark.slow
def test_two_processes_share_a_study_and_joblib_runs_it(tmp_path: Path) -> None:
    for name in ("first_method", "second_method"):
        (tmp_path / f"{name}.py").write_text(PLUGIN.format(name=name))
    common = f'{QUIET}, "plugins=[first_method.py,second_method.py]"'
    words = study(tmp_path, "none: , first_method: , second_method: ", seeds="3", steps=400, common=common)
    processes = [start([*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], tmp_path / f"log_{n}") for n in range(2)]
    codes = [process.wait(400) for process in processes]
    logs = [(tmp_path / f"log_{n}").read_text() for n in range(2)]
    assert codes == [0, 0], logs
    finished = [json.loads(path.read_text()) for path in (tmp_path / "s").glob("runs/main/*/seed_*/status.json")]
    assert len(finished) == 9
    assert {(status["state"], status["resumed"]) for status in finished} == {("finished", 0)}
    lines = [json.loads(line) for line in (tmp_path / "s/events.jsonl").read_text().splitlines()]
    assert sorted(line["cell"] for line in lines if line["event"] == "started") == sorted({line["cell"] for line in lines})
    assert (tmp_path / "s/report/index.html").exists()
