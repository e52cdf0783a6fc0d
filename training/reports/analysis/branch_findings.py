"""Findings of a study of branches besides gains: whether there is anything to remedy, who recovers, and what predicts gains."""

import math
from dataclasses import dataclass

import pandas as pd

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell
from plasticity.training.reports.analysis.precondition import Precondition, precondition_of
from plasticity.training.reports.analysis.predictors import OTHERS, OTHERS_TOLD, Predictors, predictors_of
from plasticity.training.reports.analysis.recovery import recovery_of
from plasticity.training.reports.comparison import Comparison


@dataclass(frozen=True)
class BranchFindings:
    """What is found in a study of branches.

    Attributes:
        preconditions: By group of trunks.
        ranked: Names of the moments whose remedies are ranked: not those of groups with nothing to remedy.
        recovery: See ``recovery_of``.
        predictors: One for each group of trunks.
    """

    preconditions: dict[str, Precondition]
    ranked: list[str]
    recovery: pd.DataFrame
    predictors: list[Predictors]

    @property
    def needs(self) -> list[str]:
        """A sentence for each group of trunks: whether there is anything to remedy."""
        return [each.sentence for each in self.preconditions.values()]

    @property
    def predicted(self) -> list[str]:
        """A sentence for each group of trunks in which metrics are ranked: how well the best one predicts which remedy helps."""
        return [_predicted(each) for each in self.predictors if each.ranked]


def find_of_branches(comparison: Comparison, cells: dict[tuple[str, str], Cell], numbers: Numbers) -> BranchFindings | None:
    """Returns the findings besides gains, None if the comparison is no study of branches.

    Args:
        comparison: The runs.
        cells: By moment and remedy, of the outcome.
        numbers: Where they are written down.
    """
    if comparison.branches is None:
        return None
    groups = comparison.branches.groups
    found = {group: precondition_of(comparison, cells, group, moments, numbers) for group, moments in groups.items()}
    ranked = [moment for group, moments in groups.items() if found[group].holds is not False for moment in moments]
    recovery = recovery_of(comparison, cells, numbers)
    return BranchFindings(found, ranked, recovery, predictors_of(comparison, cells, numbers))


def _predicted(found: Predictors) -> str:
    best, rule = found.ranked[0], next(each for each in found.rules if each.name == OTHERS)
    remedy = max((name for name in best.rho if math.isfinite(best.rho[name])), key=lambda name: abs(best.rho[name]), default="")
    lead = f"{found.group}: " if found.group else ""
    if not remedy:
        return f"{lead}No gain varies over parents, so no metric can correlate with it."
    count = f"Of {len(found.ranked)} metrics at the branch" if len(found.ranked) > 1 else "At the branch"
    return (
        f"{lead}{count} {best.name} correlates most with a gain, that of {remedy}: rho = {best.rho_texts[remedy]} (family-wise p "
        f"{best.p_text}, {len(found.parents)} parents). The remedy that it chooses has a regret of {best.regret_text}; "
        f"{OTHERS_TOLD} has {rule.regret_text}."
    )
