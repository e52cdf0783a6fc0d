import math

import pytest

from plasticity.metrics.undefined import Undefined
from plasticity.training.task_history import TaskHistory


def of(*rows: dict[str, float]) -> TaskHistory:
    history = TaskHistory()
    for task, row in enumerate(rows):
        history.add(3 * task, row)
    return history


def test_means_leave_out_what_could_not_be_computed() -> None:
    history = of({"a": 0.25}, {"a": math.nan, "b": 1.0}, {"a": 0.75})
    assert history.mean("a") == 0.5
    assert history.mean("b") == 1.0
    assert isinstance(history.mean("c"), Undefined)
    assert isinstance(of({"a": math.nan}).mean("a"), Undefined)


def test_curves_are_the_values_of_one_kind_against_the_task() -> None:
    curves = of({"test_accuracy": 0.5, "test_loss": 2.0}, {"test_accuracy": 0.75, "online_accuracy": 0.25}).curves("accuracy")
    assert (curves.x.tolist(), curves.x_label, curves.y_label, curves.grows) == ([0, 3], "task", "accuracy", True)
    assert curves.ys["test"].tolist() == [0.5, 0.75]
    assert str(curves.ys["online"].tolist()) == "[nan, 0.25]"
    assert list(curves.ys) == ["test", "online"]


def test_the_best_is_that_of_one_task() -> None:
    history = TaskHistory()
    assert history.best(0) is None
    for value in (0.5, 0.75, 0.6):
        history.keep_if_best(0, value)
    assert (history.best(0), history.best(1)) == (0.75, None)
    history.keep_if_best(1, 0.25)
    assert (history.best(0), history.best(1)) == (None, 0.25)


def test_it_comes_back_from_its_state() -> None:
    history, other = of({"a": 0.1}, {"a": 0.7, "b": math.nan}), TaskHistory()
    history.keep_if_best(2, 0.3)
    other.load_state_dict(history.state_dict())
    for each in (history, other):
        each.add(6, {"a": 0.4})
    assert str(other.state_dict()) == str(history.state_dict())
    assert other.mean("a") == history.mean("a") == pytest.approx(0.4)
    other.load_state_dict(TaskHistory().state_dict())
    assert len(other.curves("a").x) == 0
