"""``tune:``: every method and condition gets the same number of settings to try, on seeds that are never reported."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import yaml

from plasticity.training.config.methods import spelled
from plasticity.training.reports.reading.folders import TUNING
from plasticity.training.reports.reading.tuning import COLUMNS, TABLE
from plasticity.training.reports.specification import Outcome, ReportSettings
from plasticity.training.studies.cells import Group, Words
from plasticity.training.studies.folder import StudyFolder, write_whole
from plasticity.training.studies.specification import StudySettings
from plasticity.training.studies.states import DONE, FAILED_BEFORE, State

CHOSEN: Final = "chosen.yaml"


@dataclass(frozen=True)
class Point:
    """Settings of a method that are tried in a condition.

    Attributes:
        settings: Values by name.
        group: Its runs.
    """

    settings: Mapping[str, Any]
    group: Group

    @property
    def words(self) -> tuple[str, ...]:
        """Words that set them."""
        return tuple(f"{name}={spelled(value)}" for name, value in self.settings.items())

    @property
    def pair(self) -> tuple[str, str]:
        """Condition and method."""
        return self.group.cells[0].condition, self.group.cells[0].method


def points_of(study: StudySettings, words: Words) -> list[Point]:
    """Returns everything that is tried, empty if the study tunes nothing.

    Raises:
        ValueError: If a setting does not fit its method.
    """
    tune, found = study.tune, []
    for condition, method in study.pairs if tune is not None else ():
        assert tune is not None
        grid = tune.grid.get(method, {})
        for number, values in enumerate(product(*grid.values()) if grid else ()):
            settings = dict(zip(grid, values, strict=True))
            own = [f"{name}={spelled(value)}" for name, value in settings.items()]
            place = f"{TUNING}/{condition}/{method}/{number}"
            found.append(Point(settings, words.group(condition, method, tune.seeds, place, own, tune.steps)))
    return found


def choose(
    settings: StudySettings, study: StudyFolder, points: Sequence[Point], states: Mapping[str, State], *, write: bool = True
) -> tuple[dict[tuple[str, str], tuple[str, ...]] | None, list[str]]:
    """Chooses for each condition and method the settings with the best mean outcome, among those that finished on every seed.

    Args:
        settings: A study that tunes.
        study: Its folder.
        points: All settings that are tried.
        states: Where each run stands, by place.
        write: Whether to write what was chosen, and the table of all settings that were tried.

    Returns:
        The chosen words by condition and method, None while runs are missing or if no settings of one have finished; and lines
        for the user: what is missing, and what was chosen at the edge of what was tried.
    """
    tune, ended = settings.tune, (DONE, FAILED_BEFORE)
    assert tune is not None
    outcome = tune.value
    assert outcome is not None
    cells = [cell for point in points for cell in point.group.cells]
    waiting = [cell for cell in cells if states[cell.place].name not in ended]
    if waiting:
        which = f"{len(waiting)} of {len(cells)} of its runs are missing, the first is {waiting[0].place}"
        return None, [f"the tuning is not complete: {which}; the reported runs wait for it"]
    outcomes = _outcomes(outcome, study, points, states)
    chosen: dict[tuple[str, str], tuple[str, ...]] = {}
    lines, rows = [], []
    for pair in dict.fromkeys(point.pair for point in points):
        tried = [(point, _mean(point, outcomes)) for point in points if point.pair == pair]
        known = [(point, mean) for point, mean in tried if math.isfinite(mean)]
        if not known:
            return None, [f"the tuning of {'/'.join(pair)}: none of its settings has finished on every seed"]
        best, value = max(known, key=lambda each: outcome.sign * each[1])
        chosen[pair] = best.words
        edge = _at_edge(best, tune.grid[pair[1]])
        lines += [f"{'/'.join(pair)}: {name}={best.settings[name]} is the {which} that was tried" for name, which in edge.items()]
        told = {"words": list(best.words), "outcome": outcome.name, "value": value, "seeds": tune.seeds, "tried": len(tried)}
        if write:
            write_whole(study.path / TUNING / pair[0] / pair[1] / CHOSEN, yaml.safe_dump(told, sort_keys=False))
        for point, mean in tried:
            finished = sum(math.isfinite(outcomes.get(cell.place, math.nan)) for cell in point.group.cells)
            marks = (
                "yes" if point is best else "",
                ", ".join(f"{name} ({which})" for name, which in edge.items()) if point is best else "",
            )
            rows.append((*pair, " ".join(point.words), finished, len(tune.seeds), mean, *marks))
    if write:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *rows])
        write_whole(study.path / TUNING / TABLE, text.getvalue())
    return chosen, lines


def _outcomes(outcome: Outcome, study: StudyFolder, points: Sequence[Point], states: Mapping[str, State]) -> dict[str, float]:
    """Returns the outcome of each finished run by place."""
    from plasticity.training.reports.analysis.outcomes import run_outcome
    from plasticity.training.reports.comparison import read_comparison  # takes a second, which a study without tuning saves

    places = {
        str(study.path / cell.place): cell.place
        for point in points
        for cell in point.group.cells
        if states[cell.place].name == DONE
    }
    if not places:
        return {}
    comparison = read_comparison([study.path / place for place in places.values()], ReportSettings(outcome))
    values = run_outcome(comparison, outcome)
    return {places[folder]: float(values[run]) for run, folder in comparison.runs["folder"].items() if folder in places}


def _mean(point: Point, outcomes: Mapping[str, float]) -> float:
    """Returns the mean over seeds; NaN unless every seed has an outcome."""
    values = [outcomes.get(cell.place, math.nan) for cell in point.group.cells]
    return sum(values) / len(values)


def _at_edge(point: Point, grid: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Returns the numbers that were chosen at the end of those that were tried, with which end it is."""
    found = {}
    for name, tried in grid.items():
        numbers = sorted({float(value) for value in tried if isinstance(value, int | float) and not isinstance(value, bool)})
        if len(numbers) < 2 or len(numbers) < len(set(map(str, tried))):
            continue
        if point.settings[name] == numbers[0]:
            found[name] = "smallest"
        elif point.settings[name] == numbers[-1]:
            found[name] = "largest"
    return found
