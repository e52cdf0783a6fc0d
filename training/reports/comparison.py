"""Everything that a report shows, read from the folders of runs: what was compared with what, and what was measured.

Only files are read: ``config.yaml``, ``provenance.json``, ``status.json`` if there is one, ``metrics.csv``, ``grid.csv``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from plasticity.settings.naming import did_you_mean
from plasticity.training.reports.reading.doubts import doubts, machine_of, revision_of
from plasticity.training.reports.reading.folders import Place, find_runs, study_of
from plasticity.training.reports.reading.groups import MAIN, NONE, base_method, flat, group
from plasticity.training.reports.reading.records import TWIN, Record, number_of, read_record
from plasticity.training.reports.reading.structures import structures
from plasticity.training.reports.reading.tuning import LOST, Tuning, read_tuning
from plasticity.training.reports.specification import Outcome, ReportSettings, report_settings
from plasticity.training.saving.identity import LEFT_OUT

_NOT_SHOWN: Final = ("seed", *LEFT_OUT)


@dataclass(frozen=True)
class Comparison:
    """Runs in groups.

    Attributes:
        title: Of the page.
        about: A sentence or two under it, or "".
        name: Of the study or folder; seeds the generators of resampling.
        runs: One row for each run folder. The index ``run`` counts from 0. Columns: ``folder`` (str), ``condition`` (str),
            ``method`` (str), ``seed`` (nullable int), ``state`` (``finished``, ``running``, ``stopped``, ``failed``,
            ``missing`` or ``unreadable``), ``step`` and ``steps`` (nullable int: reached and planned), ``cpu_seconds``
            and ``peak_memory_bytes`` (float, NaN if not known), ``revision``, ``machine``, ``capability``, ``threads`` (str, ""
            if not known), ``words`` (the line that repeats it), ``identity`` (SHA-256 of the settings, "" if not known),
            ``structure`` (str: equal for networks of the same layers as far as known, see ``structures``),
            ``error`` (str), ``counted`` (bool: enters the statistics), ``why_not`` (str: why it does not).
        values: The tidy table: ``run`` (int), ``step`` (int), ``task`` (nullable int: the task that a row belongs to, missing
            if the stream has none), ``name`` (categorical), ``value`` (float64).
        settings: Settings that vary: run by flat name, values as text; "" where a run has none of that name.
        conditions: Names in their order; ``["main"]`` if nothing varies besides method and seed.
        methods: Names in their order, the baseline first.
        baseline: The method that the others are compared with.
        spec: What is shown; its outcome is never None.
        warnings: In sentences: missing, failed, mixed code or machine, few seeds, what else differs.
        notes: In sentences: what was chosen for the reader because no study says it, such as the outcome.
        config: Settings that all runs share, by flat name, values as text.
        tuning: What the study chose before, None if it did not.
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
        spec: What to show; None for what a study's file says, and of runs without a study what they have measured.
        names: ``title``, ``about``, ``name`` or ``baseline``, where another is wanted than the study's.

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
    studied, study = next(((folder, each) for folder in folders if (each := study_of(folder)) is not None), (Path(), {}))
    tuning = read_tuning(studied, study) if study.get("tune") else None
    searched = [LOST] if study.get("tune") and tuning is None else tuning.warnings if tuning is not None else []
    found = group(records)
    runs = _runs(records, found.conditions, found.methods).assign(structure=structures(records))
    values = _values(records)
    notes: list[str] = []
    spec = spec or report_settings(study.get("report") or {})
    if spec.outcome is None:
        spec, note = _with_outcome(spec, runs, values)
        notes.append(note)
    methods = _ordered(runs["method"], study.get("methods"))
    baseline = _baseline(names.get("baseline") or study.get("baseline"), methods, runs, records, notes)
    settings, config = _settings(records)
    name = names.get("name") or str(study.get("name") or folders[0].resolve().name)
    return Comparison(
        title=names.get("title") or str(study.get("title") or name),
        about=names.get("about") or str(study.get("about") or ""),
        name=name,
        runs=runs,
        values=values,
        settings=settings,
        conditions=_ordered(runs["condition"], study.get("conditions")),
        methods=[baseline, *(method for method in methods if method != baseline)],
        baseline=baseline,
        spec=spec,
        warnings=[*doubts(records, runs, found.confounded), *searched],
        notes=notes,
        config=config,
        tuning=tuning,
    )


