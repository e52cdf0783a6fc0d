import pytest

from plasticity.envs.drift import between, check_drift, share_of_new


def test_the_share_of_the_new_task_grows_linearly_from_0_to_1() -> None:
    assert [share_of_new(step, 4) for step in (-1, 0, 1, 2, 3, 4, 5)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert share_of_new(0, 0) == 1.0


def test_factors_move_at_a_constant_ratio_and_reach_their_ends_exactly() -> None:
    # from 0.02 to 2 is two powers of ten: half of the way is one, a quarter half of one
    assert between(0.02, 2.0, 0.5) == pytest.approx(0.2)
    assert between(0.02, 2.0, 0.25) == pytest.approx(0.02 * 10**0.5)
    assert between(2.0, 0.02, 0.5) == pytest.approx(0.2)
    assert (between(0.3, 0.7, 0.0), between(0.3, 0.7, 1.0)) == (0.3, 0.7)
    # no ratio leads from or to 0
    assert (between(0.0, 2.0, 0.25), between(2.0, 0.0, 0.25)) == (0.5, 1.5)


def test_a_drift_longer_than_a_task_is_refused() -> None:
    check_drift(25, 25, "change_every_steps")
    for wrong in (26, -1):
        with pytest.raises(ValueError, match=rf"drift_steps={wrong} must lie in 0\.\.25, the change_every_steps"):
            check_drift(wrong, 25, "change_every_steps")
