"""Everything that a report shows, read from the folders of runs: who was compared with whom, and what was measured.

Only files are read: ``config.yaml``, ``provenance.json``, ``status.json`` if there is one, ``metrics.csv``, ``grid.csv``.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from plasticity.training.reports.specification import Outcome, ReportSettings


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
