"""A study of branches as a comparison: its remedies are the methods, its moments the conditions, its parents the seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plasticity.training.reports.reading.records import Record

TRUNK: Final = "trunk"  # name of the runs that branches start from, in place of a moment
FRESH: Final = "fresh"  # name of the remedy that shows what a new network reaches
_OF_A_BRANCH: Final = ("run", "step", "checkpoint_sha256", "repeat", "drop", "measure")
OF_A_BRANCH: Final = tuple(
    f"branch.{key}" for key in _OF_A_BRANCH
)  # settings for where a branch starts; what it does is among the others


@dataclass(frozen=True)
class Moment:
    """A moment at which branches start.

    Attributes:
        group: Whose moment: the condition and method of the trunks, as far as they vary; "" if there is one of each.
        trunk: Condition and method of the trunks, as the table of runs has them.
        step: Of the trunk.
        condition: Of the trunks, as the study has it.
    """

    group: str
    trunk: tuple[str, str]
    step: int
    condition: str

    @property
    def name(self) -> str:
        """What the page calls it."""
        return f"{self.group}: step {self.step:,}" if self.group else f"step {self.step:,}"


@dataclass(frozen=True)
class Branches:
    """The branches of a study.

    Attributes:
        moments: By name, those of one group after another, in the order of their steps.
        remedies: Names, as the study has them.
        unchanged: The first remedy without words, "" if there is none.
    """

    moments: dict[str, Moment]
    remedies: list[str]
    unchanged: str

    @property
    def groups(self) -> dict[str, list[str]]:
        """Names of the moments of each group of trunks, in the order of their steps."""
        found: dict[str, list[str]] = {}
        for name, moment in self.moments.items():
            found.setdefault(moment.group, []).append(name)
        return found

    def named(self, names: Sequence[str]) -> list[str]:
        """Returns names of moments for those of conditions or groups of trunks, which stand for all of theirs; others stay."""
        found = []
        for name in names:
            own = [key for key, moment in self.moments.items() if name in (key, moment.group, moment.condition)]
            found += own or [name]
        return list(dict.fromkeys(found))


def branches_of(records: Sequence[Record], study: Mapping[str, Any]) -> tuple[Branches | None, list[str], list[str]]:
    """Returns the branches of a study, and for each record the names of its moment and remedy.

    Those of a trunk are ``trunk``, with its condition if there are several, and its method. None and two empty lists are returned
    where no record is a branch of a study.

    Args:
        records: Of all runs.
        study: What ``study.yaml`` holds.
    """
    own = [record for record in records if record.place.moment is not None]
    if not own:
        return None, [], []
    places = _in_order([record.place.condition or "" for record in own], study.get("conditions"))
    methods = _in_order([record.place.method or "" for record in own], study.get("methods"))
    moments = {_key(record): _moment(record, len(places) > 1, len(methods) > 1) for record in own}
    ordered = sorted(moments, key=lambda key: (places.index(key[0]), methods.index(key[1]), key[2]))
    said = study.get("branch")
    planned = said.get("remedies") if isinstance(said, Mapping) else {}
    planned = planned if isinstance(planned, Mapping) else {}
    remedies = _in_order([record.place.remedy for record in own], planned)
    unchanged = next((name for name in remedies if planned.get(name, "") == []), "")
    branches = Branches({moments[key].name: moments[key] for key in ordered}, remedies, unchanged)
    conditions, names = [], []
    for record in records:
        branch = record.place.moment is not None
        conditions.append(moments[_key(record)].name if branch else _trunk(record, len(places) > 1))
        names.append(record.place.remedy if branch else record.place.method or TRUNK)
    return branches, conditions, names


def parent_of(record: Record) -> str:
    """Returns the folder of the run that a run starts from, "" for one that is no branch."""
    parent = record.parent
    return "" if parent is None else str(Path(parent).resolve())


def _key(record: Record) -> tuple[str, str, int]:
    assert record.place.moment is not None
    return record.place.condition or "", record.place.method or "", record.place.moment


def _moment(record: Record, several_conditions: bool, several_methods: bool) -> Moment:
    condition, method, step = _key(record)
    parts = [condition] * several_conditions + [method] * several_methods
    return Moment(" / ".join(parts), (_trunk(record, several_conditions), method), step, condition)


def _trunk(record: Record, several_conditions: bool) -> str:
    return f"{TRUNK} {record.place.condition}" if several_conditions else TRUNK


def _in_order(found: Sequence[str], planned: Any) -> list[str]:
    """Returns names, each once, as a study has them and then as they were found."""
    first = [str(name) for name in planned if str(name) in found] if isinstance(planned, Mapping) else []
    return list(dict.fromkeys([*first, *found]))
