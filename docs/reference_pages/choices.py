"""The reference of named files: methods, experiments and lists of values; and of settings that are no kind's own."""

from collections.abc import Mapping
from typing import Final

from plasticity.metrics.observer import MetricsSettings
from plasticity.training.config.config_store import SECTIONS
from plasticity.training.config.settings import RunSettings
from plasticity.training.config.sweeps import SWEEP, sweeps_in
from plasticity.training.reports.specification import Figure, Normalise, Outcome, Published, ReportSettings, TableSpec
from plasticity.training.studies.specification import Branching, Source, StudySettings, Tune
from reference_pages.files import CONFIGS, Choice, choices
from reference_pages.markdown import card, code, escaped, settings_table, table

_STUDY: Final[Mapping[str, type]] = {"source": Source, "tune": Tune, "branch": Branching}
_REPORT: Final[Mapping[str, type]] = {
    "report": ReportSettings,
    "report.outcome, and each of report.also": Outcome,
    "report.outcome.normalise": Normalise,
    "report.figures": Figure,
    "report.tables": TableSpec,
    "report.published": Published,
}


def methods() -> str:
    """Returns the page of methods that have a file."""
    about = (
        "`method=<name>` chooses a bundle of interventions with their settings. Every "
        "[intervention](interventions.md) is also a method of its name, with its defaults."
    )
    return _files("method", "Methods", about)


def experiments() -> str:
    """Returns the page of experiments."""
    about = (
        "`experiment=<name>` chooses the settings of a paper or benchmark; words after it change them. "
        "Each says where it departs from its source."
    )
    return _files("experiment", "Experiments", about)


def sweeps() -> str:
    """Returns the table of lists of values."""
    comments = {name: " ".join(choice.comment) for name, choice in choices(SWEEP).items()}
    rows = [
        (code(f"@{name}"), code(sweep.setting), str(len(sweep.values)), escaped(comments[name]))
        for name, sweep in sweeps_in([CONFIGS]).items()
    ]
    return table(("list", "setting", "values", "what they are"), rows)


def run_settings() -> str:
    """Returns the page of the settings of a run that no kind has of its own."""
    parts = ["# Settings of a run", "Settings at the top of the config have no prefix.", "## Top", settings_table(RunSettings)]
    for section, cls in {"metrics": MetricsSettings, **SECTIONS}.items():
        parts += [f"## {section}", card(cls.__doc__), settings_table(cls, section=section)]
    return "\n\n".join(parts) + "\n"


def study_schema() -> str:
    """Returns the tables of a study's file, without what is reported."""
    return _schema({"top of the file": StudySettings, **_STUDY})


def report_schema() -> str:
    """Returns the tables of the section ``report`` of a study's file."""
    return _schema(_REPORT)


def _schema(classes: Mapping[str, type]) -> str:
    return "\n\n".join(f"### {name}\n\n{card(cls.__doc__)}\n\n{settings_table(cls)}" for name, cls in classes.items())


def _files(group: str, title: str, about: str) -> str:
    return "\n\n".join([f"# {title}", about, *(_section(choice) for choice in choices(group).values())]) + "\n"


def _section(choice: Choice) -> str:
    body = f"```yaml\n{choice.body}\n```" if choice.body else ""
    return "\n\n".join(filter(None, [f"## {choice.name}", *map(escaped, choice.comment), body]))
