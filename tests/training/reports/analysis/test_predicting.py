"""Predictors of gains against scipy, loops, and numbers by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from plasticity.training.reports.analysis.predicting import (
    PERMUTATIONS,
    chosen_by_metric,
    chosen_by_others,
    family_wise_p,
    largest_under_permutation,
    rank_correlations,
    regrets,
    reliability,
)


def example(metrics: int = 3, parents: int = 6, moments: int = 2, remedies: int = 2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    return generator.normal(size=(metrics, parents, moments)), generator.normal(size=(parents, moments, remedies)).round(1)


def spearman(metrics: np.ndarray, gains: np.ndarray, metric: int, remedy: int) -> float:
    each = [stats.spearmanr(metrics[metric, :, m], gains[:, m, remedy]).statistic for m in range(metrics.shape[2])]
    return float(np.mean(each))


def test_correlations_are_those_of_scipy_averaged_over_moments() -> None:
    metrics, gains = example()
    found = rank_correlations(metrics, gains)
    assert found.shape == (3, 2)
    for metric, remedy in np.ndindex(3, 2):
        assert found[metric, remedy] == pytest.approx(spearman(metrics, gains, metric, remedy))


def test_moments_in_which_a_metric_is_constant_do_not_enter() -> None:
    metrics, gains = example()
    metrics[0, :, 1] = 7.0
    metrics[1] = 7.0
    found = rank_correlations(metrics, gains)
    assert found[0, 1] == pytest.approx(stats.spearmanr(metrics[0, :, 0], gains[:, 0, 1]).statistic)
    assert np.isnan(found[1]).all()


def test_the_family_wise_p_is_that_of_a_loop_over_permutations() -> None:
    metrics, gains = example()
    generator, largest = np.random.default_rng(5), []
    for _ in range(PERMUTATIONS):
        moved = gains[generator.permutation(6)]
        largest.append(max(abs(spearman(metrics, moved, metric, remedy)) for metric in range(3) for remedy in range(2)))
    found = largest_under_permutation(metrics, gains, np.random.default_rng(5))
    assert found == pytest.approx(np.array(largest))
    rho = rank_correlations(metrics, gains)[0, 0]
    assert family_wise_p(rho, found) == (1 + sum(each >= abs(rho) - 1e-12 for each in largest)) / 1001
    assert math.isnan(family_wise_p(math.nan, found))


def test_what_the_other_parents_show_is_chosen() -> None:
    # One remedy, one moment; gains 1 2 3 -10 at metric 0 1 2 3. Without the last the line is 1 + x: it predicts 4 and chooses the
    # remedy, which costs 10. Without the first it falls by 6 from -5/3 at 2: at 0 it is 31/3, above 0.
    metric, gains = np.arange(4.0)[:, None], np.array([1.0, 2.0, 3.0, -10.0])[:, None, None]
    chosen = chosen_by_metric(metric, gains)
    assert chosen.ravel().tolist()[0] == 1
    assert chosen.ravel().tolist()[3] == 1
    assert regrets(chosen, gains)[3] == 10
    # The others' means are -5/3, -2, -7/3 and 2: the rule without a metric changes nothing but in the last parent.
    assert chosen_by_others(gains).ravel().tolist() == [0, 0, 0, 1]
    assert regrets(chosen_by_others(gains), gains).tolist() == [1, 2, 3, 10]


def test_regret_is_that_of_a_loop_with_lines_of_numpy() -> None:
    metrics, gains = example(parents=7, moments=3, remedies=4)
    lost = np.zeros((7, 3))
    for parent, moment in np.ndindex(7, 3):
        others = [each for each in range(7) if each != parent]
        predicted = [0.0]
        for remedy in range(4):
            line = np.polyfit(metrics[0, others, moment], gains[others, moment, remedy], 1)
            predicted.append(float(np.polyval(line, metrics[0, parent, moment])))
        outcomes = [0.0, *gains[parent, moment]]
        lost[parent, moment] = max(outcomes) - outcomes[int(np.argmax(predicted))]
    found = regrets(chosen_by_metric(metrics[0], gains), gains)
    assert found == pytest.approx(lost.mean(axis=1))
    assert (found >= 0).all()


def test_a_constant_metric_chooses_as_the_rule_without_one() -> None:
    _, gains = example(parents=5, remedies=3)
    assert (chosen_by_metric(np.full((5, 2), 3.0), gains) == chosen_by_others(gains)).all()


def test_reliability_of_shrout_and_fleiss() -> None:
    # Their table 2, four judges on six targets: ICC(1,1) = .17.
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert reliability(np.array(ratings, float)) == pytest.approx(0.17, abs=0.005)
    # Two networks, two repeats 1 3 and 5 7: B = 2 * (4 + 4) = 16, W = (1 + 1 + 1 + 1) / 2 = 2, so 14 / 18.
    assert reliability(np.array([[1.0, 3.0], [5.0, 7.0]])) == pytest.approx(14 / 18)
    assert reliability(np.array([[1.0, 1.0], [2.0, 2.0]])) == 1
    assert math.isnan(reliability(np.ones((3, 2))))
    assert math.isnan(reliability(np.array([[1.0], [2.0]])))
