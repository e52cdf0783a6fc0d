"""Law 2: a run that was killed and resumed equals the run that was not."""

from typing import Any

import pytest

from training.checkpoint import latest_checkpoint, load_checkpoint

# Steps between checkpoints and the step of the kill. Supervised tasks end at steps 15 and 30, epochs every 5.
KILLS = {
    "dqn": [pytest.param(22, 60, id="mid-episode")],
    "supervised": [pytest.param(9, 24, id="mid-epoch"), pytest.param(15, 32, id="at the end of a task")],
}


@pytest.mark.parametrize(
    ("kind", "every", "killed"),
    [pytest.param(kind, *case.values, id=f"{kind} {case.id}") for kind, cases in KILLS.items() for case in cases],
)
def test_killed_and_resumed_equals_uninterrupted(
    kind: str, every: int, killed: int, methods: list[str], steps: int, start: Any, finished: Any, same: Any
) -> None:
    whole = finished(kind, *methods)
    saving = {"checkpoint": {"every_steps": every}}
    folder = start(kind, methods, saving).go(killed).folder
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert load_checkpoint(saved)["step"] < killed
    resumed = start(kind, methods, saving, resume=folder).go(steps)
    assert same(resumed.state(), whole.state())
    assert resumed.rows() == whole.rows()


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "rmsprop"}])
def test_other_optimizers_resume_as_well(kind: str, optimizer: dict[str, Any], steps: int, start: Any, same: Any) -> None:
    methods = ["continual_backprop", "redo", "reset", "shrink_and_perturb", "l2_init"]
    changes = {"optimizer": {"learning_rate": 0.01} | optimizer, "checkpoint": {"every_steps": steps // 3}}
    whole = start(kind, methods, changes).go(steps)
    folder = start(kind, methods, changes).go(steps // 2).folder
    resumed = start(kind, methods, changes, resume=folder).go(steps)
    assert same(resumed.state(), whole.state())
    assert resumed.rows() == whole.rows()
