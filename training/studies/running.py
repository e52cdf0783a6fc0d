"""Runs what is missing of a study, on a launcher of Hydra's, and reports."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from plasticity.training.assembly import assemble
from plasticity.training.config.grid import launch, workers
from plasticity.training.config.words import covering
from plasticity.training.entry import program
from plasticity.training.saving.status import read_status
from plasticity.training.studies.asking import Study
from plasticity.training.studies.branches import Branches, BranchMaker
from plasticity.training.studies.cells import Cell, Group, Words, by_seed, groups_of
from plasticity.training.studies.folder import REPORT, StudyFolder, bytes_in
from plasticity.training.studies.jobs import StudyJob
from plasticity.training.studies.states import BUSY, DONE, FAILED_BEFORE, INTERRUPTED, OTHER, STATES, TO_DO, State, state_of
from plasticity.training.studies.tuning import Point, choose, points_of

_NAMED: Final = 5


def run_study(asked: Study) -> int:
    """Runs what is missing, and makes the report.

    Returns:
        The exit code: 0, or 1 if a run failed, is missing in the end, or has other settings than the study's; of ``plan=true``
        2 if data files are missing.

    Raises:
        ValueError: If something is wrong with the study or its folder; no run has been started then.
        KeyboardInterrupt: If the user stopped it.
    """
    study = StudyFolder(asked.folder.absolute())
    with _naming(asked.file):
        if not asked.plan:
            refuse_missing(asked.settings.needs)
        words = Words(asked.settings, asked.composer, asked.extra, asked.file.parent)
        groups, points = groups_of(asked.settings, words, {}), points_of(asked.settings, words)
        maker = None if asked.settings.branch is None else BranchMaker(asked.settings.branch, words)
        if maker is not None and _is_left(study, groups, maker):
            maker.try_out(groups)
    if asked.plan:
        if points:
            chosen, _ = choose(asked.settings, study, points, states_of(study, [point.group for point in points]), write=False)
            groups = groups_of(asked.settings, words, chosen or {})
        return _plan(asked, study, groups, [point.group for point in points], maker)
    study.claim(asked.resolved)
    code = 0
    if points:
        code, chosen = _tuned(asked, study, points)
        if chosen is None:
            return code
        groups = groups_of(asked.settings, words, chosen)
    branches = _branches(study, groups, maker)
    cells = [*by_seed(groups), *branches.cells]
    code = max(code, run_cells(asked, study, groups, planned=cells))
    if maker is not None:
        with _naming(asked.file):
            branches = _branches(study, groups, maker)
        cells = [*by_seed(groups), *branches.cells]
        code = max(code, run_cells(asked, study, branches.groups, " (branches)", planned=cells), _told_waiting(branches))
    study.write_plan(cells, _costs(study, cells))
    return max(code, _report(study))


def _branches(study: StudyFolder, groups: Sequence[Group], maker: BranchMaker | None) -> Branches:
    """Returns the branches of runs as far as the runs have reached their moments."""
    return Branches() if maker is None else maker.branches_of(groups, states_of(study, groups), study.path)


def _is_left(study: StudyFolder, groups: Sequence[Group], maker: BranchMaker) -> bool:
    """Tells whether a branch is not done yet."""
    branches = _branches(study, groups, maker)
    return bool(branches.waiting) or any(state.name != DONE for state in states_of(study, branches.groups).values())


def _told_waiting(branches: Branches) -> int:
    """Prints which branches cannot start; returns the exit code."""
    if branches.lost:
        told = f"{', '.join(branches.lost[:_NAMED])}{', ...' if len(branches.lost) > _NAMED else ''}"
        print(f"{len(branches.lost)} checkpoints to branch from are gone: {told}; the runs must be made again", file=sys.stderr)
    if branches.waiting:
        print(f"{len(branches.waiting)} branches wait for the runs that they start from", file=sys.stderr)
    return 1 if branches.waiting else 0


def _tuned(
    asked: Study, study: StudyFolder, points: Sequence[Point]
) -> tuple[int, dict[tuple[str, str], tuple[str, ...]] | None]:
    """Runs what is missing of the tuning and chooses; returns the exit code, and the chosen words or None."""
    groups = [point.group for point in points]
    code = run_cells(asked, study, groups, " (tuning)")
    chosen, lines = choose(asked.settings, study, points, states_of(study, groups))
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
    for pair, words in (chosen or {}).items():
        print(f"chosen for {'/'.join(pair)}: {' '.join(words)}", flush=True)
    return (max(code, 1) if chosen is None else code), chosen


def _plan(asked: Study, study: StudyFolder, groups: Sequence[Group], tuning: Sequence[Group], maker: BranchMaker | None) -> int:
    from plasticity.training.studies.planning import plan_lines

    branches = _branches(study, groups, maker)
    states = states_of(study, [*tuning, *groups, *branches.groups]) | {cell.place: State(TO_DO) for cell in branches.waiting}
    absent = missing(asked.settings.needs)
    if absent:
        print(f"{asked.settings.name}: {len(states)} runs in {asked.folder}")
        for name in absent:
            print(f"missing: {name}", file=sys.stderr)
        return 2
    with _naming(asked.file):
        for line in plan_lines(asked, study, groups, tuning, branches.cells, states):
            print(line, flush=True)
    return 0


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Adds the name of a study's file to errors that the block raises about it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def refuse_missing(needs: Sequence[str]) -> None:
    """Raises ValueError that names the data files that are not there."""
    absent = missing(needs)
    if absent:
        raise ValueError(f"needs: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing")


def missing(needs: Sequence[str]) -> list[str]:
    """Returns the data files that are not there."""
    return [name for name in needs if not Path(name).expanduser().exists()]


def states_of(study: StudyFolder, groups: Iterable[Group]) -> dict[str, State]:
    """Returns where each run stands, by its place."""
    events = study.last_events()
    return {
        cell.place: state_of(cell, group.plan.config, study, events.get(cell.place, {}))
        for group in groups
        for cell in group.cells
    }


def run_cells(asked: Study, study: StudyFolder, groups: Sequence[Group], what: str = "", planned: Sequence[Cell] = ()) -> int:
    """Runs those of some runs that are missing; prints what stops the others.

    Args:
        asked: The study.
        study: Its folder.
        groups: The runs.
        what: What they are, where they are not the main runs of the study.
        planned: All runs that ``plan.csv`` lists; without any, it is left as it is.

    Returns:
        The exit code, 0 or 1.

    Raises:
        ValueError: If what is to be run does not fit together; nothing has been started then.
        KeyboardInterrupt: If the user stopped it.
    """
    states, cells = states_of(study, groups), by_seed(groups)
    to_do = [cell for cell in cells if states[cell.place].runs(asked.retry)]
    print(f"{asked.settings.name}{what}: {len(to_do)} of {len(cells)} to do{_told(states)}", flush=True)
    if to_do:
        with _naming(asked.file):
            _try_out(groups, states, {cell.place for cell in to_do})
        if planned:
            study.write_plan(planned, {})
        try:
            job = StudyJob(study.path, tuple(to_do), asked.retry, asked.composer.own)
            launched = [cell.spelled for cell in to_do]
            launch(launched, job, study.path, asked.launcher, lambda: study.has_taken(to_do, workers()))
        except Exception as error:  # of any launcher; what was run is on disk
            print(f"stopped: the launcher failed: {' '.join(str(error).split())}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"Stopped. Continue with the same words:\n  {program()} {shlex.join(sys.argv[1:])}", flush=True)
            raise
        states = states_of(study, groups)
    return _conclude(cells, states, asked.retry)


def _told(states: Mapping[str, State]) -> str:
    counts = Counter(state.name for state in states.values())
    told = [f"{counts[name]} {name}" for name in STATES if name != TO_DO and counts[name]]
    return f" ({', '.join(told)})" if told else ""


def _try_out(groups: Sequence[Group], states: Mapping[str, State], places: set[str]) -> None:
    """Builds once, on this machine's CPU, each combination that no run so far has shown to fit together."""
    wanted = [
        group
        for group in groups
        if group.cells[0].origin is None  # branches are checked before all runs
        and any(cell.place in places for cell in group.cells)
        and not any(states[cell.place].name in (DONE, INTERRUPTED) for cell in group.cells)
    ]
    first = {group.cells[0].words: group for group in wanted}
    for words in covering(first):
        group = first[tuple(words)]
        try:
            assemble(replace(group.plan, run=replace(group.plan.run, device="cpu"))).stream.close()
        except ValueError as error:
            cell = group.cells[0]
            raise ValueError(f"{cell.condition}/{cell.method}: {error}") from error


