"""The order in which a step's parts happen, on a tape."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.agent import Agent
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.view import View
from plasticity.training.loop import train
from plasticity.training.observation import Abandoned
from plasticity.training.step import Step


class Recorder:
    """A stream of two minibatches a task, an agent, observers, a tracker and a saver, all writing on one tape."""

    def __init__(self, last_step: int = 100) -> None:
        self.tape: list[str] = []
        self.parts: dict[str, Any] = {}
        self.step, self.task, self.last_step = 0, 0, last_step
        self.stopped_in: list[int] = []
        self.saved: dict[str, Any] = {}
        self.written: list[tuple[int, dict[str, Any], dict[str, Any]]] = []

    def advance(self, act: Callable[[Tensor], Tensor]) -> Experience:
        self.step += 1
        self.task = (self.step - 1) // 2
        self.tape.append(f"advance {self.step}")
        stats = {"stream/task": float(self.task)}
        return Experience(Examples(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)), self.task, stats)

    def act(self, observations: Tensor) -> Tensor:
        return observations

    def learn(self, experience: Experience) -> dict[str, float]:
        self.tape.append("learn")
        return {"train/loss": 1.0}

    def switch_task(self, task: int) -> dict[str, float]:
        self.tape.append(f"switch to {task}")
        return {"reset/units_reset": 2.0}

    def begin_task(self, step: int) -> list[str]:
        return []

    def after_first_update(self) -> list[str]:
        return []

    def select(self, before: int, after: int, switched: bool) -> list[str]:
        return ["metrics"] if switched or after == 2 else []

    def before_learning(self, names: list[str]) -> list[str]:
        return [name for name in names if name != "late"]

    def measure(self, names: list[str], view: View) -> dict[str, float]:
        if names:
            self.tape.append(f"measure task {view.task}")
            if view.task in self.stopped_in:
                self.stopped_in.remove(view.task)
                raise Abandoned
        return dict.fromkeys(names, 0.5)

    def write_measured(self, step: int, measurements: dict[str, Any]) -> None:
        self.tape.append(f"write the start at {step}")
        self.written.append((step, {}, measurements))

    def write(self, step: int, logs: dict[str, Any], measurements: dict[str, Any]) -> None:
        self.tape.append("write")
        self.written.append((step, logs, measurements))

    def before_step(self) -> None:
        pass

    def after_step(self, step: Step) -> bool:
        self.tape.append(f"save {step.before}-{step.after}")
        return step.after >= self.last_step

    def save(self, unfinished: Step | None = None) -> None:
        assert unfinished is not None
        self.tape.append(f"save the unfinished step {unfinished.after}")
        self.saved = unfinished.state_dict()


def run(recorder: Recorder, total: int) -> Recorder:
    part: Any = recorder
    agent: Agent = part
    train(agent, part, part, part, part, total)
    return recorder


def test_a_step_learns_measures_writes_and_saves() -> None:
    assert run(Recorder(), 2).tape == [
        "advance 1",
        "learn",
        "write",
        "save 0-1",
        "advance 2",
        "learn",
        "measure task 0",
        "write",
        "save 1-2",
    ]


def test_the_end_of_a_task_is_measured_before_anything_is_reset() -> None:
    tape = run(Recorder(), 3).tape
    assert tape[tape.index("advance 3") :] == ["advance 3", "measure task 0", "switch to 1", "learn", "write", "save 2-3"]


def test_what_looks_at_the_end_of_a_step_is_measured_after_learning_at_a_switch_too() -> None:
    recorder = Recorder()
    recorder.select = lambda before, after, switched: ["metrics", "late"] if switched else []  # type: ignore[method-assign]
    tape = run(recorder, 3).tape
    assert tape[tape.index("advance 3") :][:5] == ["advance 3", "measure task 0", "switch to 1", "learn", "measure task 1"]
    assert recorder.written[-1][2] == {"metrics": 0.5, "late": 0.5}


def test_logs_of_stream_switch_and_update_are_written_together_and_measurements_apart() -> None:
    step, logs, measurements = run(Recorder(), 3).written[-1]
    assert step == 3
    assert logs == {"stream/task": 1.0, "train/loss": 1.0, "reset/units_reset": 2.0}
    assert measurements == {"metrics": 0.5}


def test_the_start_of_a_task_is_measured_after_the_switch_and_before_anything_of_it_is_learned() -> None:
    """Two minibatches a task: the rows of the starts are those of the steps 0 and 2."""
    recorder, told = Recorder(), []

    def begin_task(step: int) -> list[str]:
        told.append(step)
        return ["first"]

    recorder.begin_task = begin_task  # type: ignore[method-assign]
    tape = run(recorder, 4).tape
    assert told == [0, 2]
    assert tape[:5] == ["advance 1", "measure task 0", "learn", "write the start at 0", "write"]
    assert tape[tape.index("advance 3") :][:7] == [
        "advance 3",
        "measure task 0",
        "switch to 1",
        "measure task 1",
        "learn",
        "write the start at 2",
        "write",
    ]
    assert [(step, values) for step, _, values in recorder.written if "first" in values] == [
        (0, {"first": 0.5}),
        (2, {"first": 0.5}),
    ]


def test_a_start_whose_measurement_is_abandoned_is_measured_by_the_next_process_after_the_same_switch() -> None:
    whole, stopped = Recorder(), Recorder()
    for recorder in (whole, stopped):
        recorder.begin_task = lambda step: ["first"]  # type: ignore[method-assign]
    run(whole, 4)
    stopped.stopped_in = [1]
    run(stopped, 4)
    assert stopped.tape[-1] == "save the unfinished step 3"
    part: Any = stopped
    step = Step.restored(stopped.saved, {"metrics": part, "first": part}, torch.device("cpu"))
    assert train(part, part, part, part, part, 4, step)
    assert stopped.written == whole.written
    for once in ("switch to 1", "write the start at 2"):
        assert stopped.tape.count(once) == 1


@pytest.mark.parametrize(("total", "stop_at", "end"), [(4, 100, 4), (4, 3, 3), (0, 100, 0)])
def test_it_ends_at_the_last_step_or_when_the_saver_says_so(total: int, stop_at: int, end: int) -> None:
    assert run(Recorder(stop_at), total).step == end


@pytest.mark.parametrize("task", [0, 1])
def test_an_abandoned_step_is_completed_by_the_next_process(task: int) -> None:
    """In task 0 the observer before learning is stopped, in task 1 the one after it; the rest of the step happens once."""

    def select(before: int, after: int, switched: bool) -> list[str]:
        return ["metrics", "late"] if switched else []

    whole, stopped = Recorder(), Recorder()
    whole.select, stopped.select = select, select  # type: ignore[method-assign]
    run(whole, 4)
    stopped.stopped_in = [task]
    run(stopped, 4)
    assert stopped.tape[-1] == "save the unfinished step 3"
    assert stopped.step == 3
    part: Any = stopped
    step = Step.restored(stopped.saved, {"metrics": part, "late": part}, torch.device("cpu"))
    assert train(part, part, part, part, part, 4, step)
    assert stopped.written == whole.written
    once = [line for line in stopped.tape if not line.startswith(("measure", "save the"))]
    assert once == [line for line in whole.tape if not line.startswith("measure")]
