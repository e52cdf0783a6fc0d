"""What a study chose before its comparison: ``tuning/chosen.csv``, which has all settings that were tried."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plasticity.training.reports.reading.folders import TUNING

TABLE: Final = "chosen.csv"
COLUMNS: Final = ("condition", "method", "settings", "finished", "of", "outcome", "chosen", "edge")
LOST: Final = f"The study tunes, but {TUNING}/{TABLE}, which lists what was chosen, is missing or damaged."
_SHOWN: Final = 8


@dataclass(frozen=True)
class Tried:
    """Settings of a method that were tried in a condition.

    Attributes:
        condition: Name.
        method: Name.
        settings: Words that set them.
        finished: Runs that finished, one a seed.
        of: Runs that were started.
        value: Mean outcome over the seeds, NaN unless all of them have one.
        chosen: Whether the comparison has them.
        edge: Which of them lie at the end of what was tried, with the end; "" if none do, or if they were not chosen.
    """

    condition: str
    method: str
    settings: str
    finished: int
    of: int
    value: float
    chosen: bool
    edge: str


@dataclass(frozen=True)
class Tuning:
    """The search of a study.

    Attributes:
        tried: In the order in which it was tried.
        about: On what it was chosen, in sentences.
    """

    tried: list[Tried]
    about: str

    @property
    def warnings(self) -> list[str]:
        """Sentences that name what was chosen at the end of what was tried, where a better value may lie beyond."""
        told = [f"{each.condition} / {each.method} {each.edge}" for each in self.tried if each.edge]
        more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        said = f"Chosen at the edge of what was tried, beyond which a better value may lie: {', '.join(told[:_SHOWN])}{more}."
        return [said] if told else []


def read_tuning(folder: Path, study: Mapping[str, Any]) -> Tuning | None:
    """Returns what a study's folder holds about its tuning; None if it has tuned nothing, or the table cannot be read.

    Args:
        folder: Of the study.
        study: What its ``study.yaml`` holds.
    """
    try:
        with (folder / TUNING / TABLE).open(newline="", encoding="utf-8") as file:
            tried = [_tried(row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError):
        return None
    return Tuning(tried, _about(study, {each.method for each in tried})) if tried else None


def _tried(row: Mapping[str, str]) -> Tried:
    value = float(row["outcome"] or math.nan)
    counts = int(row["finished"]), int(row["of"])
    return Tried(row["condition"], row["method"], row["settings"], *counts, value, row["chosen"] == "yes", row["edge"])


def _about(study: Mapping[str, Any], tuned: set[str]) -> str:
    tune = study.get("tune")
    tune = tune if isinstance(tune, Mapping) else {}
    value = tune.get("value")
    named: Mapping[str, Any] = value if isinstance(value, Mapping) else {"value": value or "the outcome"}
    seeds = tune.get("seeds") if isinstance(tune.get("seeds"), list) else []
    told = f"{named.get('label') or named.get('value')}, mean over seeds ({named.get('better', 'higher')} is better)"
    on = f", on seeds {', '.join(map(str, seeds))}, which are not reported" if seeds else ""
    steps = f", in {tune['steps']} steps a run" if tune.get("steps") else ""
    methods = study.get("methods")
    rest = [str(name) for name in methods if str(name) not in tuned] if isinstance(methods, Mapping) else []
    return f"By {told}{on}{steps}." + (f" Not tuned: {', '.join(rest)}." if rest else "")
