"""Everything that a report shows, read from the folders of runs: what was compared with what, and what was measured.

Only files are read: ``config.yaml``, ``provenance.json``, ``status.json`` if there is one, ``metrics.csv``, ``grid.csv``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from plasticity.settings.naming import did_you_mean
from plasticity.training.reports.reading.branches import OF_A_BRANCH, Branches, branches_of
from plasticity.training.reports.reading.doubts import doubts
from plasticity.training.reports.reading.folders import Place, find_runs, study_of
from plasticity.training.reports.reading.groups import MAIN, NONE, base_method, flat, group
from plasticity.training.reports.reading.records import Record, read_record
from plasticity.training.reports.reading.structures import structures
from plasticity.training.reports.reading.tables import runs_table, values_table
from plasticity.training.reports.reading.tuning import LOST, Tuning, read_tuning
from plasticity.training.reports.specification import Outcome, ReportSettings, report_settings
from plasticity.training.saving.identity import LEFT_OUT

_NOT_SHOWN: Final = ("seed", *LEFT_OUT, *OF_A_BRANCH)


@dataclass(frozen=True)
class Terms:
    """What a page calls the things that it compares.

    Attributes:
        condition: Under which methods are compared.
        method: What is compared.
        methods: Several of them.
        seed: What pairs have in common.
        units: What has one outcome in a condition with a method.
    """

    condition: str = "condition"
    method: str = "method"
    methods: str = "methods"
    seed: str = "seed"
    units: str = "runs"


_OF_BRANCHES: Final = Terms("moment", "remedy", "remedies", "parent", "parents")


@dataclass(frozen=True)
class Comparison:
    """Runs in groups.

    Attributes:
        title: Of the page.
        about: A sentence or two under it, or "".
        name: Of the study or folder; seeds the generators of resampling.
        runs: One row for each run folder. The index ``run`` counts from 0. Columns: ``folder`` (str), ``condition`` (str),
            ``method`` (str), ``seed`` (nullable int), ``moment`` (nullable int: step at which a branch starts), ``remedy`` (str:
            of a study's branch, else ""), ``repeat`` (nullable int: of a branch), ``parent`` (str: folder of the run that it
            starts from, otherwise ""), ``state`` (``finished``, ``running``, ``stopped``, ``failed``, ``missing`` or
            ``unreadable``), ``step`` and ``steps`` (nullable int: reached and planned), ``cpu_seconds`` and ``peak_memory_bytes``
            (float, NaN if not known), ``revision``, ``machine``, ``capability``, ``threads`` (str, "" if not known), ``words``
            (the line that repeats it), ``identity`` (SHA-256 of the settings, "" if not known), ``structure`` (str: equal for
            networks of the same layers as far as known, see ``structures``), ``error`` (str), ``counted`` (bool: enters the
            statistics), ``why_not`` (str: why it does not).
        values: The tidy table: ``run`` (int), ``step`` (int), ``task`` (nullable int: the task that a row belongs to, missing
            if the stream has none), ``name`` (categorical), ``value`` (float64).
        settings: Settings that vary: run by flat name, values as text; "" where a run has none of that name.
        conditions: Names in their order; ``["main"]`` if nothing varies besides method and seed.
        methods: Names in their order, the baseline first.
        baseline: The method that the others are compared with.
        spec: What is shown; its outcome is never None.
        warnings: In sentences: missing, failed, mixed code or machine, few seeds, other differences.
        notes: In sentences: what was chosen automatically because no study sets it, such as the outcome.
        config: Settings that all runs share, by flat name, values as text.
        tuning: What the study chose before, None if it did not.
        branches: Those of a study of branches, None for any other comparison. Then its moments are the conditions, its remedies
            the methods and its parents the seeds; the trunks are in groups of their own, which are neither among the conditions
            nor the methods.
    """

    title: str
    about: str
    name: str
    runs: pd.DataFrame
    values: pd.DataFrame
    settings: pd.DataFrame
    conditions: list[str]
    methods: list[str]
    baseline: str
    spec: ReportSettings
    warnings: list[str]
    notes: list[str] = field(default_factory=list)
    config: dict[str, str] = field(default_factory=dict)
    tuning: Tuning | None = None
    branches: Branches | None = None

    @property
    def terms(self) -> Terms:
        """What the page calls the things that it compares."""
        return Terms() if self.branches is None else _OF_BRANCHES

    @property
    def outcome(self) -> Outcome:
        """The one number of a run."""
        if self.spec.outcome is None:
            raise ValueError("report.outcome is missing")
        return self.spec.outcome

    def cell(self, condition: str, method: str, *, counted: bool = True) -> pd.DataFrame:
        """Returns the rows of ``runs`` of one method in one condition, those that count or all."""
        rows = self.runs[(self.runs["condition"] == condition) & (self.runs["method"] == method)]
        return rows[rows["counted"]] if counted else rows

    def folder_of(self, run: int) -> Path:
        """Returns the folder of a run."""
        return Path(self.runs.loc[run, "folder"])


def read_comparison(folders: Sequence[Path], spec: ReportSettings | None = None, **names: str) -> Comparison:
    """Reads the runs in folders: grids, studies, single runs, and folders that hold any of them.

    Args:
        folders: Given twice or one in another, a run is read once.
        spec: What to show; None for what a study's file sets, and for runs without a study, what they have measured.
        names: ``title``, ``about``, ``name`` or ``baseline``, to replace that of the study.

    Raises:
        ValueError: In one line, if a folder is missing or holds no run, a study's file is wrong, or the baseline is no method.
    """
    for key in names:
        if key not in ("title", "about", "name", "baseline"):
            raise ValueError(f"{key} is unknown{did_you_mean(key, ('title', 'about', 'name', 'baseline'))}")
    places: dict[Path, Place] = {}
    for place in (place for folder in folders for place in find_runs(folder)):
        known = places.setdefault(place.folder.resolve(), place)
        if known.method is None and place.method is not None:  # given alone, and in its study
            places[place.folder.resolve()] = place
    records = [read_record(place) for place in places.values()]
    study, tuning, searched = _study(folders)
    found = group(records)
    branches, conditions, methods = branches_of(records, study)
    conditions, methods = conditions or found.conditions, methods or found.methods
    runs = runs_table(records, conditions, methods).assign(structure=structures(records))
    values = values_table(records)
    notes: list[str] = []
    spec = spec or report_settings(study.get("report") or {})
    if spec.outcome is None:
        spec, note = _with_outcome(spec, runs, values)
        notes.append(note)
    methods = branches.remedies if branches is not None else _ordered(runs["method"], study.get("methods"))
    unchanged = "" if branches is None else branches.unchanged
    baseline = _baseline(names.get("baseline") or study.get("baseline") or unchanged, methods, runs, records, notes)
    settings, config = _settings(records)
    name = names.get("name") or str(study.get("name") or folders[0].resolve().name)
    return Comparison(
        title=names.get("title") or str(study.get("title") or name),
        about=names.get("about") or str(study.get("about") or ""),
        name=name,
        runs=runs,
        values=values,
        settings=settings,
        conditions=[*branches.moments] if branches is not None else _ordered(runs["condition"], study.get("conditions")),
        methods=[baseline, *(method for method in methods if method != baseline)],
        baseline=baseline,
        spec=spec,
        warnings=[*doubts(records, runs, found.confounded), *searched],
        notes=notes,
        config=config,
        tuning=tuning,
        branches=branches,
    )


def _study(folders: Sequence[Path]) -> tuple[dict[str, Any], Tuning | None, list[str]]:
    """Returns the content of the first study's file, its earlier choices, and warnings about these; nothing without a study."""
    studied, study = next(((folder, each) for folder in folders if (each := study_of(folder)) is not None), (Path(), {}))
    tuning = read_tuning(studied, study) if study.get("tune") else None
    searched = [LOST] if study.get("tune") and tuning is None else tuning.warnings if tuning is not None else []
    return study, tuning, searched


