"""How well a metric of the network at a branch predicts which remedy helps: rank correlations with gains, and regret.

Shape suffixes: X metrics, P parents, M moments, R remedies besides the unchanged network, K repeats of a measurement.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

PERMUTATIONS: Final = 1000
Array = NDArray[np.float64]


def rank_correlations(metrics_XPM: Array, gains_PMR: Array) -> Array:
    """Returns Spearman's rho over parents within a moment, averaged over moments, of each metric and remedy; shape X R.

    Moments in which one side is constant do not enter; NaN where all are such.

    Args:
        metrics_XPM: At the branch, finite.
        gains_PMR: Remedy minus unchanged, finite.
    """
    return _averaged(_unit_ranks(metrics_XPM, 1), _unit_ranks(gains_PMR, 0))


def largest_under_permutation(metrics_XPM: Array, gains_PMR: Array, generator: np.random.Generator) -> Array:
    """Returns the largest |rho| of all metrics and remedies for each of 1,000 permutations of the parents' gains.

    A parent's gains of all moments and remedies move together, so that their dependence is kept.

    Args:
        metrics_XPM: At the branch, finite.
        gains_PMR: Remedy minus unchanged, finite.
        generator: Draws the permutations.
    """
    metrics, gains = _unit_ranks(metrics_XPM, 1), _unit_ranks(gains_PMR, 0)
    found = np.zeros(PERMUTATIONS)
    for number in range(PERMUTATIONS):
        rho = _averaged(metrics, gains[generator.permutation(len(gains))])
        known = np.abs(rho[np.isfinite(rho)])
        found[number] = known.max() if len(known) else 0.0
    return found


def family_wise_p(rho: float, largest: Array) -> float:
    """Returns the share of permutations, the observed order included, whose largest |rho| is at least that of ``rho``."""
    if not math.isfinite(rho):
        return math.nan
    return float((1 + np.sum(largest >= abs(rho) - 1e-12)) / (1 + len(largest)))


def chosen_by_metric(metric_PM: Array, gains_PMR: Array) -> NDArray[np.intp]:
    """Returns which remedy a metric chooses for each parent and moment from what the other parents show: 0 is unchanged, then R.

    Of each remedy a least-squares line of the gain on the metric is fitted within the moment to all parents but one; for the one
    left out the remedy with the largest predicted gain is chosen, and none if no prediction is above 0.

    Args:
        metric_PM: At the branch, finite.
        gains_PMR: Remedy minus unchanged, higher is better, finite.
    """
    chosen = np.zeros(metric_PM.shape, np.intp)
    for parent, moment in np.ndindex(*metric_PM.shape):
        others = np.arange(len(metric_PM)) != parent
        x, y = metric_PM[others, moment], gains_PMR[others, moment]
        spread = float(np.sum((x - x.mean()) ** 2))
        slopes = (x - x.mean()) @ y / spread if np.ptp(x) > 0 else np.zeros(y.shape[1])
        predicted = y.mean(axis=0) + slopes * (metric_PM[parent, moment] - x.mean())
        chosen[parent, moment] = np.argmax([0.0, *predicted])
    return chosen


def chosen_by_others(gains_PMR: Array) -> NDArray[np.intp]:
    """Returns for each parent and moment the remedy with the largest mean gain over the other parents: 0 is unchanged, then R."""
    return chosen_by_metric(np.zeros(gains_PMR.shape[:2]), gains_PMR)


def regrets(chosen_PM: NDArray[np.intp], gains_PMR: Array) -> Array:
    """Returns the outcome of the best remedy minus that of the chosen one, the mean over moments of each parent; shape P.

    Args:
        chosen_PM: 0 is the unchanged network, then the remedies.
        gains_PMR: Remedy minus unchanged, higher is better, finite.
    """
    with_none = np.concatenate([np.zeros((*gains_PMR.shape[:2], 1)), gains_PMR], axis=2)
    own = np.take_along_axis(with_none, chosen_PM[:, :, None], axis=2)[:, :, 0]
    found: Array = (with_none.max(axis=2) - own).mean(axis=1)
    return found


def reliability(values_NK: Array) -> float:
    """Returns ICC(1,1) of Shrout and Fleiss 1979: the share of the variance of one measurement that lies between networks.

    (B - W) / (B + (K - 1) W), where B is the mean square between networks and W that within them.

    Args:
        values_NK: Networks by repeats of the measurement, finite.

    Returns:
        At most 1; NaN for fewer than two networks or repeats, or if all values are equal.
    """
    networks, repeats = values_NK.shape
    if networks < 2 or repeats < 2 or np.ptp(values_NK) == 0:
        return math.nan
    means = values_NK.mean(axis=1)
    between = repeats * float(np.sum((means - means.mean()) ** 2)) / (networks - 1)
    within = float(np.sum((values_NK - means[:, None]) ** 2)) / (networks * (repeats - 1))
    return float((between - within) / (between + (repeats - 1) * within))


def _unit_ranks(x: Array, parents: int) -> Array:
    """Returns ranks over the axis of parents, centred and of length 1; 0 where they are constant."""
    ranks = stats.rankdata(x, axis=parents)
    centred = ranks - ranks.mean(axis=parents, keepdims=True)
    length = np.linalg.norm(centred, axis=parents, keepdims=True)
    found: Array = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return found


def _averaged(metrics_XPM: Array, gains_PMR: Array) -> Array:
    """Returns the mean over moments of the products over parents, of the moments in which both sides vary."""
    total = np.einsum("xpm,pmr->xr", metrics_XPM, gains_PMR)
    varies = np.any(metrics_XPM != 0, axis=1).astype(float) @ np.any(gains_PMR != 0, axis=0).astype(float)
    found: Array = np.divide(total, varies, out=np.full_like(total, np.nan), where=varies > 0)
    return np.round(found, 12)  # 0 up to rounding counts as 0
