"""What a run on tasks writes, from the command line: values by task, and the same after a stop within one."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_agent

Rows = dict[str, dict[int, float]]

# 12 examples in minibatches of 5, 5 and 2, twice: 6 steps of a task.
WORDS = [
    *("agent=supervised", "env=cifar10_pairs", "env.dataset=digits", "env.train_per_class=6", "env.test_per_class=20"),
    *("env.batch_size=5", "env.epochs_per_task=2", "network.widths=[8]", "optimizer.learning_rate=0.01", "metrics=none"),
    *("probe.every_steps=0", "progress=false", "threads=1", "log_every_steps=1", "task_evaluation.every_epochs=1"),
    *("task_evaluation.forward_transfer=true", "task_evaluation.fresh_every_tasks=2"),
]
SIZES = (5, 5, 2, 5, 5, 2)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def table(folder: Path) -> Rows:
    rows: Rows = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return rows


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if ",time/" not in line]


def test_each_task_has_its_values(tmp_path: Path) -> None:
    assert run_agent.main([*WORDS, f"run_dir={tmp_path / 'run'}", "steps=20", "env.announce_tasks=false"]) == 0
    rows = table(tmp_path / "run")
    assert rows["task/number"] == {6: 0, 12: 1, 18: 2}
    online = [
        sum(size * rows["online/accuracy"][6 * task + step + 1] for step, size in enumerate(SIZES)) / 24 for task in range(3)
    ]
    assert list(rows["task/online_accuracy"].values()) == pytest.approx(online, abs=1e-6)
    assert list(rows["task/mean_online_accuracy"].values()) == pytest.approx([online[0], sum(online[:2]) / 2, sum(online) / 3])
    assert rows["epoch/task"] == {3: 0, 6: 0, 9: 1, 12: 1, 15: 2, 18: 2}
    assert rows["epoch/passed"] == {3: 1, 6: 2, 9: 1, 12: 2, 15: 1, 18: 2}
    assert rows["task/best_test_accuracy"][12] == max(rows["epoch/test_accuracy"][step] for step in (9, 12))
    assert list(rows["relative/test_accuracy"]) == list(rows["fresh/test_accuracy"]) == [12]
    difference = rows["task/test_accuracy"][12] - rows["fresh/test_accuracy"][12]
    assert rows["relative/test_accuracy"][12] == pytest.approx(difference)
    gains = [rows["task/next_test_accuracy"][step] - rows["fresh/next_test_accuracy"][step] for step in (6, 12, 18)]
    assert rows["task/mean_forward_transfer"][18] == pytest.approx(sum(gains) / 3)

    curves = [line.split(",") for line in lines(tmp_path / "run" / "curves.csv")[1:]]
    tests = [(float(x), float(value)) for _, name, curve, x, value in curves if (name, curve) == ("task/accuracy", "test")]
    assert tests == list(enumerate(rows["task/test_accuracy"].values()))
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("task/accuracy")] == [6, 12, 18]  # 1 and 2 tasks, and the end


def test_a_stop_within_a_task_changes_none_of_them(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_agent.main([*WORDS, f"run_dir={whole}", "steps=20"]) == 0
    assert run_agent.main([*WORDS, f"run_dir={stopped}", "steps=10"]) == 0
    assert run_agent.main([f"resume={stopped}", "steps=20"]) == 0
    for name in ("metrics.csv", "curves.csv"):
        assert lines(stopped / name) == lines(whole / name)
