"""``mode=evaluate`` from the command line: what it plays, writes and refuses."""

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import run_agent
from plasticity.training.saving.run_folder import occupied

WORDS = ["log_every_steps=20", "checkpoint.every_steps=20", "checkpoint.keep=3"]
QUIET = ["network.widths=[8]", "metrics.every_steps=0", "probe.every_steps=0", "progress=false"]
CATCH = ["env=catch", "agent.warmup_env_steps=10", "agent.batch_size=8"]
EVALUATED = [
    "evaluation.every_steps=20",
    "evaluation.episodes=6",
    "evaluation.num_envs=2",
    "evaluation.random_action_probability=0.3",
]
SHIFTED = [
    *["agent=ppo", "agent.rollout_steps=10", "agent.minibatch_size=5", "agent.epochs=1"],
    *["env=slippery_ant", "env.id=Hopper-v5", "env.normalise_observations=true", "env.change_every_steps=25"],
    *["evaluation.every_steps=20", "evaluation.episodes=2", "evaluation.policy=sampled"],
]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(folder: Path, *words: str, steps: int = 60) -> Path:
    assert run_agent.main([f"run_dir={folder}", f"steps={steps}", *WORDS, *QUIET, *words]) == 0
    return folder


def evaluated(folder: Path, *words: str) -> dict[str, Any]:
    """Evaluates and returns the line that was written."""
    assert run_agent.main(["mode=evaluate", f"resume={folder}", *words]) == 0
    line: dict[str, Any] = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    return line


def logged(folder: Path, step: int) -> dict[str, float]:
    with (folder / "metrics.csv").open() as file:
        found = [row for row in csv.reader(file) if row[0] == str(step) and row[1].startswith("eval/")]
    return {name.removeprefix("eval/"): float(value) for _, name, value in found}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "catch", *CATCH, *EVALUATED)


@pytest.mark.parametrize("step", [20, 40, 60])
def test_a_checkpoint_plays_what_the_run_played_at_that_step(run: Path, step: int) -> None:
    line = evaluated(run, f"evaluation.step={step}")
    within = logged(run, step)
    assert set(within) == {"return", "return_std", "return_min", "return_max", "length", "episodes"}
    assert {name: line[name] for name in within} == within
    assert line["step"] == step


def test_statistics_and_physics_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", *SHIFTED)
    lines = [evaluated(folder, f"evaluation.step={step}") for step in (20, 60)]
    for line in lines:
        within = logged(folder, line["step"])
        assert {name: line[name] for name in within} == within
    frictions = [line["conditions"]["stream/friction"] for line in lines]
    assert frictions[0] != frictions[1]
    assert [line["conditions"]["stream/task"] for line in lines] == [0.0, 2.0]


def test_a_line_tells_what_was_played_and_how(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = evaluated(run, "evaluation.episodes=3", "evaluation.policy=sampled")
    assert (line["step"], line["episodes"], line["seed"]) == (60, 3, 0)
    assert (line["policy"], line["random_action_probability"]) == ("sampled", 0.3)
    assert (len(line["returns"]), line["lengths"]) == (3, [9.0] * 3)
    assert line["return"] == pytest.approx(sum(line["returns"]) / 3)
    assert "id=plasticity/Catch-v0" in line["protocol"]
    table = capsys.readouterr().out
    assert table.startswith(f"Evaluated {run} at step 60.\n")
    assert all(part in table for part in ("return per episode", "steps per episode", "evaluations.jsonl", "policy=sampled"))


def test_more_episodes_go_on_from_the_first(run: Path) -> None:
    few, many = (evaluated(run, f"evaluation.episodes={count}", "evaluation.num_envs=1")["returns"] for count in (4, 9))
    assert many[:4] == few


def test_nothing_else_in_the_folder_changes_though_the_run_goes_on(run: Path) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "evaluations.jsonl" and path.is_file()}

    before = files()
    with occupied(run):
        evaluated(run)
    assert files() == before


def test_the_replay_is_not_needed(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "replay", ignore_errors=True)
    assert evaluated(copy)["returns"] == evaluated(run)["returns"]


def test_an_episode_is_filmed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "film.gif"
    line = evaluated(run, f"video={path}", "evaluation.num_envs=1")
    with Image.open(path) as film:
        assert (film.format, film.size, film.n_frames) == ("GIF", (80, 160), 9)
        assert film.info["duration"] == 200
        film.seek(8)
        board = np.asarray(film.convert("L"))[::16, ::16]
    assert board.max(1).tolist() == [0] * 8 + [255, 255]  # the ball is above the paddle's row, the last before it lands
    told = f"{path}, an episode of 9 steps, return {line['returns'][0]:.4g}"
    assert told in capsys.readouterr().out


def test_an_environment_with_nothing_to_see_is_refused_before_it_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(tmp_path / "run", *CATCH[1:], "env=gym", "env.id=plasticity/DiscreteIdentity-v0", steps=20)
    capsys.readouterr()
    assert run_agent.main(["mode=evaluate", f"resume={folder}", f"video={tmp_path / 'film.gif'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: video={tmp_path / 'film.gif'}: there is nothing to film")
    assert error.count("\n") == 1
    assert not (folder / "evaluations.jsonl").exists()


REFUSED: dict[str, list[str]] = {
    "resume=RUN evaluation.step=41": ["evaluation.step=41", "20, 40, 60"],
    "resume=RUN agent.discount=0.5": ["agent.discount=0.99", "agent.discount=0.5"],
    "resume=RUN intervention=redo": ["intervention=[]", "intervention=[redo]"],
    "resume=RUN evaluation.policy=best": ["evaluation.policy=best", "greedy, sampled"],
    "resume=RUN evaluation.episode=3": ["evaluation.episode", "did you mean episodes?"],
    "resume=RUN video=film.avi": ["video=film.avi", ".gif or .mp4"],
    "resume=RUN video=nowhere/film.gif": ["video=nowhere/film.gif", "no folder nowhere"],
    "resume=RUN -m seed=0,1": ["-m"],
    "resume=/nowhere": ["resume=/nowhere", "not a run folder"],
    "": ["mode=evaluate", "resume=<run folder>"],
    "-m seed=0,1": ["mode=evaluate", "resume=<run folder>"],
}


@pytest.mark.parametrize("words", REFUSED)
def test_mistakes_get_one_line(
    words: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    assert run_agent.main(["mode=evaluate", *words.replace("RUN", str(run)).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(part in error for part in REFUSED[words])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["mode=evaluat"], ["mode=evaluat", "train, evaluate"]),
        (["video=film.gif"], ["video=film.gif", "mode=evaluate"]),
        (["agent=supervised", "env=permuted_pixels", "evaluation.every_steps=10"], ["data stream", "evaluation.every_steps"]),
    ],
)
def test_a_run_refuses_what_it_cannot_evaluate(
    words: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_agent.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts)
    assert list(tmp_path.iterdir()) == []
