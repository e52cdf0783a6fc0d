import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from plasticity.training.reports.analysis.relations import spearman_between, within_correlations
from plasticity.training.reports.analysis.statistics import (
    best_methods,
    bootstrap_iqm,
    detectable_difference,
    difference,
    holm,
    iqm,
    paired_difference,
    probability_of_improvement,
    smallest_p,
    summary,
    t_interval,
    welch_difference,
)

A, B = pd.Series([0.80, 0.82, 0.84]), pd.Series([0.83, 0.84, 0.88])


def bounds(interval):
    return pytest.approx((interval.value, interval.low, interval.high), abs=5e-5)


def test_intervals_of_three_runs_by_hand() -> None:
    """t(2) = 4.303: .820 +- 4.303 * .02 / sqrt 3; differences .03 .02 .04 have sd .01."""
    assert bounds(t_interval(A)) == (0.82, 0.7703, 0.8697)
    paired = paired_difference(B, A)
    assert bounds(paired.interval) == (0.03, 0.0052, 0.0548)
    assert paired.correlation == pytest.approx(0.9449, abs=1e-4)
    assert bounds(welch_difference(B, A).interval) == (0.03, -0.0248, 0.0848)
    better = probability_of_improvement({"e": B}, {"e": A})
    assert better.value == pytest.approx(7.5 / 9)
    assert not better.known


def test_intervals_equal_those_of_scipy() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 7))
    pairs, welch = stats.ttest_rel(x, y), stats.ttest_ind(x, y[:5], equal_var=False)
    ours, theirs = paired_difference(x, y).interval, pairs.confidence_interval()
    assert (ours.low, ours.high, ours.p) == pytest.approx((theirs.low, theirs.high, pairs.pvalue))
    ours, theirs = welch_difference(x, y[:5]).interval, welch.confidence_interval()
    assert (ours.low, ours.high, ours.p) == pytest.approx((theirs.low, theirs.high, welch.pvalue))
    better = probability_of_improvement({"e": x}, {"e": y}).value
    assert better == pytest.approx(stats.mannwhitneyu(x, y).statistic / 49)


def test_two_runs_have_no_interval() -> None:
    for interval in (
        t_interval([1, 2]),
        paired_difference([1, 2], [0, 0]).interval,
        welch_difference([1, 2], [0, 0, 1]).interval,
    ):
        assert math.isfinite(interval.value)
        assert not interval.known
        assert "no interval" in interval.formula
    assert math.isnan(t_interval([]).value)


@pytest.mark.parametrize(
    ("values", "expected"), [([0.80, 0.82, 0.84], 0.82), ([1, 2, 3, 10], 2.5), ([0, 1, 2, 3, 10], 2.0), (range(8), 3.5)]
)
def test_interquartile_mean_by_hand(values, expected) -> None:
    assert iqm(list(values)) == pytest.approx(expected)


def test_ten_runs_change_the_formula() -> None:
    x = np.arange(10.0)
    assert "Student" in summary(x[:9]).formula
    assert "bootstrap" in summary(x).formula
    assert "90 %" in summary(x).formula
    assert "90 %" not in summary(np.arange(11.0)).formula
    assert summary(x, name="a") == summary(x, name="a")
    assert summary(x, name="a") != summary(x, name="b")


def test_bootstrap_draws_within_environments() -> None:
    """Two environments that are each constant leave nothing to draw."""
    x, places = [0.0] * 6 + [1.0] * 6, ["a"] * 6 + ["b"] * 6
    one = bootstrap_iqm(x, places)
    assert (one.low, one.value, one.high) == (0.5, 0.5, 0.5)
    assert bootstrap_iqm(x).low < 0.5


def test_coverage_of_intervals() -> None:
    """Student's t covers 95 % at 3 and 5 runs; the bootstrap of the IQM about 90 % at 10, as the page says."""
    generator = np.random.default_rng(1)
    for n, expected in ((3, 0.95), (5, 0.95)):
        covered = [found.low <= 0 <= found.high for found in map(t_interval, generator.normal(size=(400, n)))]
        assert np.mean(covered) == pytest.approx(expected, abs=0.03)
    covered = [found.low <= 0 <= found.high for found in map(bootstrap_iqm, generator.normal(size=(300, 10)))]
    assert 0.85 < np.mean(covered) < 0.95


def test_detectable_differences() -> None:
    found = [detectable_difference(1.0, n) for n in (3, 5, 8, 10, 20)]
    assert found == pytest.approx([3.26, 1.68, 1.16, 1.00, 0.66], abs=5e-3)
    assert detectable_difference(0.5, 5) == pytest.approx(found[1] / 2)
    assert math.isnan(detectable_difference(1.0, 1))


