"""Names of the runs of a grid, how its end is reported, and what happens after a failed launch."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

import run_agent
from plasticity.training.config import grid
from plasticity.training.config.grid import GRID, run_grid, run_name

SAFE = re.compile(r"\d+(_[A-Za-z0-9.=,+-]{1,80})?")
QUIET = ["agent.warmup_env_steps=1000", "metrics.every_steps=0", "probe.every_steps=0", "steps=5"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "3"),
        (["seed=1"], "3_seed=1"),
        (["seed=1", "agent=ppo"], "3_agent=ppo,seed=1"),
        (["intervention=[]"], "3_intervention="),
        (["intervention=[l2_init,redo]"], "3_intervention=l2-init+redo"),
        (["env.id=m:Ns/A-v0"], "3_env.id=m-Ns-A-v0"),
        (["run='a b/..\\ü'"], "3_run=a-b-..-"),
        (["optimizer.learning_rate=1e-05"], "3_optimizer.learning-rate=1e-05"),
    ],
)
def test_names_are_safe_and_say_what_is_swept(words: list[str], name: str) -> None:
    assert run_name(3, words) == name
    assert SAFE.fullmatch(name)


def test_long_names_are_cut_and_differ_where_their_words_do() -> None:
    long = [f"network.widths=[{','.join(['32'] * count)}]" for count in (90, 91)]
    names = [run_name(0, [words]) for words in long]
    assert all(SAFE.fullmatch(name) and len(name) == 82 for name in names)
    assert names[0][:-8] == names[1][:-8]
    assert names[0] != names[1]
    assert run_name(0, [long[0]]) == names[0]
    assert run_name(0, ["a=" + "b" * 78]) == "0_a=" + "b" * 78


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / GRID).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_over_long_lists_and_environments_with_slashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slashed_envs.py").write_text(
        "import gymnasium\nfor name in 'AB':\n"
        "    gymnasium.register(f'Ns/{name}-v0', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.argv", ["run_agent.py"])
    widths = f"network.widths=[{','.join(['4'] * 90)}],[8]"
    words = ["-m", "env=gym", "env.id=slashed_envs:Ns/A-v0,slashed_envs:Ns/B-v0", widths, *QUIET, f"run_dir={tmp_path / 'grid'}"]
    assert run_agent.main(words) == 0
    told = rows(tmp_path / "grid")
    folders = sorted(path.name for path in (tmp_path / "grid").iterdir() if path.is_dir())
    assert sorted(row["run"] for row in told) == folders
    assert len(folders) == 4
    assert all(SAFE.fullmatch(name) and (tmp_path / "grid" / name / "checkpoints").is_dir() for name in folders)
    assert told[3] == {
        "run": "3_env.id=slashed-envs-Ns-B-v0,network.widths=8",
        "outcome": "finished",
        "words": "env.id=slashed_envs:Ns/B-v0 'network.widths=[8]'",
    }
    assert "4 of 4 finished" in capsys.readouterr().out


def test_the_last_line_names_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def launch() -> None:
        grid._write(tmp_path, "10_seed=10", "started", ["seed=10"])
        grid._write(tmp_path, "0_seed=0", grid.FINISHED, ["seed=0"])
        message = "part q: the loss or a gradient is not finite in update 93. The run, up to its last checkpoint, is in r"
        grid._write(tmp_path, "1_seed=1", f"failed: {grid._reason(FloatingPointError(message))}", ["seed=1"])
        grid._write(tmp_path, "2_seed=2", f"failed: {grid._reason(OSError(28, 'No space left'))}", ["seed=2"])
        raise RuntimeError("a worker was killed")

    assert run_grid(tmp_path, launch) == 1
    captured = capsys.readouterr()
    assert "1 of 4 finished" in captured.out
    first, last = captured.err.splitlines()
    assert first == "stopped: the launcher failed: a worker was killed"
    assert last == (
        "3 of 4 failed: 1_seed=1 (not finite in update 93), 2_seed=2 ([Errno 28] No space left), "
        "10_seed=10 (ended without a record)"
    )
    assert [row["run"] for row in rows(tmp_path)] == ["0_seed=0", "1_seed=1", "2_seed=2", "10_seed=10"]


@pytest.mark.parametrize("error", [ValueError("no such launcher"), KeyboardInterrupt()])
def test_a_launch_that_begins_no_run_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def launch() -> None:
        raise error

    with pytest.raises(type(error)):
        run_grid(tmp_path / "new" / "grid", launch)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"exists and is not empty; choose another"):
        run_grid(tmp_path, lambda: None)


def test_a_run_that_raises_anything_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from plasticity.training import run as module

    real = module.run

    def fails_at_seed_1(plan: Any, *rest: Any, **named: Any) -> Any:
        if plan.run.seed == 1:
            raise RuntimeError("somebody's environment broke. And more of it")
        return real(plan, *rest, **named)

    monkeypatch.setattr(module, "run", fails_at_seed_1)
    monkeypatch.setattr("sys.argv", ["run_agent.py"])
    assert run_agent.main(["-m", "seed=0,1,2", *QUIET, f"run_dir={tmp_path / 'grid'}"]) == 1
    assert [row["outcome"].partition(":")[0] for row in rows(tmp_path / "grid")] == ["finished", "failed", "finished"]
    assert capsys.readouterr().err.splitlines()[-1].startswith("1 of 3 failed: 1_seed=1 (somebody's environment broke")


def test_a_worker_that_was_stopped_begins_no_other_run_of_its_launch() -> None:
    begun: list[str] = []

    def task(config: Any) -> float:
        begun.append(config)
        if config == "stopped":
            raise KeyboardInterrupt
        return 0.0

    one, other = grid._UntilStopped(task, "one"), grid._UntilStopped(task, "other")
    one("first")  # type: ignore[arg-type]
    for config in ("stopped", "next"):
        with pytest.raises(KeyboardInterrupt):
            one(config)  # type: ignore[arg-type]
    other("another launch")  # type: ignore[arg-type]
    assert begun == ["first", "stopped", "another launch"]
