"""Statistics of comparisons: the unit is the seed, and every interval states its formula and the number of runs.

From ten runs on they are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice": the interquartile mean and percentile bootstraps. Below ten runs a percentile bootstrap that calls itself "95 %"
covers 67 % (three runs) to 90 % (ten): there the mean and Student's t interval are used instead. Fewer than three runs have
no interval.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

LEVEL: Final = 0.95
FEWEST: Final = 3  # runs that an interval needs
MANY: Final = 10  # runs from which the interquartile mean and its bootstrap are shown
FEWEST_FOR_PROBABILITY: Final = 5  # runs a side that an interval of the probability of improvement needs
RESAMPLES: Final = 2000
_TRIMMED: Final = 0.25


@dataclass(frozen=True)
class Interval:
    """A number and its uncertainty.

    Attributes:
        value: The estimate, NaN if there is none.
        low: Lower bound, NaN if there is no interval.
        high: Upper bound, NaN if there is no interval.
        n: Runs, or pairs of runs, that it is made from.
        formula: In words.
        level: Probability that the interval is meant to cover.
        error: Standard error of the estimate, NaN for a bootstrap.
        freedom: Degrees of freedom of Student's t, NaN for a bootstrap.
    """

    value: float
    low: float
    high: float
    n: int
    formula: str
    level: float = LEVEL
    error: float = math.nan
    freedom: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there are bounds."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def contains_zero(self) -> bool:
        """Whether 0 is between the bounds or one of them; False without bounds."""
        return self.known and self.low <= 0 <= self.high

    @property
    def p(self) -> float:
        """The two-sided p of Student's t that the value is 0; NaN without a standard error."""
        if not math.isfinite(self.error):
            return math.nan
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))

    def at(self, level: float) -> "Interval":
        """Returns the t interval of another level; itself if it is none."""
        if not math.isfinite(self.error):
            return self
        half = _half_width(self.error, self.freedom, level)
        return replace(self, low=self.value - half, high=self.value + half, level=level)


@dataclass(frozen=True)
class Difference:
    """One method minus another.

    Attributes:
        interval: Of the difference of the means.
        correlation: Of the pairs, NaN if there are none, or fewer than three.
        paired: Whether runs of equal seed were subtracted.
        adjusted: The same with the level that Holm's procedure gives it; None if it stands alone.
        p: Adjusted by Holm; NaN without an interval.
    """

    interval: Interval
    correlation: float
    paired: bool
    adjusted: Interval | None = None
    p: float = math.nan

    @property
    def shown(self) -> Interval:
        """The adjusted interval if there is one, else its own."""
        return self.adjusted or self.interval


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Returns the mean and Student's t interval, with n - 1 degrees of freedom; no bounds below three values."""
    x = _numbers(values)
    n = len(x)
    if n < FEWEST:
        return Interval(float(np.mean(x)) if n else math.nan, math.nan, math.nan, n, "mean; no interval below 3 runs", level)
    error = float(np.std(x, ddof=1)) / math.sqrt(n)
    return Interval(float(np.mean(x)), math.nan, math.nan, n, "mean, Student's t interval", level, error, n - 1).at(level)


def iqm(values: ArrayLike) -> float:
    """Returns the interquartile mean: the mean without a quarter of the values, rounded down, at each end."""
    x = _numbers(values)
    return float(stats.trim_mean(x, _TRIMMED)) if len(x) else math.nan


def bootstrap_iqm(values: ArrayLike, strata: Sequence[object] | None = None, name: str = "", level: float = LEVEL) -> Interval:
    """Returns the interquartile mean and its percentile bootstrap.

    Args:
        values: One number a run.
        strata: The environment of each, within which runs are drawn; None for one.
        name: Of the study; seeds the generator.
        level: Of the interval.
    """
    x = _numbers(values)
    if len(x) < FEWEST:
        return Interval(iqm(x), math.nan, math.nan, len(x), "interquartile mean; no interval below 3 runs", level)
    drawn = x[_resampled(len(x), strata, generator_of(name))]
    low, high = np.quantile(stats.trim_mean(drawn, _TRIMMED, axis=1), [(1 - level) / 2, (1 + level) / 2])
    remark = "" if len(x) > MANY else ", which covers about 90 % at n = 10" if len(x) == MANY else f", too narrow at n = {len(x)}"
    formula = f"interquartile mean, percentile bootstrap of {RESAMPLES} resamples{remark}"
    return Interval(iqm(x), float(low), float(high), len(x), formula, level)


