"""The closing summary, for all kinds of content of metrics.csv."""

import io
from pathlib import Path

import pytest
from tqdm import tqdm

from plasticity.training.tracking.progress import ProgressWriter, summary_lines
from plasticity.training.tracking.tracker import Tracker


def lines(folder: Path, *rows: str) -> list[str]:
    (folder / "metrics.csv").write_text("".join(f"{row}\n" for row in ["step,name,value", *rows]))
    return [" ".join(line.split()) for line in summary_lines(folder, {"metrics": 0.25})]


def test_it_shows_the_first_value_and_the_last(tmp_path: Path) -> None:
    rows = [f"{step},{name},{step}" for step in (1, 2, 3) for name in ("rollout/return", "time/steps_per_second")]
    assert lines(tmp_path, *rows) == [
        "return per episode 3 (at first 1)",
        "steps per second 1.64, mean of the run, without measurements",  # 3 steps in 1/1 + 1/2 + 1/3 seconds
        "time of measurements metrics 0.2 s",
    ]


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        (("10,10", "20,40"), "16"),  # 20 steps in 1 + 0.25 s, not the last interval's 40 nor the mean of the two, 25
        (("500,250", "1000,500", "1007,700"), "335"),  # 1007 steps in 2 + 1 + 0.01 s, the last interval being the shortest
        (("1,0.25", "2,0.2"), "0.222"),  # 2 steps in 4 + 5 s
        (("1,nan", "3,0.004"), "0.004"),  # an interval that was not timed is left out
    ],
)
def test_the_speed_is_the_mean_of_the_run(tmp_path: Path, rows: tuple[str, ...], shown: str) -> None:
    written = [f"{step},time/steps_per_second,{value}" for step, value in (row.split(",") for row in rows)]
    assert lines(tmp_path, *written)[0] == f"steps per second {shown}, mean of the run, without measurements"


def test_what_was_never_logged_is_left_out(tmp_path: Path) -> None:
    assert lines(tmp_path, "1,online/accuracy,0.5") == [
        "online accuracy 0.5 (measured once)",
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
        "test accuracy of a task 0.5 (measured once)",
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


class Terminal(io.StringIO):
    """Counts how often a bar is drawn: each drawing begins with a carriage return."""

    @property
    def places(self) -> list[str]:
        return [drawn.partition("|")[2].partition("|")[2].split("[")[0].strip() for drawn in self.getvalue().split("\r")[1:]]


@pytest.mark.parametrize(
    ("seconds_a_step", "drawn"),
    [
        (0.25, ["0/12", "4/12", "8/12", "12/12"]),  # once a second, for any log_every_steps
        (10.0, [f"{step}/12" for step in range(13)]),  # with every step of a slow network
    ],
)
def test_the_bar_moves_about_once_a_second(seconds_a_step: float, drawn: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now, screen = 100.0, Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that looks at the real clock
    bar = ProgressWriter(12, 0)
    bar._bar._time = lambda: now
    bar._bar.last_print_t = bar._bar.start_t = now
    tracker = Tracker([bar], every_steps=500, moved=bar.move)
    for step in range(1, 13):
        now += seconds_a_step
        tracker.write(step, {"train/loss": 1.0})
    assert screen.places == drawn


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
