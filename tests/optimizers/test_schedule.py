"""Learning-rate schedules: hand-worked rates of each kind, rates of an optimizer, settings that are refused."""

from typing import Any

import pytest
import torch
from torch import nn

from plasticity.optimizers.factory import OptimizerSettings
from plasticity.optimizers.schedule import CONSTANT, Moment, Schedule, ScheduledRates


def multipliers(schedule: Schedule, steps: list[int]) -> list[float]:
    return [schedule.multiplier(Moment(step)) for step in steps]


def test_constant() -> None:
    assert multipliers(CONSTANT, [1, 1000]) == [1.0, 1.0]
    assert not CONSTANT.varies
    assert multipliers(Schedule(warmup_steps=4), [1, 2, 3, 4, 5]) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear() -> None:
    assert multipliers(Schedule("linear", 8), [0, 2, 4, 6, 8, 9]) == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    # Up over 2 steps, then from 1 down to 0.2 over the other 8.
    schedule = Schedule("linear", 10, warmup_steps=2, end=0.2)
    assert multipliers(schedule, [1, 2, 4, 6, 10, 99]) == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.2, 0.2])


def test_cosine() -> None:
    # (1 + cos(pi / 3)) / 2 = 3 / 4, (1 + cos(2 pi / 3)) / 2 = 1 / 4.
    assert multipliers(Schedule("cosine", 6), [0, 2, 3, 4, 6, 7]) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    schedule = Schedule("cosine", 8, warmup_steps=2, end=0.1)
    assert multipliers(schedule, [1, 2, 4, 5, 8]) == pytest.approx([0.5, 1.0, 0.775, 0.55, 0.1])


def test_steps() -> None:
    schedule = Schedule("steps", 10, milestones=(0.3, 0.6), factor=0.5)
    assert multipliers(schedule, [1, 3, 4, 6, 7, 10, 11]) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert multipliers(schedule._replace(warmup_steps=4), [1, 3, 4, 7]) == [0.25, 0.75, 0.5, 0.25]


def test_a_schedule_of_each_task_reads_the_place_in_the_task_alone() -> None:
    schedule = Schedule("linear", per_task=True)
    assert [schedule.multiplier(Moment(7777, step, 4)) for step in (1, 2, 4, 1)] == [0.75, 0.5, 0.0, 0.75]
    with pytest.raises(ValueError, match=r"optimizer\.schedule_per_task=true follows tasks of examples"):
        schedule.multiplier(Moment(5))


def test_every_group_is_scaled_and_a_tensor_stays_the_same_tensor() -> None:
    one, two = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([{"params": [one], "lr": rate}, {"params": [two], "lr": 0.25}], foreach=False, capturable=True)
    group = optimizer.param_groups[0]
    held = group["lr"]
    rates = ScheduledRates(optimizer, Schedule("linear", 4))
    for step in (1, 2):
        rates.apply(Moment(step))
    assert group["lr"] is held
    assert (float(held), optimizer.param_groups[1]["lr"]) == (0.25, 0.125)
    with pytest.raises(RuntimeError, match="learn_from"):
        rates.apply(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, r"optimizer\.schedule=cosin is unknown \(did you mean cosine\?\)"),
        ({"schedule_steps": 0}, r"optimizer\.schedule_steps=0 must be at least 1"),
        ({"schedule_warmup_steps": -1}, r"optimizer\.schedule_warmup_steps=-1 must be at least 0"),
        ({"schedule_end": -0.5}, r"optimizer\.schedule_end=-0\.5 must be at least 0"),
        ({"schedule_factor": -1.0}, r"optimizer\.schedule_factor=-1\.0 must be at least 0"),
        ({"schedule": "steps"}, r"optimizer\.schedule_milestones=\[\] with optimizer\.schedule=steps"),
        ({"schedule_milestones": [0.5]}, r"optimizer\.schedule_milestones=\[0\.5\] with optimizer\.schedule=constant"),
        ({"schedule": "steps", "schedule_milestones": [0.6, 0.3]}, r"schedule_milestones=\[0\.6, 0\.3\] must rise"),
        ({"schedule": "steps", "schedule_milestones": [1.5]}, r"schedule_milestones=1\.5 must be between 0 and 1"),
        (
            {"schedule": "linear", "schedule_steps": 5, "schedule_warmup_steps": 5},
            r"schedule_warmup_steps=5 must be less than optimizer\.schedule_steps=5",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**settings)


def test_a_length_that_is_left_open_is_refused_where_a_part_is_built() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.schedule=linear needs optimizer\.schedule_steps"):
        _ = OptimizerSettings(schedule="linear").rate_schedule
