"""Groups of runs, found from what varies.

The method is which interventions there are and how they are set, the condition is all other settings that vary, and the seed is
the seed.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from plasticity.training.reports.reading.records import Record
from plasticity.training.saving.identity import LEFT_OUT

NONE: Final = "none"
MAIN: Final = "main"
UNKNOWN: Final = "?"  # for runs about which nothing more is known
_MEASURING: Final = (
    "metrics",
    "probe",
    "evaluation",
    "task_evaluation",
    "log_every_steps",
    "compile",
    "capture",
    "channels_last",
)
_NO_GROUP: Final = (*LEFT_OUT, "seed", "plugins", "branch")
_METHOD: Final = "method"
_MOMENT: Final = "branch.step"
_ABSENT: Final = ""


@dataclass(frozen=True)
class Groups:
    """Which group each record is in.

    Attributes:
        conditions: By record.
        methods: By record.
        confounded: Settings that differ between methods, and not within one, beyond the methods' own.
    """

    conditions: list[str]
    methods: list[str]
    confounded: list[str]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns settings by dotted name, values as text as YAML would write them in one line."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value_text(value)
    return found


def value_text(value: Any) -> str:
    """Returns ``[relu,tanh]``, ``0.001``, ``true``, ``null``: a value as the command line takes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(value_text(each) for each in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {value_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def group(records: Sequence[Record]) -> Groups:
    """Returns the groups of records; what a study's folders state about a record is kept."""
    free = [number for number, record in enumerate(records) if record.place.method is None and record.config]
    conditions = [record.place.condition or "" for record in records]
    methods = [record.place.method or "" for record in records]
    settings = [flat(records[number].config) for number in free]
    bases = _bases([records[number] for number in free])
    typed = [_typed(records[number]) for number in free]
    found = _methods(settings, bases, typed)
    length = [] if any(records[number].moment is not None for number in free) else ["steps"]  # a branch has another
    rest = [_rest(each, measuring=False, kept=length) for each in settings]
    if _collide(found, rest, records, free):
        found = _methods(settings, bases, typed, moments=True)
    if _collide(found, rest, records, free):
        rest = [_rest(each, measuring=True) for each in settings]
    began = [f"{base} {records[number].moment}" for base, number in zip(bases, free, strict=True)]
    kept = {key for key in _varying(rest) if _varies_within(key, rest, began)}
    confounded = sorted(key for key in _varying([_rest(each, measuring=True) for each in settings]) if key not in kept)
    narrow = [{key: value for key, value in each.items() if key in kept} for each in rest]
    choices = [{key: value for key, value in records[number].choices.items() if key != _METHOD} for number in free]
    labels = _names(narrow, narrow, [""] * len(free), typed, choices)
    for number, condition, method in zip(free, labels, found, strict=True):
        conditions[number], methods[number] = condition or MAIN, method
    _place_the_unread(records, conditions, methods)
    return Groups(conditions, methods, confounded)


def base_method(record: Record) -> str:
    """Returns the names of a run's interventions in their order, ``none`` without any."""
    return "+".join(map(str, record.config.get("interventions") or {})) or NONE


def _bases(records: Sequence[Record]) -> list[str]:
    """Returns the chosen method of each, or its interventions if not all of them have chosen one by name."""
    chosen = [record.choices.get(_METHOD, "") for record in records]
    return chosen if all(chosen) else [name or base_method(record) for name, record in zip(chosen, records, strict=True)]


def _methods(
    settings: Sequence[Mapping[str, str]], bases: Sequence[str], typed: Sequence[Sequence[str]], *, moments: bool = False
) -> list[str]:
    """Returns names of methods with those of their settings that vary; if requested, with the step at which branches start."""
    keys = ("interventions", _MOMENT) if moments else ("interventions",)
    own = [{key: value for key, value in each.items() if _within(key, keys)} for each in settings]
    labels = _names(own, settings, bases, typed)
    return [f"{base} ({label})" if label else base for base, label in zip(bases, labels, strict=True)]


def _rest(settings: Mapping[str, str], *, measuring: bool, kept: Sequence[str] = ("steps",)) -> dict[str, str]:
    """Returns the settings that may make a condition; those of measurements only if requested, steps only if kept."""
    left_out = (*_NO_GROUP, "interventions") + (() if measuring else _MEASURING)
    left_out += () if measuring or "steps" in kept else ("steps",)
    return {key: value for key, value in settings.items() if not _within(key, left_out)}


def _within(key: str, places: Iterable[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _varying(settings: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key, _ABSENT) for each in settings}) > 1]


def _varies_within(key: str, settings: Sequence[Mapping[str, str]], bases: Sequence[str]) -> bool:
    seen: dict[str, set[str]] = {}
    for each, base in zip(settings, bases, strict=True):
        seen.setdefault(base, set()).add(each.get(key, _ABSENT))
    return any(len(values) > 1 for values in seen.values())


def _collide(methods: Sequence[str], rest: Sequence[Mapping[str, str]], records: Sequence[Record], free: Sequence[int]) -> bool:
    """Tells whether two runs of one method, condition and seed are not the same run, nor repeats of a branch."""
    seen: dict[tuple[object, ...], str] = {}
    begun: dict[tuple[object, ...], int | None] = {}
    for method, settings, number in zip(methods, rest, free, strict=True):
        record = records[number]
        cell = (method, record.seed, *sorted(settings.items()))
        if begun.setdefault(cell, record.moment) != record.moment:
            return True
        if seen.setdefault((record.repeat, *cell), record.identity) != record.identity:
            return True
    return False


def _typed(record: Record) -> list[str]:
    """Returns the names that the user wrote on the command line of a run."""
    return [str(word).lstrip("+~").partition("=")[0] for word in record.known.get("overrides") or ()]


def _names(
    keyed: Sequence[Mapping[str, str]],
    settings: Sequence[Mapping[str, str]],
    bases: Sequence[str],
    typed: Sequence[Sequence[str]],
    choices: Sequence[Mapping[str, str]] | None = None,
) -> list[str]:
    """Returns a short name for each of several sets of settings, among those with the same base; "" if they do not differ.

    It has the fewest settings that distinguish the sets: first the words of groups, then what the user wrote, then all others.
    """
    names = [""] * len(keyed)
    for base in dict.fromkeys(bases):
        members = [number for number, each in enumerate(bases) if each == base]
        varying = _varying([keyed[number] for number in members])
        if not varying:
            continue
        whole = [tuple(keyed[number].get(key, _ABSENT) for key in varying) for number in members]
        written = {name for number in members for name in typed[number]}
        variables = [(key, [settings[number].get(key, _ABSENT) for number in members]) for key in varying]
        variables.sort(key=lambda variable: variable[0] not in written)
        words = [] if choices is None else _of_choices([choices[number] for number in members])
        told = _telling(whole, [*words, *variables])
        for place, number in enumerate(members):
            names[number] = ", ".join(_word(key, values[place], word=(key, values) in words) for key, values in told)
    return names


def _of_choices(choices: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    return [(key, [each.get(key, _ABSENT) for each in choices]) for key in _varying(choices)]


def _telling(whole: Sequence[tuple[str, ...]], variables: Sequence[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Returns the first variables that together distinguish what ``whole`` distinguishes, and nothing more."""
    told: list[tuple[str, list[str]]] = []
    goal, parts = len(set(whole)), 1
    for variable in variables:
        if len(set(zip(whole, variable[1], strict=True))) > goal:
            continue  # it differs within a group
        finer = len(set(zip(*(values for _, values in [*told, variable]), strict=True)))
        if finer > parts:
            told, parts = [*told, variable], finer
        if parts == goal:
            break
    return told


def _word(key: str, value: str, *, word: bool) -> str:
    if key == _MOMENT:
        return f"from step {value or 0}"
    return value if word else f"{key.rpartition('.')[2]}={value or 'absent'}"


def _place_the_unread(records: Sequence[Record], conditions: list[str], methods: list[str]) -> None:
    """Puts runs whose settings cannot be read into the group with the same words, if there is exactly one, otherwise in none."""
    for number, record in enumerate(records):
        if methods[number]:
            conditions[number] = conditions[number] or MAIN
            continue
        words = _without_seed(record)
        like = [other for other, each in enumerate(records) if each.config and words and _without_seed(each) == words]
        cells = {(conditions[other], methods[other]) for other in like}
        conditions[number], methods[number] = cells.pop() if len(cells) == 1 else (UNKNOWN, UNKNOWN)


def _without_seed(record: Record) -> frozenset[str]:
    """Returns the words of a run without its seed and folder."""
    try:
        words = shlex.split(record.place.words) or [str(word) for word in record.known.get("overrides") or ()]
    except ValueError:  # a torn grid.csv
        return frozenset()
    return frozenset(word for word in words if word.partition("=")[0] not in ("seed", "run_dir", "resume"))
