"""Law 2: a run that was killed and resumed equals the run that was not."""

from typing import Any

import pytest

from training.checkpoint import latest_checkpoint, load_checkpoint

# Steps between checkpoints and the step of the kill, in the middle of an episode, and of an epoch: tasks end at steps 15 and 30,
# epochs every 5, so that a task begins after the resume too.
KILLS = {"dqn": (22, 60), "supervised": (9, 24)}


def killed_and_resumed(start: Any, kind: str, methods: list[str], steps: int, every: int, killed: int) -> Any:
    """Returns a run that went on in freshly built objects from its last checkpoint before ``killed``."""
    saving = {"checkpoint": {"every_steps": every}}
    folder = start(kind, methods, saving).go(killed).folder
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert load_checkpoint(saved)["step"] < killed
    return start(kind, methods, saving, resume=folder).go(steps)


def test_killed_and_resumed_equals_uninterrupted(
    kind: str, methods: list[str], steps: int, start: Any, finished: Any, same: Any
) -> None:
    whole = finished(kind, *methods)
    resumed = killed_and_resumed(start, kind, methods, steps, *KILLS[kind])
    assert same(resumed.state(), whole.state())
    assert resumed.rows() == whole.rows()


def test_a_run_saved_right_before_a_task_switch_goes_on_exactly(
    together: list[str], start: Any, finished: Any, same: Any
) -> None:
    whole = finished("supervised", *together)
    resumed = killed_and_resumed(start, "supervised", together, 34, every=15, killed=32)
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
