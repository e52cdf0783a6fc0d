"""Which metric of the network at a branch predicts which remedy helps: for each group of trunks, over its parents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd

from plasticity.training.reports.analysis.at_branch import at_branch, of_networks, repeats_of, scalars
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell
from plasticity.training.reports.analysis.predicting import (
    PERMUTATIONS,
    Array,
    chosen_by_metric,
    chosen_by_others,
    family_wise_p,
    largest_under_permutation,
    rank_correlations,
    regrets,
    reliability,
)
from plasticity.training.reports.analysis.statistics import FEWEST, Interval, generator_of, t_interval
from plasticity.training.reports.comparison import Comparison

OTHERS: Final = "always the others' best"
OTHERS_TOLD: Final = "always the remedy best on the other parents"
ALWAYS_UNCHANGED: Final = "always unchanged"


@dataclass(frozen=True)
class Ranked:
    """One metric, or one rule that needs none.

    Attributes:
        name: Of the metric or rule.
        rho: By remedy, NaN where it is not known; empty of a rule.
        rho_texts: The same as printed.
        p: Family-wise, of the largest of them; NaN of a rule.
        p_text: As printed.
        regret: Of the remedy that it chooses.
        regret_text: As printed.
        reliability: As printed, "" where the measurement was not repeated.
    """

    name: str
    rho: dict[str, float]
    rho_texts: dict[str, str]
    p: float
    p_text: str
    regret: Interval
    regret_text: str
    reliability: str = ""

    @property
    def largest(self) -> float:
        """The largest |rho|, 0 if none is known."""
        return max((abs(value) for value in self.rho.values() if math.isfinite(value)), default=0.0)


@dataclass(frozen=True)
class Predictors:
    """What was found in one group of trunks.

    Attributes:
        group: Its name.
        remedies: That are compared with the unchanged network.
        parents: Seeds of those that have all branches.
        moments: Names.
        ranked: Metrics, those with the largest |rho| first.
        rules: Choices without a metric: the rule to beat, and to change nothing.
        left_out: Metrics that are not ranked, with the reason.
        chance: Median and 95 % quantile of the largest |rho| under permutation; NaN if there are no metrics.
        remarks: What a reader must know, in sentences.
    """

    group: str
    remedies: list[str]
    parents: list[int]
    moments: list[str]
    ranked: list[Ranked] = field(default_factory=list)
    rules: list[Ranked] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    chance: tuple[float, float] = (math.nan, math.nan)
    remarks: list[str] = field(default_factory=list)


def predictors_of(
    comparison: Comparison,
    cells: dict[tuple[str, str], Cell],
    numbers: Numbers,
    metrics: Sequence[str] = (),
    id: str = "predictors",
) -> list[Predictors]:
    """Returns how every metric at the branch correlates with the gains of the remedies, for each group of trunks.

    Args:
        comparison: A study of branches.
        cells: By moment and remedy, of the outcome.
        numbers: Where they are written down.
        metrics: Names without ``at_branch/``; empty for all scalars.
        id: First part of the numbers' ids.
    """
    assert comparison.branches is not None
    values = at_branch(comparison)
    return [
        _Group(comparison, group, moments, cells, numbers, id).found(values, metrics)
        for group, moments in comparison.branches.groups.items()
    ]


class _Group:
    """One group of trunks: gains of the parents that have all branches."""

    def __init__(
        self,
        comparison: Comparison,
        group: str,
        moments: list[str],
        cells: dict[tuple[str, str], Cell],
        numbers: Numbers,
        id: str,
    ) -> None:
        self._comparison, self._group, self._numbers = comparison, group, numbers
        self._id = f"{id}/{group}" if group else id
        base = comparison.baseline
        there = {key for key, cell in cells.items() if cell.n}
        self._moments = [moment for moment in moments if (moment, base) in there]
        others = [name for name in comparison.methods if name != base]
        self._remedies = [name for name in others if self._moments and all((moment, name) in there for moment in self._moments)]
        needed = [cells[moment, name] for moment in self._moments for name in (base, *self._remedies)]
        self._parents = sorted(set.intersection(*(set(cell.seeds) for cell in needed))) if needed else []
        self._started = max((cells[key].started for key in cells if key[0] in moments), default=0)
        if not self._remedies:
            self._parents = []
        self._gains_PMR = np.zeros((len(self._parents), len(self._moments), len(self._remedies)))
        for m, moment in enumerate(self._moments if self._parents else []):
            unchanged = cells[moment, base].values[self._parents].to_numpy(float)
            for r, name in enumerate(self._remedies):
                gains = cells[moment, name].values[self._parents].to_numpy(float) - unchanged
                self._gains_PMR[:, m, r] = comparison.outcome.sign * gains

    def found(self, values: pd.DataFrame, metrics: Sequence[str]) -> Predictors:
        """Returns the findings of the metrics."""
        if len(self._parents) < FEWEST:
            remark = f"{len(self._parents)} of {self._started} parents have all branches; {FEWEST} are needed."
            return Predictors(self._group, self._remedies, self._parents, self._moments, remarks=[remark])
        networks = of_networks(self._comparison, values, self._moments)
        names = list(metrics) or scalars(values)
        tables = {name: self._table(networks, name) for name in names}
        left_out = {name: why for name, table in tables.items() if (why := _unfit(table))}
        kept = {name: table for name, table in tables.items() if name not in left_out}
        ranked, chance = self._ranked(kept, networks) if kept else ([], (math.nan, math.nan))
        rules = [
            self._rule(OTHERS, chosen_by_others(self._gains_PMR)),
            self._rule(ALWAYS_UNCHANGED, np.zeros(self._gains_PMR.shape[:2], np.intp)),
        ]
        layers = 0 if metrics else len(values.columns) - len(names)
        remarks = self._remarks(chance, bool(kept), layers)
        return Predictors(self._group, self._remedies, self._parents, self._moments, ranked, rules, left_out, chance, remarks)

    def _table(self, networks: pd.DataFrame, name: str) -> Array:
        """Returns a metric of parents by moments, NaN where it is missing."""
        if name not in networks:
            return np.full(self._gains_PMR.shape[:2], np.nan)
        wide = networks[name].unstack(level=0)
        found: Array = wide.reindex(index=self._parents, columns=self._moments).to_numpy(float)
        return found

    def _ranked(self, kept: dict[str, Array], networks: pd.DataFrame) -> tuple[list[Ranked], tuple[float, float]]:
        metrics_XPM = np.stack(list(kept.values()))
        rho_XR = rank_correlations(metrics_XPM, self._gains_PMR)
        name = f"{self._comparison.name}/{self._id}"
        largest = largest_under_permutation(metrics_XPM, self._gains_PMR, generator_of(name))
        found = [self._metric(name, kept[name], rho, largest, networks) for name, rho in zip(kept, rho_XR, strict=True)]
        median, high = (float(value) for value in np.quantile(largest, [0.5, 0.95]))
        formula = f"of the largest |rho| of all metrics and remedies under {PERMUTATIONS} permutations of parents"
        for what, value in (("median", median), ("95 % quantile", high)):
            self._add(f"chance/{what}", {}, value, f"{what} {formula}", 2)
        return sorted(found, key=lambda each: -each.largest), (median, high)

    def _metric(self, name: str, table: Array, rho_R: Array, largest: Array, networks: pd.DataFrame) -> Ranked:
        formula = "Spearman's rho over parents within a moment with the gain, in the direction of better, mean over moments"
        rho = dict(zip(self._remedies, map(float, rho_R), strict=True))
        texts = {
            remedy: self._add(f"rho/{name}/{remedy}", {"metric": name, "method": remedy}, value, formula, 2)
            for remedy, value in rho.items()
        }
        best = max((abs(value) for value in rho.values() if math.isfinite(value)), default=math.nan)
        p = family_wise_p(best, largest)
        formula = f"share of {PERMUTATIONS} permutations of parents whose largest |rho| of all metrics and remedies is as large"
        p_text = self._add(f"p/{name}", {"metric": name}, p, formula, 2)
        regret, told = self._regret(name, chosen_by_metric(table, self._gains_PMR))
        return Ranked(name, rho, texts, p, p_text, regret, told, self._reliability(name, networks))

    def _rule(self, name: str, chosen: "np.ndarray[tuple[int, ...], np.dtype[np.intp]]") -> Ranked:
        regret, told = self._regret(name, chosen)
        return Ranked(name, {}, {}, math.nan, "", regret, told)

    def _regret(self, name: str, chosen: "np.ndarray[tuple[int, ...], np.dtype[np.intp]]") -> tuple[Interval, str]:
        interval = t_interval(regrets(chosen, self._gains_PMR))
        groups = {**self._groups(), "metric": name}
        told = self._numbers.add_interval(f"{self._id}/regret/{name}", groups, interval, self._started, self._parents)
        return interval, told

    def _reliability(self, name: str, networks: pd.DataFrame) -> str:
        repeats = repeats_of(name, networks)
        if len(repeats) < 2:
            return ""
        known = networks[repeats].dropna()
        value = reliability(known.to_numpy(float))
        formula = f"ICC(1,1) of {len(repeats)} repeats over {len(known)} networks"
        return self._add(f"reliability/{name}", {"metric": name}, value, formula, 2)

    def _groups(self) -> dict[str, str]:
        told = {"group": self._group} if self._group else {}
        return {**told, "baseline": self._comparison.baseline, "outcome": self._comparison.outcome.name}

    def _add(self, id: str, groups: dict[str, str], value: float, formula: str, digits: int) -> str:
        n = len(self._parents)
        return self._numbers.add(
            f"{self._id}/{id}", {**self._groups(), **groups}, n, self._started, value, None, formula, self._parents, digits
        )

    def _remarks(self, chance: tuple[float, float], any_metric: bool, layers: int) -> list[str]:
        n, found = len(self._parents), []
        if n < self._started:
            found.append(f"{n} of {self._started} parents have all branches; the others are left out here.")
        if not any_metric:
            return [*found, "No metric was measured at the branches, or none that varies and is finite."]
        found.append(
            f"If no metric predicted gains, the largest |rho| would still be about {chance[0]:.2f} (median of {PERMUTATIONS:,} "
            f"permutations of the {n} parents)."
        )
        if n < 10:
            least = f"no p can be below {1 / math.factorial(n):.2g}, and " if n < 5 else ""
            found.append(
                f"With fewer than ten parents {least}the largest |rho| of many metrics is large by chance alone: for 30 metrics, "
                "7 remedies and 3 independent moments near 1 with three parents, about .55 with ten, .4 with twenty. Take at "
                "least ten."
            )
        if layers:
            found.append(f"{layers} values of single layers or parts, or of repeats, are in data/values.csv.gz and not ranked.")
        return found


def _unfit(table: Array) -> str:
    """Returns why a metric cannot be ranked, "" if it can."""
    lost = int(np.sum(~np.isfinite(table)))
    if lost:
        return f"missing or not finite in {lost} of {table.size} networks"
    return "constant" if not np.ptp(table, axis=0).any() else ""