def _with_outcome(spec: ReportSettings, runs: pd.DataFrame, values: pd.DataFrame) -> tuple[ReportSettings, str]:
    """Chooses the value that best shows how well runs went: of tasks, then of evaluations, then of training; in most runs."""
    ranked = (
        ("task/online_accuracy", "higher", "task"),
        ("task/test_accuracy", "higher", "task"),
        ("task/online_loss", "lower", "task"),
        ("eval/return", "higher", "step"),
        ("rollout/return", "higher", "step"),
        ("online/accuracy", "higher", "step"),
        ("online/loss", "lower", "step"),
        ("train/loss", "lower", "step"),
    )
    known = values[values["value"].notna()]
    among = known.groupby("name", observed=True)["run"].nunique()
    most = max((int(among.get(name, 0)) for name, _, _ in ranked), default=0)
    for name, better, by in ranked:
        if most and int(among.get(name, 0)) == most:
            chosen = Outcome(value=name, better=better, by=by)
            note = f"The outcome is {name}, its mean over the run ({better} is better): chosen from what was measured."
            return _replaced(spec, chosen), note
    fallback = Outcome(value="rollout/return")
    return _replaced(spec, fallback), "No run has measured an outcome: neither accuracy, nor loss, nor return."


def _replaced(spec: ReportSettings, outcome: Outcome) -> ReportSettings:
    return ReportSettings(outcome, spec.also, spec.figures, spec.tables, spec.published)


def _ordered(found: pd.Series, planned: Any) -> list[str]:
    """Returns names in the order of a study, then as the runs have them; what cannot be placed comes last."""
    there = list(dict.fromkeys(found))
    first = [str(name) for name in planned if str(name) in there] if isinstance(planned, Mapping) else []
    rest = [name for name in there if name not in first and name != "?"]
    return [*first, *rest, *(["?"] if "?" in there and (first or rest) else [])] or there or [MAIN]


def _baseline(wanted: object, methods: Sequence[str], runs: pd.DataFrame, records: Sequence[Record], notes: list[str]) -> str:
    if wanted:
        if str(wanted) not in methods:
            raise ValueError(
                f"baseline={wanted} is unknown{did_you_mean(str(wanted), methods)}; choose from {', '.join(methods)}"
            )
        return str(wanted)
    plain = [
        method
        for number, method in runs["method"].items()
        if method in methods and records[int(number)].config and base_method(records[int(number)]) == NONE
    ]
    branches = [
        method for method in dict.fromkeys(plain) if runs.loc[runs["method"] == method, "moment"].notna().all()
    ]  # as their parents do
    chosen = NONE if NONE in methods else [*branches, *plain, *methods][0]
    if len(methods) > 1:
        notes.append(f"The others are compared with {chosen}; baseline= chooses another.")
    return chosen


def _settings(records: Sequence[Record]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns the settings that vary, and those that all runs share."""
    each = [flat(record.config) for record in records]
    known = [settings for settings in each if settings]
    found = dict.fromkeys(key for settings in known for key in settings)
    names = [name for name in found if name not in _NOT_SHOWN and name.partition(".")[0] not in _NOT_SHOWN]
    varying = [name for name in names if len({settings.get(name, "") for settings in known}) > 1]
    table = pd.DataFrame(
        {name: [settings.get(name, "") for settings in each] for name in varying}, index=pd.RangeIndex(len(each), name="run")
    )
    return table, {name: known[0][name] for name in names if name not in varying}
