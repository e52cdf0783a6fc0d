"""What is measured at the start of a task and in its first steps, and that a run is the same with it and without."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.metrics.view import activations_on
from plasticity.training.task_start import TaskStartObserver

NAMES = ["dormant_fraction", "effective_rank", "weight_norm", "feature_drift", "gradient_cosine"]
WATCHED = {"every_steps": 7, "inputs": 30, "names": NAMES}
# Tasks end at steps 10 and 20 of a data stream; environments are made to announce one every 20 steps.
STARTS: dict[str, dict[str, Any]] = {
    "supervised": {"at": ["task_start"], "after_switch": [1, 2, 4, 8]},
    "dqn": {"after_switch": [1, 2, 4, 8]},
    "ppo": {"after_switch": [1, 2, 4, 8]},
}
METHODS = {"reset": {"last_layers": 1, "at_task_switch": True}, "redo": {"threshold": 0.9, "every_updates": 3}}
FOUR_BATCHES = {"name": "task_stream", "examples_per_task": 64, "epochs_per_task": 1, "batch_size": 16}
ALONE = {"every_steps": 0, "at_task_switch": False, "inputs": 200, "names": ["dormant_fraction_tau_0.1", "weight_norm"]}


@pytest.fixture(autouse=True)
def tasks_of_twenty_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EnvironmentStream, "_announced_task", lambda stream, info: stream.step // 20)


def of_starts(run: Any) -> list[tuple[str, str, str]]:
    return [row for row in run.rows() if row[1].startswith("task_start/")]


def others(run: Any) -> list[tuple[str, str, str]]:
    return [row for row in run.rows() if not row[1].startswith("task_start/")]


def steps_of(run: Any, name: str = "task_start/weight_norm") -> list[int]:
    return [int(step) for step, found, _ in run.rows() if found == name]


def metrics_of(kind: str) -> dict[str, Any]:
    return {"metrics": WATCHED | STARTS[kind]}


def small(**changes: Any) -> dict[str, Any]:
    return {"env": FOUR_BATCHES, "metrics": ALONE | changes, "probe": {"every_steps": 0}}


def test_two_tasks_of_four_minibatches_have_rows_at_steps_0_and_4(start: Any) -> None:
    run = start("supervised", METHODS, small(at=["task_start"])).go(8)
    assert {int(step) for step, name, _ in run.rows() if name.startswith("task_start/")} == {0, 4}
    assert not any(name.startswith("plasticity/") for _, name, _ in run.rows())


@pytest.mark.parametrize("announced", [True, False])
def test_a_start_is_measured_on_the_tasks_own_examples_after_the_switch_and_before_the_first_update(
    announced: bool, start: Any
) -> None:
    """The same values come out by hand: four updates, a look ahead, the news of the switch, and the scores of the units."""
    changes = small(at=["task_start"]) | {"env": FOUR_BATCHES | {"announce_tasks": announced}}
    measured = start("supervised", METHODS, changes).go(5)
    values = {name: float(value) for step, name, value in measured.rows() if step == "4" and name.startswith("task_start/")}
    alone = start("supervised", METHODS, changes).go(4)
    (part,) = alone.agent.parts.values()
    inputs = alone.stream.peek(200).inputs
    assert len(inputs) == 64  # as many as the task has
    before = {name: value.clone() for name, value in part.network.named_parameters()}
    if announced:
        alone.agent.switch_task(1)
        assert any(not torch.equal(before[name], value) for name, value in part.network.named_parameters())
    posts = activations_on(part.network, inputs)
    for layer in part.network.units.layers:
        post = posts[layer.name].double().abs()
        size = post.flatten(2).mean((0, 2)) if post.ndim > 2 else post.mean(0)
        dormant = (size <= 0.1 * size.mean()).double().mean()
        assert values[f"task_start/dormant_fraction_tau_0.1/learner/{layer.name}"] == pytest.approx(float(dormant))
    weights = [value.detach() for value in part.network.parameters() if value.ndim > 1]
    norm = sum(float(weight.double().square().sum()) for weight in weights) ** 0.5
    assert values["task_start/weight_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_loss_of_a_start_is_that_of_the_tasks_own_examples(start: Any) -> None:
    run = start("supervised", [], small(at=["task_start"])).go(4)
    stream, observer = run.stream, run.observers["task_start"]
    assert isinstance(stream, TaskStream)
    assert isinstance(observer, TaskStartObserver)
    assert observer._own is not None
    coming = stream.peek(200)
    stream.advance()
    part = observer._own.agent().parts["learner"]
    batch: Any = part.examples.latest(50)
    assert torch.equal(batch.inputs, coming.inputs[:50])
    assert torch.equal(batch.targets, coming.targets[:50])
    assert part.examples.objective is run.agent.learner.examples.objective


def test_first_steps_are_counted_from_every_start(start: Any) -> None:
    """Tasks begin at steps 0, 10 and 20 of minibatches; of two environments steps go by two, and tasks begin at 20 and 40."""
    assert steps_of(start("supervised", [], metrics_of("supervised")).go(24)) == [
        0,
        1,
        2,
        4,
        8,
        10,
        11,
        12,
        14,
        18,
        20,
        21,
        22,
        24,
    ]
    environments = [2, 4, 8, 22, 24, 28, 42, 44, 48]  # the step that reaches or passes 1, 2, 4 and 8
    assert steps_of(start("dqn", [], metrics_of("dqn")).go(50)) == environments


@pytest.mark.parametrize("kind", list(STARTS))
def test_looking_at_starts_changes_nothing(kind: str, steps: int, start: Any, same: Any) -> None:
    """Neither the run nor any other row of its table."""
    watched, alone = (start(kind, METHODS, changes).go(steps) for changes in (metrics_of(kind), {"metrics": WATCHED}))
    assert of_starts(watched)
    assert not of_starts(alone)
    assert alone.stream.task == (2 if kind == "supervised" else 3)
    assert others(watched) == others(alone)
    states = [run.state() for run in (watched, alone)]
    for state in states:
        del state["tracker"]["latest"], state["tracker"]["noted"]
    assert same(*states)


@pytest.mark.parametrize("kind", list(STARTS))
def test_starts_are_looked_at_alike_after_a_resume(kind: str, saved_once: Any, resumed: Any, same: Any) -> None:
    whole = saved_once(kind, METHODS, metrics_of(kind))
    again = resumed(whole, kind, METHODS, metrics_of(kind))
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()


def test_a_run_saved_right_before_a_start_has_its_rows_once(start: Any, tmp_path: Path, same: Any) -> None:
    """Rows of the start at step 20 are written after the checkpoint of that step, and are there after a kill."""
    changes = metrics_of("supervised") | {"checkpoint": {"every_steps": 20}}
    whole = start("supervised", METHODS, changes).go(24)
    folder = Path(shutil.copytree(whole.folder, tmp_path / "killed"))
    again = start("supervised", METHODS, changes, resume=folder).go(24)
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()
    assert steps_of(again).count(20) == 1
    assert (folder / "heatmap.csv").read_text() == (whole.folder / "heatmap.csv").read_text()
