"""What a study of branches finds besides gains: whether there is anything to remedy, who recovers, and what predicts it."""

from dataclasses import dataclass

import pandas as pd

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell
from plasticity.training.reports.analysis.precondition import Precondition, precondition_of
from plasticity.training.reports.analysis.predictors import Predictors, predictors_of
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


def find_of_branches(comparison: Comparison, cells: dict[tuple[str, str], Cell], numbers: Numbers) -> BranchFindings | None:
    """Returns what is found besides gains, None if the comparison is no study of branches.

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
