"""What a reader must know before believing a comparison: what is missing, what is mixed, and how few runs there are."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from plasticity.training.reports.analysis.statistics import FEWEST, MANY, detectable_difference, smallest_p
from plasticity.training.reports.reading.branches import OF_A_BRANCH
from plasticity.training.reports.reading.groups import flat
from plasticity.training.reports.reading.records import TWIN, Record
from plasticity.training.saving.identity import LEFT_OUT

_SHOWN: Final = 8
_OF_A_RUN: Final = ("seed", "plugins", *LEFT_OUT, *OF_A_BRANCH)


def doubts(records: Sequence[Record], runs: pd.DataFrame, confounded: Sequence[str]) -> list[str]:
    """Returns warnings in sentences, the most serious first."""
    return [
        *_not_counted(runs),
        *_damaged(records, runs),
        *_other_settings(records, runs),
        *_mixed(records),
        *_else(records, runs, confounded),
        *_begun_elsewhere(runs),
        *_few(runs),
    ]


def machine_of(known: Mapping[str, Any], what: str) -> str:
    """Returns ``cpu``, ``capability``, ``threads`` or ``python`` of a provenance, "" if it is not known."""
    machine = known.get("machine")
    found = machine.get(what) if isinstance(machine, Mapping) else None
    return "" if found is None else str(found)


def revision_of(known: Mapping[str, Any]) -> str:
    """Returns the code of a run, ``1a2b3c4d5e+changes`` if its tree had changes, "" if not known."""
    revision = known.get("git_revision")
    return "" if not revision else f"{str(revision)[:10]}{'+changes' if known.get('uncommitted_changes') else ''}"


def _not_counted(runs: pd.DataFrame) -> list[str]:
    twice = runs["why_not"].str.startswith(TWIN)
    lost = runs[~runs["counted"] & ~twice]
    found = []
    if len(lost):
        told = [f"{_name(row)} ({row.why_not})" for row in lost.itertuples()]
        found.append(f"{len(lost)} of {int((~twice).sum())} runs do not count: {_some(told)}.")
    if twice.any():
        found.append(
            f"{int(twice.sum())} runs have the settings and seed of another one and count once: {_some(_names(runs[twice]))}."
        )
    found += _same_in_two_cells(runs)
    return found


def _same_in_two_cells(runs: pd.DataFrame) -> list[str]:
    counted = runs[runs["counted"] & (runs["identity"] != "")]
    shared = counted[counted.duplicated("identity", keep=False)]
    cells = sorted({f"{row.condition} / {row.method}" for row in shared.itertuples()})
    return [f"Runs of equal settings and seed are in different groups: {_some(cells)}."] if cells else []


def _damaged(records: Sequence[Record], runs: pd.DataFrame) -> list[str]:
    names = _names(runs)
    told = [f"{name}: {remark}" for name, record in zip(names, records, strict=True) for remark in record.remarks]
    return [f"Damaged files: {_some(told)}."] if told else []


def _other_settings(records: Sequence[Record], runs: pd.DataFrame) -> list[str]:
    """Names runs of a study that are not those that its file plans, and what differs between those of one method."""
    names = _names(runs)
    other = [
        name
        for name, record in zip(names, records, strict=True)
        if record.place.identity and record.identity not in ("", record.place.identity)
    ]
    found = [f"Runs with other settings or plugins than their study plans now: {_some(other)}."] if other else []
    cells: dict[tuple[str, str], list[Record]] = {}
    for record, row in zip(records, runs.itertuples(), strict=True):
        if row.counted and record.place.method is not None:
            cells.setdefault((str(row.condition), str(row.method)), []).append(record)
    told = [f"{condition} / {method}: {each}" for (condition, method), mine in cells.items() for each in _varying(mine)]
    return [*found, f"Settings that differ between runs of one method and condition: {_some(told)}."] if told else found


def _varying(records: Sequence[Record]) -> list[str]:
    """Returns the settings that differ between records, each with the seeds that have a value of it."""
    each = [flat(record.config) for record in records]
    found = []
    for key in dict.fromkeys(key for settings in each for key in settings):
        if key.partition(".")[0] in _OF_A_RUN or key in _OF_A_RUN:
            continue
        seeds: dict[str, list[str]] = {}
        for record, settings in zip(records, each, strict=True):
            seeds.setdefault(settings.get(key, "absent"), []).append(str(record.seed))
        if len(seeds) > 1:
            found.append(f"{key}={' and '.join(f'{value} (seed {_some(mine)})' for value, mine in seeds.items())}")
    return found


def _mixed(records: Sequence[Record]) -> list[str]:
    """Names every mixture that the last bits of numbers may depend on; a resumed run has more than one of each."""
    parts: list[Mapping[str, Any]] = []
    for record in records:
        if record.known:
            resumed = record.known.get("resumed")
            parts += [
                record.known,
                *(each for each in (resumed if isinstance(resumed, list) else []) if isinstance(each, Mapping)),
            ]
    sets = {
        "code revisions": [revision_of(known) or "not known" for known in parts],
        "processors": [machine_of(known, "cpu") for known in parts],
        "processor capabilities (not equal bit for bit)": [machine_of(known, "capability") for known in parts],
        "numbers of threads": [machine_of(known, "threads") for known in parts],
        "PyTorch versions": [str((known.get("packages") or {}).get("torch", "")) for known in parts],
    }
    found = [f"Mixed {what}: {_counts(values)}." for what, values in sets.items() if len(set(filter(None, values))) > 1]
    if any(revision_of(known).endswith("+changes") for known in parts):
        found.append("Some runs come from code with uncommitted changes.")
    return found + _mixed_files(parts)


def _mixed_files(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    digests: dict[str, set[str]] = {}
    for known in parts:
        entries = known.get("files")
        for place, digest in (entries if isinstance(entries, Mapping) else {}).items():
            digests.setdefault(str(place).rpartition("/")[2], set()).add(str(digest))
    told = [name for name, seen in digests.items() if len(seen) > 1]
    return [f"Files that runs were made with differ between them: {_some(told)}."] if told else []


def _else(records: Sequence[Record], runs: pd.DataFrame, confounded: Sequence[str]) -> list[str]:
    if not confounded:
        return []
    return [f"Other differences between runs, beyond the methods' own settings: {_some(list(confounded))}."]


def _begun_elsewhere(runs: pd.DataFrame) -> list[str]:
    """Returns a warning about outcomes where branches are compared with runs from the start, outside a study."""
    branches = runs["moment"].notna()
    if branches.all() or not (branches & (runs["remedy"] == "")).any():
        return []
    return ["The outcome of a branch is over its own steps, the outcome of the other runs over all steps."]


def _few(runs: pd.DataFrame) -> list[str]:
    counted = runs[runs["counted"]]
    branches = counted["remedy"] != ""  # of which the repeats of one parent count once
    units = pd.concat([counted[~branches], counted[branches].drop_duplicates(["condition", "method", "seed"])])
    counts = units.groupby(["condition", "method"]).size()
    if not len(counts) or counts.min() >= MANY:
        return []
    n = int(counts.min())
    if n < FEWEST:
        where = [f"{condition} / {method}" for (condition, method), count in counts.items() if count < FEWEST]
        return [f"Fewer than {FEWEST} runs, so no interval and no bold: {_some(where)}."]
    times = detectable_difference(1.0, n)
    units_are = "parents" if branches.any() else "seeds"
    said = (
        f"Few {units_are} (n = {n}): means and Student's t intervals; a difference of {times:.2f} standard deviations of paired"
    )
    ranks = f"; Wilcoxon's p cannot be below {smallest_p(n):.4g}, so no p of ranks is printed" if smallest_p(n) > 0.05 else ""
    return [f"{said} differences is found with 80 % power{ranks}."]


def _name(row: Any) -> str:
    seed = "" if pd.isna(row.seed) else f" seed {row.seed}"
    seed += f" repeat {row.repeat}" if not pd.isna(row.repeat) and row.repeat else ""
    known = row.method != "?"
    return f"{row.condition} / {row.method}{seed}" if known else str(row.folder).rpartition("/")[2]


def _names(runs: pd.DataFrame) -> list[str]:
    return [_name(row) for row in runs.itertuples()]


def _counts(values: Sequence[str]) -> str:
    counts = {value: values.count(value) for value in dict.fromkeys(filter(None, values))}
    return _some([f"{value} ({count})" for value, count in counts.items()])


def _some(told: Sequence[str]) -> str:
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return ", ".join(told[:_SHOWN]) + more
