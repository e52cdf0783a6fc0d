"""Times until recovery, by hand."""

import math

import numpy as np
import pytest

from plasticity.training.reports.analysis.recovery import first_bin
from plasticity.training.reports.analysis.survival import kaplan_meier, median_time

GAP = math.nan


def test_kaplan_and_meier_by_hand() -> None:
    # At 1 one of five falls: 4/5. At 2 one of the four that are left: 4/5 * 3/4 = 3/5; the one censored at 2 was still watched.
    # At 3 one of two: 3/10. The last is censored at 4.
    found = kaplan_meier([1, 2, 2, 3, 4], [True, True, False, True, False])
    assert [step.time for step in found] == [1, 2, 3]
    assert [step.share for step in found] == pytest.approx([0.8, 0.6, 0.3])
    assert median_time([1, 2, 2, 3, 4], [True, True, False, True, False]) == 3


def test_a_median_that_half_of_the_runs_reach_exactly_is_reached() -> None:
    assert median_time([10, 10, 100, 100], [True, True, False, False]) == 10
    assert median_time([10, 10, 100], [True, True, False]) == 10
    assert math.isnan(median_time([10, 100, 100], [True, False, False]))
    assert math.isnan(median_time([], []))


def test_without_censoring_it_is_the_share_that_is_left() -> None:
    times = np.random.default_rng(0).integers(1, 9, 40)
    for step in kaplan_meier(times, np.ones(40, bool)):
        assert step.share == pytest.approx(np.mean(times > step.time))


def test_times_and_events_must_belong_together() -> None:
    with pytest.raises(ValueError, match="3 times and 2 events do not belong together"):
        kaplan_meier([1, 2, 3], [True, False])


@pytest.mark.parametrize(
    ("remedy", "fresh", "bin"),
    [
        ([1, 1, 1, 1], [0, 0, 0, 0], 1),
        ([1, 1, 1, 1], [1, 1, 1, 1], 1),  # as good is good enough
        ([1, 0, 1, 1], [1, 1, 1, 1], 3),  # good at first and then not: it counts from where it stays
        ([0, 0, 0, 1], [1, 1, 1, 1], 4),
        ([1, 1, 1, 0], [1, 1, 1, 1], 0),
        ([0, GAP, 1, 1], [1, 1, 1, 1], 3),
        ([0, 1, 1, GAP], [1, 1, GAP, 1], 2),
        ([GAP, GAP], [1, 1], -1),
    ],
)
def test_the_first_bin_from_which_on_a_remedy_is_as_good(remedy: list[float], fresh: list[float], bin: int) -> None:
    assert first_bin(np.array(remedy, float), np.array(fresh, float)) == bin
