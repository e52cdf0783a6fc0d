from itertools import pairwise
from random import Random

import pytest

from plasticity.interventions.surgery.quota import Quota


@pytest.mark.parametrize(("rate", "maturity"), [(0.3, 0), (0.07, 3), (0.01, 20), (1.0, 2)])
def test_against_ages_of_single_units(rate: float, maturity: int) -> None:
    sizes, random = [4, 9], Random(1)
    quota, carried = Quota(sizes, maturity), [0.0, 0.0]
    ages = [[0] * size for size in sizes]
    own = [0.0, 0.0]
    for step in range(1, 200):
        quota.count_mature(step)
        counts = quota.take(carried, [rate, rate / 2], step) or [0, 0]
        for index, layer in enumerate(ages):
            layer[:] = [age + 1 for age in layer]
            mature = [unit for unit, age in enumerate(layer) if age > maturity]
            own[index] += rate / (1 + index) * len(mature)
            count = int(own[index] + 1e-9)
            own[index] -= count
            assert counts[index] == count
            for unit in random.sample(mature, count):
                layer[unit] = 0
        assert carried == pytest.approx(own, abs=1e-6)


def test_two_kinds_share_the_mature_units() -> None:
    # Four mature units; the first kind takes two, so that half of two is due to the second.
    quota, first, second = Quota([4], 0), [0.0], [0.0]
    quota.count_mature(1)
    assert quota.take(first, [0.5], 1) == [2]
    assert quota.take(second, [0.5], 1) == [1]
    quota.count_mature(2)
    assert quota.take(first, [0.5], 2) == [2]


def test_fractions_make_units_despite_rounding() -> None:
    quota, carried = Quota([4], 0), [0.0]
    taken = [0]
    for step in range(1, 41):
        quota.count_mature(step)
        taken.append(taken[-1] + sum(quota.take(carried, [0.1], step)))
    assert [after - before for before, after in pairwise(taken[::5])] == [2] * 8


def test_going_on_from_a_saved_state() -> None:
    def run(quota: Quota, carried: list[float], steps: range) -> list[list[int]]:
        counts = []
        for step in steps:
            quota.count_mature(step)
            counts.append(quota.take(carried, [0.2, 0.05], step))
        return counts

    whole, half, fractions = Quota([5, 8], 3), Quota([5, 8], 3), [0.0, 0.0]
    expected = run(whole, [0.0, 0.0], range(1, 60))
    first = run(half, fractions, range(1, 30))
    resumed = Quota([5, 8], 3)
    resumed.load_state_dict(half.state_dict())
    assert first + run(resumed, list(fractions), range(30, 60)) == expected
    assert any(expected)
