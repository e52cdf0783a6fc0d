import pytest

from plasticity.agents.schedules import linear


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (1, 0.91), (5, 0.55), (9, 0.19), (10, 0.1), (11, 0.1), (10**9, 0.1)])
def test_linear_by_hand(step: int, expected: float) -> None:
    # From 1 to 0.1 over 10 steps: 0.09 less at each.
    assert linear(step, 1.0, 0.1, 10) == pytest.approx(expected)


def test_linear_ends_exactly() -> None:
    assert linear(3, 0.7, 0.1, 3) == 0.1


def test_linear_rises_too() -> None:
    assert linear(1, 0.0, 1.0, 4) == 0.25


def test_linear_over_nothing_is_the_end() -> None:
    assert linear(0, 1.0, 0.2, 0) == 0.2
