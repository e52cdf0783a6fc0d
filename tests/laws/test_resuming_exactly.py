"""Law 2: a run that was killed and resumed equals the run that was not."""

from typing import Any

import pytest

from plasticity.training.saving.checkpoint import latest_checkpoint, load_checkpoint


def test_killed_and_resumed_equals_uninterrupted(kind: str, methods: list[str], finished: Any, resumed: Any, same: Any) -> None:
    """The run that is saved equals one that is not by the test of law 8, which compares the two."""
    whole = finished(kind, *methods)
    again = resumed(whole, kind, methods)
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_run_saved_right_before_a_task_switch_goes_on_exactly(
    order: int, compatible_in: Any, start: Any, finished: Any, same: Any
) -> None:
    together, saving = compatible_in(order), {"checkpoint": {"every_steps": 10}}
    whole = finished("supervised", *together)
    folder = start("supervised", together, saving).go(22).folder
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert load_checkpoint(saved)["step"] == 20
    again = start("supervised", together, saving, resume=folder).go(24)
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()


@pytest.mark.parametrize("kind", ["dqn", "supervised"])
@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "rmsprop"}])
def test_other_optimizers_resume_as_well(kind: str, optimizer: dict[str, Any], saved_once: Any, resumed: Any, same: Any) -> None:
    methods = ["continual_backprop", "redo", "reset", "shrink_and_perturb", "l2_init"]
    changes = {"optimizer": {"learning_rate": 0.01} | optimizer}
    whole = saved_once(kind, methods, changes)
    again = resumed(whole, kind, methods, changes)
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()


def test_everything_that_can_be_measured_is_measured_alike_after_a_resume(
    kind: str, saved_once: Any, resumed: Any, same: Any
) -> None:
    changes = {"metrics": {"every_steps": 5, "names": ["all"]}}
    whole = saved_once(kind, [], changes)
    again = resumed(whole, kind, [], changes)
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()
    tables = [(run.folder / "heatmap.csv").read_text() for run in (whole, again)]
    assert tables[0] == tables[1]
    written = {name for _, name, _ in whole.rows()}
    assert {"plasticity/sharpness", "plasticity/feature_drift", "plasticity/gradient_cosine"} <= written


SCHEDULES: dict[str, dict[str, Any]] = {
    "dqn": {"schedule": "cosine", "schedule_steps": 50, "schedule_warmup_steps": 20},
    "sac": {"schedule": "linear", "schedule_steps": 70, "parts": {"actor": {"schedule": "cosine"}}},
    "supervised": {
        "schedule": "steps",
        "schedule_per_task": True,
        "schedule_milestones": [0.25, 0.5],
        "schedule_warmup_steps": 2,
    },
}


@pytest.mark.parametrize("kind", list(SCHEDULES))
def test_learning_rates_go_on_where_they_were(kind: str, saved_once: Any, resumed: Any, same: Any) -> None:
    changes = {"optimizer": SCHEDULES[kind]}
    whole = saved_once(kind, [], changes)
    again = resumed(whole, kind, [], changes)
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()
    rates = {name: part.optimizer.param_groups[0]["lr"] for name, part in whole.agent.parts.items()}
    if kind == "supervised":  # the fourth of ten minibatches of the third task
        assert rates["learner"] == pytest.approx(0.01 * 0.2)
    if kind == "dqn":  # 64 steps, of which 50 have a schedule
        assert rates["q"] == pytest.approx(0.0, abs=1e-12)
    if kind == "sac":  # 62 to 64 of 70
        assert 0 < rates["actor"] < rates["critic"] < 0.01 * 8.1 / 70
