"""Which values a run can write, and which of the values that a study asks for no run of it will write."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.settings.naming import did_you_mean
from plasticity.training.assembly import Assembly
from plasticity.training.config.settings import Plan
from plasticity.training.studies.specification import StudySettings

_TIMED: Final = r"(metrics|probe|evaluation|task_evaluation)_seconds"
_SETS: Final = "(online|train|validation|test|best_test|next_test)"
_SHOWN: Final = 8


def awaited(plan: Plan, assembly: Assembly) -> re.Pattern[str]:
    """Returns what matches the names of values that come later than the first steps: of episodes, tasks and evaluations."""
    stream, observers = assembly.stream, assembly.observers
    found = [rf"time/(steps_per_second|{_TIMED})", *(f"{re.escape(name)}/.*" for name in plan.interventions)]
    if isinstance(stream, TaskStream):
        found += _of_tasks(plan, stream, getattr(assembly.agent, "classification", True))
    else:
        found.append("rollout/(return|length)")
        for name, start in (("metrics", "plasticity"), ("probe", "probe")):
            if (
                observers[name].at_task_switch and not getattr(plan, name).every_steps
            ):  # then it is not measured while it is timed
                found.append(f"{start}/.*")
    if "evaluation" in observers:
        found.append("eval/(return|return_std|return_min|return_max|length|episodes)")
    found += [f"{name}/.*" for name in ("task_start", "first_probe") if name in observers]
    return re.compile("|".join(found))


def _of_tasks(plan: Plan, stream: TaskStream, classification: bool) -> list[str]:
    settings, kind = plan.task_evaluation, "(accuracy|loss)" if classification else "loss"
    ends = plan.run.steps >= stream.minibatches(0)
    value = rf"({_SETS}_{kind}|forward_transfer)"
    found = [rf"task/((mean_)?{value}|number)"] if ends and (settings.every_tasks or settings.fresh_every_tasks) else []
    found += [rf"epoch/({_SETS}_{kind}|task|passed)"] if settings.every_epochs else []
    if ends and (settings.fresh_every_tasks or settings.forward_transfer):
        found.append(rf"(fresh|relative)/({value}|online_transfer)")
    return found


def asked_for(settings: StudySettings) -> dict[str, str]:
    """Returns the values that a study reports or tunes by, each with the first place in its file that names it."""
    report, found = settings.report, dict[str, str]()
    places = [("report.outcome", report.outcome), *((f"report.also.{n}", each) for n, each in enumerate(report.also))]
    places += [(f"report.tables.{each.id}", each.value) for each in report.tables]
    places += [(f"report.figures.{each.id}", each.outcome) for each in report.figures]
    places += [("tune", settings.tune.value)] if settings.tune is not None else []
    for place, outcome in places:
        if outcome is not None:
            found.setdefault(outcome.value, f"{place}.value")
    for figure in report.figures:
        for name in figure.values:
            found.setdefault(name, f"report.figures.{figure.id}.values")
        for name in figure.metrics if figure.kind != "predictors" else ():  # those are of the networks that branches start from
            found.setdefault(f"plasticity/{name}", f"report.figures.{figure.id}.metrics")
    return found


def unwritten(settings: StudySettings, cells: Mapping[str, tuple[Iterable[str], re.Pattern[str] | None]]) -> Iterator[str]:
    """Yields a line for each value that a study asks for and that runs will not write.

    Args:
        settings: The study.
        cells: By name of condition and method the names that were written, and the pattern of those that may come later.
    """
    seen = {cell: (set(names), later) for cell, (names, later) in cells.items()}
    there = sorted(set().union(*(names for names, _ in seen.values()))) if seen else []
    for value, place in asked_for(settings).items():
        without = [cell for cell, (names, later) in seen.items() if value not in names and not (later and later.fullmatch(value))]
        if not without:
            continue
        every = len(without) == len(seen)
        which = "no run" if every else f"no run of {_some(without)}"
        like = [name for name in there if name.startswith("plasticity/") == value.startswith("plasticity/")]
        known = f"{did_you_mean(value, there)}; written are {_some(like)}" if every else ""
        yield f"{place}={value}: {which} will write it, as far as the timed steps show{known}"


def names_in(table: Path) -> set[str]:
    """Returns the names of values in a run's ``metrics.csv``; none if it cannot be read."""
    try:
        with table.open(newline="", encoding="utf-8", errors="replace") as file:
            return {row[1] for row in csv.reader(file) if len(row) == 3 and row[1] != "name"}
    except (OSError, csv.Error):
        return set()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "none"
