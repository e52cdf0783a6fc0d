"""A study's file: which runs are compared, under which conditions, on which seeds, and what is reported of them."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from plasticity.settings.fields import Settings, setting
from plasticity.training.reports.specification import Outcome, ReportSettings


@dataclass
class Source(Settings):
    """The part of a paper that a study repeats."""

    section: ClassVar[str] = "source"

    paper: str = setting("", "The paper.")
    items: list[str] = setting([], "Its figures and tables.")


@dataclass
class Tune(Settings):
    """Settings that are chosen for each method and condition before the comparison, with the same budget for every method."""

    section: ClassVar[str] = "tune"

    seeds: list[int] = setting([], "Seeds of the search, none of which is reported.", low=0)
    steps: int = setting(1, "Steps of each of its runs.", low=1)
    value: Outcome | None = setting(None, "What is compared, an outcome as in ``report:``; the mean over the seeds counts.")
    grid: dict[str, dict[str, list[Any]]] = setting({}, "Method: setting: the values that are tried.")


@dataclass
class Branching(Settings):
    """How the runs of a study continue from some of their checkpoints, with each of several remedies."""

    section: ClassVar[str] = "branch"

    at: list[int] = setting([], "Steps of the runs from which branches start: the moments.", low=1)
    steps: int = setting(1, "Steps of each branch.", low=1)
    repeats: int = setting(
        1, "Branches of each run, moment and remedy: the first has the run's random numbers, each other one its own.", low=1
    )
    common: list[str] = setting([], "Words of every branch: the change that needs plasticity.")
    remedies: dict[str, list[str]] = setting({}, "Words of each remedy; null is [method=<name>], and [] changes nothing.")
    measure: list[str] = setting(
        ["default"], "Metrics of each network where a branch starts, before anything acts; ``probe`` may be among them."
    )


@dataclass
class StudySettings(Settings):
    """A study."""

    section: ClassVar[str] = ""

    name: str = setting("", "Lower-case letters, digits and underscores; the name of the file.")
    title: str = setting("", "On the page.")
    about: str = setting("", "On the page, a sentence or two.")
    source: Source | None = setting(None, "The part of a paper that it repeats.")
    needs: list[str] = setting([], "Data files that the runs read.")
    common: list[str] = setting([], "Words of every run.")
    steps: int | None = setting(None, "Steps of every run; None for those of the experiment.", low=1)
    seeds: list[int] = setting([0, 1, 2, 3, 4], "Seeds, or a number n for 0 to n - 1.", low=0)
    conditions: dict[str, list[str]] = setting(
        {"main": []},
        "Words of each condition; or, in a file, one text such as ``env.game=@atari_57`` for a condition of each value.",
    )
    methods: dict[str, list[str]] = setting({}, "Words of each method; null is [method=<name>].")
    leave_out: list[tuple[str, str]] = setting([], "Pairs of condition and method that are not run.")
    baseline: str = setting(
        "",
        "The method that the others are compared with; the first if it is left out. In a study of branches the remedy; the first "
        "that changes nothing if it is left out.",
    )
    tune: Tune | None = setting(None, "What is chosen before the comparison.")
    branch: Branching | None = setting(None, "Branches of its runs; they are then what is reported.")
    short: dict[str, Any] = setting({}, "Keys that ``short=true`` replaces.")
    report: ReportSettings = field(default_factory=ReportSettings)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Condition and method of all cells that are run."""
        left_out = set(self.leave_out)
        return [(each, method) for each in self.conditions for method in self.methods if (each, method) not in left_out]