def _runs(records: Sequence[Record], conditions: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    rows = []
    reasons = _reasons(records, conditions, methods)
    for record, condition, method, why in zip(records, conditions, methods, reasons, strict=True):
        known, status = record.known, record.status
        rows.append(
            {
                "folder": str(record.folder),
                "condition": condition,
                "method": method,
                "seed": record.seed,
                "state": record.state,
                "step": record.step,
                "steps": record.steps,
                "cpu_seconds": number_of(status.get("cpu_seconds")),
                "peak_memory_bytes": number_of(status.get("peak_memory_bytes")),
                "revision": revision_of(known),
                "machine": machine_of(known, "cpu"),
                "capability": machine_of(known, "capability"),
                "threads": machine_of(known, "threads"),
                "words": record.words,
                "identity": record.identity,
                "error": "; ".join(filter(None, [record.error, *record.remarks])),
                "counted": not why,
                "why_not": why,
            }
        )
    runs = pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="run"))
    return runs.astype({"seed": "Int64", "step": "Int64", "steps": "Int64", "counted": bool})


def _reasons(records: Sequence[Record], conditions: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Returns why each run does not enter the statistics, "" if it does: of equal runs in a group one stands for all."""
    reasons = []
    stands: dict[tuple[str, str, str], int] = {}
    cells = [(condition, method, record.identity) for condition, method, record in zip(conditions, methods, records, strict=True)]
    for number in sorted(range(len(records)), key=lambda number: records[number].state != "finished"):
        stands.setdefault(cells[number], number)
    for number, (cell, record) in enumerate(zip(cells, records, strict=True)):
        own = "" if record.state == "finished" else f"{record.state}: {record.error}" if record.error else record.state
        own = own if record.place.planned else "the study does not plan it"
        twin = bool(record.identity) and stands[cell] != number
        reasons.append(f"{TWIN} {records[stands[cell]].folder}" if twin else own)
    return reasons


def _values(records: Sequence[Record]) -> pd.DataFrame:
    """Returns all tables as one; those of the records are let go, so that memory holds the table once and a half."""
    tables = {number: record.table for number, record in enumerate(records) if record.table is not None and len(record.table)}
    for record in records:
        record.table = None
    if not tables:
        kinds = {"run": np.int32, "step": np.int64, "task": "Int32", "name": "category", "value": np.float64}
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    parts = list(tables.values())
    lengths = [len(table) for table in parts]
    return pd.DataFrame(
        {
            "run": np.repeat(np.fromiter(tables, np.int32), lengths),
            "step": np.concatenate([table["step"].to_numpy() for table in parts]),
            "task": pd.concat([table["task"] for table in parts], ignore_index=True),
            "name": union_categoricals([table["name"] for table in parts]),
            "value": np.concatenate([table["value"].to_numpy() for table in parts]),
        }
    )


def _with_outcome(spec: ReportSettings, runs: pd.DataFrame, values: pd.DataFrame) -> tuple[ReportSettings, str]:
    """Chooses what most tells how well a run went: of tasks, then of evaluations, then of training; in most of the runs."""
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
            note = f"The outcome is {name}, its mean over the run ({better} is better): chosen by what was measured."
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
        if records[int(number)].config and base_method(records[int(number)]) == NONE
    ]
    chosen = NONE if NONE in methods else plain[0] if plain else methods[0]
    if len(methods) > 1:
        notes.append(f"The others are compared with {chosen}; baseline= names another.")
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
