"""The closing summary, from whatever metrics.csv holds."""

from pathlib import Path

import pytest

from training.progress import ProgressWriter, summary_lines


def lines(folder: Path, *rows: str) -> list[str]:
    (folder / "metrics.csv").write_text("".join(f"{row}\n" for row in ["step,name,value", *rows]))
    return [" ".join(line.split()) for line in summary_lines(folder, {"metrics": 0.25})]


def test_it_shows_the_first_value_and_the_last(tmp_path: Path) -> None:
    rows = [f"{step},{name},{step}" for step in (1, 2, 3) for name in ("rollout/return", "time/steps_per_second")]
    assert lines(tmp_path, *rows) == [
        "return per episode 3 (at first 1)",
        "steps per second 3, measurements apart",
        "time of measurements metrics 0.2 s",
    ]


def test_what_was_never_logged_is_left_out(tmp_path: Path) -> None:
    assert lines(tmp_path, "1,online/accuracy,0.5") == [
        "online accuracy 0.5 (at first 0.5)",
        "time of measurements metrics 0.2 s",
    ]


def test_tasks_are_shown_with_their_mean(tmp_path: Path) -> None:
    names = {
        "task/online_accuracy": (0.5, 0.75),
        "task/mean_online_accuracy": (0.5, 0.625),
        "relative/test_accuracy": (0.1, -0.2),
    }
    rows = [f"{step},{name},{values[step]}" for step in (0, 1) for name, values in names.items()]
    assert lines(tmp_path, *rows, "1,task/test_accuracy,0.5") == [
        "online accuracy of a task 0.75 (at first 0.5), mean of the tasks 0.625",
        "test accuracy of a task 0.5 (at first 0.5)",
        "beyond a fresh network's -0.2 (at first 0.1)",
        "time of measurements metrics 0.2 s",
    ]


def test_the_bar_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressWriter(10, 0)
    bar.write(1, {"online/accuracy": 0.5, "online/loss": 3.0}, {})
    bar.write(2, {"task/test_accuracy": 0.75, "task/mean_online_accuracy": 0.625}, {})
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "2/10" in last
    assert "accuracy=0.5, mean=0.625, test=0.75]" in last


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    damaged = ["1,rollout/return,?", "2,rollout/return", "2", "", "2,rollout/return,"]
    shown = lines(tmp_path, *damaged, "3,rollout/return,7", "4,rollout/return,8", *damaged)
    assert shown[0] == "return per episode 8 (at first 7)"


def test_the_summary_says_why_a_value_is_missing(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,name,value\n1,plasticity/dormant_fraction,nan\n1,plasticity/effective_rank,nan\n")
    (tmp_path / "notes.log").write_text("step 1: plasticity/dormant_fraction: the network has no hidden layer\n")
    lines = "\n".join(summary_lines(tmp_path, {}))
    assert "none: the network has no hidden layer" in lines
    assert "none: see notes.log" in lines
    assert "nan" not in lines
