"""The studies that come along: each composes in full and in short, and its runs measure what its page shows."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from plasticity.metrics.catalogue import CATALOGUE, chosen
from plasticity.training.assembly import without_updates
from plasticity.training.config.command_line import Composer
from plasticity.training.config.settings import Plan
from plasticity.training.reports.specification import ReportSettings
from plasticity.training.studies.asking import studies_in, study_file
from plasticity.training.studies.cells import Words
from plasticity.training.studies.reading import read_study
from plasticity.training.studies.specification import StudySettings

COMPOSER = Composer()
NAMES = studies_in(COMPOSER)


def read(name: str, short: bool) -> StudySettings:
    return read_study(study_file(name, COMPOSER), short)[0]


@cache
def planned(name: str, short: bool, condition: str, method: str) -> Plan:
    study = read(name, short)
    words = Words(study, COMPOSER, (), Path())
    return words.group(condition, method, study.seeds[:1], "runs", (), study.steps).plan


def covering(study: StudySettings) -> Iterator[tuple[str, str]]:
    """Yields pairs of which each condition and each method is in one; of the values of a list the first alone."""
    seen: set[str] = set()
    conditions = list(study.conditions)
    shown = conditions[:1] if len(conditions) > 12 else conditions
    for condition, method in study.pairs:
        names = {f"condition {condition}", f"method {method}"}
        if condition in shown and not names <= seen:
            seen |= names
            yield condition, method


def shown_values(report: ReportSettings) -> set[str]:
    """Returns the names of all values on the page."""
    outcomes = [report.outcome, *report.also, *(figure.outcome for figure in report.figures)]
    named = {outcome.value for outcome in outcomes if outcome is not None}
    for figure in report.figures:
        named |= {*figure.values, *([figure.value] if figure.value else [])}
    return named


@pytest.mark.parametrize("short", [False, True], ids=["full", "short"])
@pytest.mark.parametrize("name", NAMES)
def test_the_last_run_of_a_study_composes_and_measures_what_is_shown(name: str, short: bool) -> None:
    study = read(name, short)
    plan = planned(name, short, *study.pairs[-1])
    assert plan.run.steps > 0
    assert without_updates(plan) == ""
    if study.branch is not None and "branch.replay=clear" in study.branch.common:
        assert study.branch.steps > plan.agent.warmup_env_steps  # type: ignore[attr-defined]
    metrics = chosen(plan.metrics.names)
    for value in shown_values(study.report):
        moment, _, rest = value.rpartition("/") if value in CATALOGUE else value.partition("/")
        metric = rest.partition("/")[0]
        if metric in CATALOGUE:
            assert metric in metrics, f"{value} is not measured"
        if moment == "task_start":
            assert plan.metrics.at or plan.metrics.after_switch, value
        elif metric in CATALOGUE:
            assert plan.metrics.every_steps > 0 or plan.metrics.at_task_switch, value
        assert moment != "probe" or plan.probe.every_steps > 0, value
        assert moment != "first_probe" or plan.probe.before_first_update, value


@pytest.mark.slow
@pytest.mark.parametrize("short", [False, True], ids=["full", "short"])
@pytest.mark.parametrize("name", NAMES)
def test_every_condition_and_every_method_of_a_study_composes(name: str, short: bool) -> None:
    for condition, method in covering(read(name, short)):
        assert planned(name, short, condition, method).run.steps > 0
