"""Curves of the runs that branches start from: whole in a separate panel, and up to each moment under its branches."""

from typing import Final

import pandas as pd

from plasticity.training.reports.analysis.outcomes import binned
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.drawing import Style
from plasticity.training.reports.reading.branches import TRUNK, Moment
from plasticity.training.reports.specification import Figure

STYLE: Final = Style("#8C8C8C", "-", "o")
_BEFORE: Final = 2  # lengths of a branch that are shown of its trunk


def trunk_panels(comparison: Comparison, moments: list[str]) -> dict[str, list[int]]:
    """Returns the panels of whole trunks by title, each with the steps of the shown moments; none if there are no branches."""
    found: dict[str, list[int]] = {}
    if comparison.branches is None:
        return found
    for name in moments:
        moment = comparison.branches.moments[name]
        found.setdefault(f"{moment.group}: {TRUNK}" if moment.group else TRUNK, []).append(moment.step)
    return found


def trunk_curves(comparison: Comparison, figure: Figure, name: str, moments: list[str]) -> dict[str, pd.DataFrame]:
    """Returns one curve a trunk, as ``binned`` does, for each panel of whole trunks and for each moment.

    Args:
        comparison: The runs.
        figure: Of curves.
        name: Of the value.
        moments: That are shown.
    """
    if comparison.branches is None:
        return {}
    found = {}
    for each in moments:
        moment = comparison.branches.moments[each]
        runs = comparison.cell(*moment.trunk)
        title = f"{moment.group}: {TRUNK}" if moment.group else TRUNK
        found[title] = binned(comparison, name, figure.by, figure.bins, figure.window, runs.index)
        part = _before(comparison, each, moment, runs)
        found[each] = binned(comparison, name, figure.by, figure.bins, figure.window, runs.index, part)
    return found


def _before(comparison: Comparison, name: str, moment: Moment, trunks: pd.DataFrame) -> tuple[float, float]:
    """Returns the share of the trunks that is shown under the branches of a moment: the steps just before them."""
    branches = comparison.runs[comparison.runs["condition"] == name]
    length = (branches["steps"] - branches["moment"]).max()
    steps = trunks["steps"].max()
    if pd.isna(steps) or pd.isna(length) or steps == 0:
        return 0.0, 1.0
    return max(0.0, (moment.step - _BEFORE * int(length)) / int(steps)), min(1.0, moment.step / int(steps))