def summary(values: ArrayLike, strata: Sequence[object] | None = None, name: str = "") -> Interval:
    """Returns mean and t interval of fewer than ten values, interquartile mean and bootstrap of more."""
    x = _numbers(values)
    return t_interval(x) if len(x) < MANY else bootstrap_iqm(x, strata, name)


def paired_difference(method: ArrayLike, baseline: ArrayLike, unit: str = "seed") -> Difference:
    """Returns the t interval of the differences of pairs.

    Args:
        method: One number a seed.
        baseline: The other method's, of the same seeds in the same order.
        unit: What pairs have in common, for the formula.

    Raises:
        ValueError: If they are not equally many.
    """
    x, y = _numbers(method), _numbers(baseline)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} values are not pairs")
    found = t_interval(x - y)
    return Difference(replace(found, formula=f"paired differences by {unit}: {found.formula}"), correlation(x, y), paired=True)


def welch_difference(method: ArrayLike, baseline: ArrayLike, level: float = LEVEL) -> Difference:
    """Returns the difference of the means with Welch's t interval, for runs that are not pairs; ``n`` is of the smaller side."""
    x, y = _numbers(method), _numbers(baseline)
    n = min(len(x), len(y))
    value = float(np.mean(x) - np.mean(y)) if n else math.nan
    if n < FEWEST:
        formula = "difference of means; no interval below 3 runs a side"
        return Difference(Interval(value, math.nan, math.nan, n, formula, level), math.nan, paired=False)
    a, b = float(np.var(x, ddof=1)) / len(x), float(np.var(y, ddof=1)) / len(y)
    divisor = a**2 / (len(x) - 1) + b**2 / (len(y) - 1)
    freedom = (a + b) ** 2 / divisor if divisor > 0 else float(len(x) + len(y) - 2)
    made = Interval(value, math.nan, math.nan, n, "difference of means, Welch's t interval", level, math.sqrt(a + b), freedom)
    return Difference(made.at(level), math.nan, paired=False)


def difference(method: pd.Series, baseline: pd.Series, *, same_structure: bool = True) -> Difference:
    """Returns the paired difference if one side's seeds are all among the other's, else Welch's.

    Args:
        method: One number a run, by seed.
        baseline: The other method's.
        same_structure: Whether the networks have the same parameters, so that equal seeds give them equal initial weights.
    """
    shared = method.index.intersection(baseline.index)
    if same_structure and len(shared) and len(shared) == min(len(method), len(baseline)):
        return paired_difference(method[shared], baseline[shared])
    return welch_difference(method, baseline)