def test_smallest_p_of_rank_tests() -> None:
    assert smallest_p(3, 3) == pytest.approx(0.10)
    assert smallest_p(5) == pytest.approx(0.0625)


def test_pairs_where_one_sides_seeds_are_among_the_others() -> None:
    longer = pd.Series([0.80, 0.82, 0.84, 0.70], [0, 1, 2, 3])
    assert difference(B, longer).interval.value == pytest.approx(0.03)
    assert difference(B, longer).paired
    assert not difference(B, longer, same_structure=False).paired
    assert not difference(B, pd.Series(A.to_numpy(), [1, 2, 3])).paired


def test_holm_by_hand() -> None:
    """p .01 .02 .04 of three: .03, .04, .04; intervals of levels 1 - .05/3, 1 - .05/2, .95."""
    x = {
        name: paired_difference(value + np.array([-1.0, 0, 1]), np.zeros(3))
        for name, value in zip("abc", (5.7, 4.0, 2.8), strict=True)
    }
    p = {name: each.interval.p for name, each in x.items()}
    assert p["a"] < 0.05 / 3 < p["b"] < 0.05 / 2 < 0.05 > p["c"]
    found = holm({name: x[name] for name in "cab"})
    assert [found[name].p for name in "abc"] == pytest.approx([3 * p["a"], 2 * p["b"], max(2 * p["b"], p["c"])])
    assert [found[name].shown.level for name in "abc"] == pytest.approx([1 - 0.05 / 3, 0.975, 0.95])
    assert not any(each.shown.contains_zero for each in found.values())
    assert list(found) == ["c", "a", "b"]


def test_an_adjusted_interval_without_zero_is_a_rejection_by_holm() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        found = holm({str(k): paired_difference(generator.normal(0.8, 1, 4), np.zeros(4)) for k in range(5)})
        for each in found.values():
            assert each.shown.contains_zero == (each.p > 0.05)


def test_holm_leaves_out_what_has_no_interval() -> None:
    found = holm({"a": paired_difference([1, 2, 3.5], [0, 0, 0]), "b": paired_difference([1, 2], [0, 0])})
    assert found["a"].p == found["a"].interval.p
    assert found["b"].adjusted is None


def test_bold_is_what_nothing_is_shown_to_be_better_than() -> None:
    complete = {"a": True, "b": True, "c": True}
    assert best_methods({"a": A, "b": B}, complete) == ["b"]
    assert best_methods({"a": A, "b": B}, complete, sign=-1) == ["a"]
    assert best_methods({"a": A, "b": B, "c": B - 1}, complete) == ["b"]
    assert best_methods({"a": A, "b": B, "c": B - A + 0.82}, complete) == ["a", "b", "c"]  # p = .035 is not below .05 / 2
    assert best_methods({"a": A, "b": B[:2]}, {"a": True, "b": False}) == []  # the best has no interval
    assert best_methods({"a": A, "b": A[:2] - 1}, {"a": True, "b": False}) == ["a"]
    assert best_methods({"a": A, "b": A + pd.Series([0.03, -0.02, 0.01])}, {"a": True, "b": False}) == ["a"]
    assert best_methods({"a": A, "b": B}, {"a": False, "b": False}) == []
    assert best_methods({"a": A[:2], "b": B[:2]}, complete) == []
    assert best_methods({"a": A[:0]}, complete) == []


def test_what_goes_with_it_within_and_between_methods() -> None:
    """Within each method the metric falls with the outcome, between methods it rises: pooled they would mix."""
    groups = pd.Series(list("aaaabbbbcccc"))
    outcome = pd.Series([1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23, 24.0])
    metric = pd.Series([4, 3, 2, 1, 14, 13, 12, 11, 24, 23, 22, 21.0])
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"it": metric, "flat": 1.0, **{str(k): rng.normal(size=12) for k in range(20)}})
    rho, p = within_correlations(table, outcome, groups)
    assert rho["it"].value == pytest.approx(-1)
    assert spearman_between(metric, outcome, groups).value == pytest.approx(1)
    assert p["it"] < 0.01
    assert math.isnan(p["flat"])
    assert math.isnan(spearman_between(metric[:8], outcome[:8], groups[:8]).value)


def test_family_wise_p_is_as_rare_as_it_says() -> None:
    """With no relation at all the smallest of 20 p is below .1 in about a tenth of the cases; each alone would be in 88 %."""
    rng, groups = np.random.default_rng(5), pd.Series(np.repeat(list("ab"), 6))
    least = []
    for k in range(40):
        table = pd.DataFrame(rng.normal(size=(12, 20))).rename(columns=str)
        least.append(min(within_correlations(table, pd.Series(rng.normal(size=12)), groups, str(k))[1].values()))
    assert np.mean(np.array(least) < 0.1) < 0.26
