"""All records as two tables: one row for each run, and one for each value."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from plasticity.training.reports.reading.branches import parent_of
from plasticity.training.reports.reading.doubts import machine_of, revision_of
from plasticity.training.reports.reading.records import TWIN, Record, number_of


def runs_table(records: Sequence[Record], conditions: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """Returns one row for each record, as ``Comparison.runs``, without the columns that need all records together."""
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
                "moment": record.moment,
                "remedy": record.place.remedy,
                "repeat": record.repeat,
                "parent": parent_of(record),
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
    whole = dict.fromkeys(("seed", "step", "steps", "moment", "repeat"), "Int64")
    return runs.astype({**whole, "counted": bool})


def _reasons(records: Sequence[Record], conditions: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Returns why each run does not enter the statistics, "" if it does: of equal runs in a group only one counts."""
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


def values_table(records: Sequence[Record]) -> pd.DataFrame:
    """Returns all tables as one; those of the records are released, so that memory holds the table once and a half."""
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