def _conclude(cells: Sequence[Cell], states: Mapping[str, State], retry: bool) -> int:
    """Prints to standard error what differs from the study; returns the exit code."""
    counts = Counter(states[cell.place].name for cell in cells)
    print(f"{counts[DONE]} of {len(cells)} done{f', {counts[BUSY]} busy in another process' if counts[BUSY] else ''}", flush=True)
    other = [cell for cell in cells if states[cell.place].name == OTHER]
    for cell in other[:_NAMED]:
        print(f"warning: {cell.place} has {OTHER} and is left as it is: {states[cell.place].message}", file=sys.stderr)
    if other:
        more = f"{len(other)} of {len(cells)} runs have {OTHER}"
        print(f"{more}; give the study another folder, run_dir=<folder>, or move them away", file=sys.stderr)
    failed = [cell for cell in cells if states[cell.place].name == FAILED_BEFORE]
    if failed:
        told = ", ".join(f"{cell.label} ({_reason(states[cell.place].message)})" for cell in failed[:_NAMED])
        more = ", ..." if len(failed) > _NAMED else ""
        hint = "" if retry else "; retry=true runs them again"
        print(f"{len(failed)} of {len(cells)} failed: {told}{more}{hint}", file=sys.stderr)
    left = counts[TO_DO] + counts[INTERRUPTED]
    if left:
        print(f"{left} of {len(cells)} ended without a record, probably killed; the same words continue them", file=sys.stderr)
    return 1 if other or failed or left else 0


def _reason(message: str) -> str:
    told = message.partition(". The run, up to")[0]
    return told if len(told) <= 100 else f"{told[:100]}..."


def _costs(study: StudyFolder, cells: Sequence[Cell]) -> dict[str, tuple[float | None, int | None]]:
    """Returns processor seconds and bytes of the runs that are there, by place."""
    found: dict[str, tuple[float | None, int | None]] = {}
    for cell in cells:
        folder = study.path / cell.place
        try:
            seconds = read_status(folder).cpu_seconds
        except ValueError:
            continue
        found[cell.place] = (seconds, bytes_in(folder))
    return found


def _report(study: StudyFolder) -> int:
    from plasticity.training.reports.report import report  # takes a second, which a study that is refused need not wait for

    with study.locked("report"):
        try:
            page = report([study.path], study.path / REPORT)
        except ValueError as error:
            print(f"error: the report: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
    print(f"report: {page}", flush=True)
    return 0