def probability_of_improvement(
    method: Mapping[str, ArrayLike], baseline: Mapping[str, ArrayLike], name: str = "", level: float = LEVEL
) -> Interval:
    """Returns the mean over environments of P(X > Y) + P(X = Y) / 2, X a run of the method and Y one of the baseline.

    Args:
        method: Runs by environment; higher is better.
        baseline: The other method's runs, of the same environments.
        name: Of the study; seeds the generator.
        level: Of the interval, a bootstrap that needs five runs a side in each environment.
    """
    sides = [(_numbers(method[place]), _numbers(baseline[place])) for place in method if place in baseline]
    n = min((min(len(x), len(y)) for x, y in sides), default=0)
    formula = "mean over environments of P(X > Y) + P(X = Y) / 2"
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, formula, level)
    value = float(np.mean([_wins(x[None], y[None])[0] for x, y in sides]))
    if n < FEWEST_FOR_PROBABILITY:
        return Interval(value, math.nan, math.nan, n, f"{formula}; no interval below 5 runs a side", level)
    generator = generator_of(name)
    draws = [_wins(x[_resampled(len(x), None, generator)], y[_resampled(len(y), None, generator)]) for x, y in sides]
    low, high = np.quantile(np.mean(draws, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n, f"{formula}, percentile bootstrap", level)


def smallest_p(n: int, m: int | None = None) -> float:
    """Returns the smallest two-sided p of a rank test: Wilcoxon's with n pairs, Mann and Whitney's with n and m runs."""
    return min(1.0, 2 / (2**n if m is None else math.comb(n + m, n)))


def holm(differences: Mapping[str, Difference], level: float = LEVEL) -> dict[str, Difference]:
    """Returns the differences with intervals and p adjusted by Holm 1979, so that an interval without 0 is a rejection.

    The k-th smallest of m p is compared with ``(1 - level) / (m - k + 1)``, and its interval has that level; from the first that
    is not rejected on, the level stays. Differences without an interval do not count among the m.
    """
    known = {name: each.interval.p for name, each in differences.items() if math.isfinite(each.interval.p)}
    ordered = sorted(known, key=lambda name: known[name])
    found, m, going, divisor, largest = dict(differences), len(ordered), True, len(ordered), 0.0
    for k, name in enumerate(ordered):
        p = known[name]
        divisor = m - k if going else divisor
        going = going and p <= (1 - level) / divisor
        largest = min(1.0, max(largest, (m - k) * p))
        interval = differences[name].interval.at(1 - (1 - level) / divisor)
        if m > 1:
            interval = replace(interval, formula=f"{interval.formula}, adjusted by Holm for {m} comparisons")
        found[name] = replace(differences[name], adjusted=interval, p=largest)
    return found


def best_methods(
    values: Mapping[str, pd.Series],
    complete: Mapping[str, bool],
    sign: int = 1,
    structures: Mapping[str, object] | None = None,
) -> list[str]:
    """Returns the methods that no other is shown to be better than: bold in tables.

    They are those whose Holm-adjusted interval of the difference from the best contains 0, and the best, as far as all their runs
    finished. Where the best has fewer than three runs there is no such interval, and nothing is bold; a method with fewer than
    three runs never is.

    Args:
        values: One number a run by seed, of each method.
        complete: Whether all runs of a method finished.
        sign: 1 if higher is better, -1 if lower.
        structures: What stands for a method's network, equal for those that share initial weights; None for all equal.
    """
    known = {name: x for name, x in values.items() if len(x)}
    best = max(known, key=lambda name: sign * float(known[name].mean()), default=None)
    if best is None or len(known[best]) < FEWEST:
        return []
    same = {name: structures is None or structures[name] == structures[best] for name in known}
    from_best = holm({name: difference(x, known[best], same_structure=same[name]) for name, x in known.items() if name != best})
    return [name for name in known if complete.get(name, False) and (name == best or from_best[name].shown.contains_zero)]


def detectable_difference(spread: float, n: int, power: float = 0.8, level: float = LEVEL) -> float:
    """Returns the difference that a two-sided paired t test finds with a probability of ``power``.

    Args:
        spread: Standard deviation of the paired differences.
        n: Pairs; NaN is returned below two.
        power: Probability of finding it.
        level: One minus the probability of a false finding.
    """
    return math.nan if n < 2 else spread * _detectable(n, power, level)


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Returns Pearson's correlation; NaN below three values, or if one side is constant."""
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _wins(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns P(X > Y) + P(X = Y) / 2 of each row of samples."""
    above, equal = x[:, :, None] > y[:, None, :], x[:, :, None] == y[:, None, :]
    found: NDArray[np.float64] = (above + equal / 2).mean(axis=(1, 2))
    return found


def _resampled(n: int, strata: Sequence[object] | None, generator: np.random.Generator) -> NDArray[np.intp]:
    """Returns indices of resamples, resamples by n; each draws as often from a stratum as it has members."""
    labels = np.zeros(n, int) if strata is None else pd.factorize(np.asarray(strata, dtype=object))[0]
    drawn = np.empty((RESAMPLES, n), np.intp)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        drawn[:, places] = generator.choice(places, (RESAMPLES, len(places)))
    return drawn


def generator_of(name: str) -> np.random.Generator:
    """Returns the generator of a study's resampling, seeded by its name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def _half_width(error: float, freedom: float, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, freedom)) * error


@cache
def _detectable(n: int, power: float, level: float) -> float:
    bound = float(stats.t.ppf((1 + level) / 2, n - 1))

    def lacking(size: float) -> float:
        away = size * math.sqrt(n)
        below = stats.nct.cdf(-bound, n - 1, away)  # NaN where it is too small for its series
        return float(stats.nct.sf(bound, n - 1, away) + np.nan_to_num(below)) - power

    high = 1.0
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 0.0, high))


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).ravel()
