"""``plan=true``: what a study would run, how long that takes, how much disk it fills, and which differences it could find."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from plasticity.training.reports.analysis.outcomes import cell_of, run_outcome
from plasticity.training.reports.analysis.statistics import detectable_difference
from plasticity.training.reports.comparison import read_comparison
from plasticity.training.saving.status import read_status
from plasticity.training.studies.asking import Study
from plasticity.training.studies.cells import Cell, Group
from plasticity.training.studies.folder import StudyFolder, bytes_in
from plasticity.training.studies.logged import names_in, unwritten
from plasticity.training.studies.states import DONE, State
from plasticity.training.studies.timing import Estimate, estimate

_START_SECONDS: Final = 2.0  # of a run: to compose, to build and to save it


def plan_lines(
    asked: Study,
    study: StudyFolder,
    groups: Sequence[Group],
    tuning: Sequence[Group],
    branches: Sequence[Cell],
    states: Mapping[str, State],
) -> Iterator[str]:
    """Yields the plan of a study line by line, as each method is timed. Nothing is written.

    Args:
        asked: The study.
        study: Its folder, which may be missing.
        groups: Its runs.
        tuning: Those that come before them.
        branches: Those that start from them.
        states: Where each run stands, by place.

    Raises:
        ValueError: If the parts of a run do not fit together.
    """
    counts = Counter(state.name for state in states.values())
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    yield f"{asked.settings.name}: {len(states)} runs in {asked.folder} ({told})"
    rows: dict[str, list[Cell]] = {}
    for cell in (*(cell for group in (*tuning, *groups) for cell in group.cells), *branches):
        remedy = "" if cell.origin is None else f"/{cell.origin.remedy}"
        rows.setdefault(f"{cell.place.partition('/')[0]}/{cell.condition}/{cell.method}{remedy}", []).append(cell)
    width = max(map(len, rows))
    yield f"  {'':<{width}}  {'runs':>5} {'to do':>5}  {'one run':>12}  {'all to do':>12}  {'on disk':>10}"
    costs = {(group.cells[0].condition, group.cells[0].method): _cost(study, group, states) for group in groups}
    plans = {(group.cells[0].condition, group.cells[0].method): group.plan for group in groups}
    seconds = size = 0.0
    for label, cells in rows.items():
        pair = cells[0].condition, cells[0].method
        branch = None if cells[0].origin is None else asked.settings.branch
        known = None if branch is None else _known_cost(study, cells, states)
        steps = cells[0].steps if branch is None else branch.steps
        cost, share = (known, 1.0) if known is not None else (costs[pair], steps / plans[pair].run.steps)
        left = sum(states[cell.place].runs(asked.retry) for cell in cells)
        all_of_them, full = left * (cost.seconds * share + _START_SECONDS), left * cost.bytes * share
        seconds, size = seconds + all_of_them, size + full
        yield (
            f"  {label:<{width}}  {len(cells):>5} {left:>5}  {duration(cost.seconds * share):>12}  {duration(all_of_them):>12}  "
            f"{full / 1e6:>7.0f} MB"
        )
    untimed = dict.fromkeys(name for cost in costs.values() for name in cost.untimed)
    more = f", without {', '.join(untimed)}" if untimed else ""
    yield f"about {duration(seconds)} one after the other, at this machine's speed of just now{more}; {size / 1e6:.0f} MB"
    written = {"/".join(pair): (cost.names, cost.later) for pair, cost in costs.items()}
    for line in unwritten(asked.settings, written):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    yield from _power_lines(asked, study, any(states[cell.place].name == DONE for group in groups for cell in group.cells))


def _cost(study: StudyFolder, group: Group, states: Mapping[str, State]) -> Estimate:
    """Returns what one run costs: the mean cost of finished ones, otherwise an estimate."""
    known, cell = _known_cost(study, group.cells, states), group.cells[0]
    if known is not None:
        return known
    print(f"timing {cell.condition}/{cell.method} ...", file=sys.stderr, flush=True)
    try:
        return estimate(group.plan)
    except FloatingPointError as error:
        raise ValueError(f"{cell.condition}/{cell.method} cannot be timed: {error}") from error


def _known_cost(study: StudyFolder, cells: Sequence[Cell], states: Mapping[str, State]) -> Estimate | None:
    """Returns the mean cost of the finished ones of some runs, None if none is finished."""
    folders = [study.path / cell.place for cell in cells if states[cell.place].name == DONE]
    seconds = [cost for folder in folders if (cost := read_status(folder).cpu_seconds) is not None]
    if not seconds:
        return None
    names = frozenset(name for folder in folders for name in names_in(folder / "metrics.csv"))
    return Estimate(float(np.mean(seconds)), float(np.mean([bytes_in(folder) for folder in folders])), names=names)


def duration(seconds: float) -> str:
    """Returns a duration in words, such as ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def _power_lines(asked: Study, study: StudyFolder, done: bool) -> Iterator[str]:
    """Yields which differences the study would find, from the spread of paired differences in its finished runs."""
    settings = asked.settings
    n = len(settings.seeds)
    factor = detectable_difference(1.0, n)
    compared = settings.methods if settings.branch is None else settings.branch.remedies
    if n < 2 or len(compared) < 2:
        return
    yield (
        f"with {n} seeds it finds, with 80 % probability, a difference from {settings.baseline} of {factor:.2f} times "
        "the standard deviation of the paired differences"
    )
    if settings.branch is not None:
        return
    found = False
    if done:
        comparison = read_comparison([study.path], settings.report)
        assert settings.report.outcome is not None
        outcomes = run_outcome(comparison, settings.report.outcome)
        for condition, method in settings.pairs:
            if method == settings.baseline or (condition, settings.baseline) not in settings.pairs:
                continue
            ours = cell_of(comparison, outcomes, condition, method).values
            theirs = cell_of(comparison, outcomes, condition, settings.baseline).values
            differences = (ours - theirs).dropna().to_numpy()
            if len(differences) >= 2:
                found = True
                spread = float(np.std(differences, ddof=1))
                yield (
                    f"  {condition}/{method}: {detectable_difference(spread, n):.3g} of {settings.report.outcome.name} "
                    f"(standard deviation {spread:.3g} in {len(differences)} seeds that have run)"
                )
    if not found:
        yield "  that deviation is not known before two seeds of a method and of the baseline have run here"
