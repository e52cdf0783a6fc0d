"""From a study's file to a study: every mistake in it is reported in one line that names the file and the key."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import yaml

from plasticity.settings.fields import describe
from plasticity.training.branching.measuring import require_measures
from plasticity.training.config.command_line import CONFIGS
from plasticity.training.reports.specification import ReportSettings, report_settings
from plasticity.training.studies.specification import Branching, Source, StudySettings, Tune
from plasticity.training.studies.values import (
    entries,
    mapping,
    one_for_each_value,
    one_of,
    require_keys,
    seed_list,
    text,
    whole_number,
    word_map,
    words,
)

_NAME: Final = re.compile(r"[a-z0-9_]+")
_NOT_SHORT: Final = ("name", "short", "report")


def read_study(path: Path, short: bool = False, folders: Sequence[Path] = (CONFIGS,)) -> tuple[StudySettings, dict[str, Any]]:
    """Reads a study's file.

    Args:
        path: The file.
        short: Whether the keys of its ``short:`` replace the others.
        folders: Folders laid out like ``configs/``, in which lists of values are found.

    Returns:
        The study, and the same as plain containers with all defaults, as its folder keeps it.

    Raises:
        ValueError: In one line that names the file, the key and what is allowed.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"study={path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}{_hint(error)}") from error
    try:
        return _study(_with_sweeps(values, folders), path, short)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _hint(error: yaml.YAMLError) -> str:
    """Returns a hint about the most likely mistake: a word with brackets and without quotes."""
    mark = getattr(error, "problem_mark", None)
    line = "" if mark is None or mark.buffer is None else mark.buffer.splitlines()[mark.line : mark.line + 1]
    found = re.search(r"(?<![\"'\w.])[\w./+~]+=[\[{]", line[0]) if line else None
    word = "" if found is None else line[0][found.start() :].partition("]")[0] + "]"
    return f'; a word with brackets needs quotes: "{word}"' if word else ""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # of a package without types
    """Refuses a key that is there twice; YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", node.value[number][0].start_mark)
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made


def _with_sweeps(values: Any, folders: Sequence[Path]) -> Any:
    """Returns the values of a file with a condition for each value where conditions are one word, ``env.game=@atari_57``."""
    if not isinstance(values, Mapping):
        return values
    made = dict(values)
    if isinstance(values.get("conditions"), str):
        made["conditions"] = one_for_each_value(values["conditions"], folders)
    if isinstance(values.get("short"), Mapping):
        made["short"] = _with_sweeps(values["short"], folders)
    return made


def _study(values: Any, path: Path, short: bool) -> tuple[StudySettings, dict[str, Any]]:
    values, known = mapping(values, "a study"), list(describe(StudySettings))
    require_keys(values, known, "a study")
    missing = [key for key in ("methods", "short", "report") if key not in values]
    if missing:
        what = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise ValueError(
            f"{what}; a study needs methods, short and report, with report.outcome: {{value: <name in metrics.csv>}}"
        )
    changes = mapping(values["short"], "short")
    require_keys(changes, [key for key in known if key not in _NOT_SHORT], "short", "short.")
    full = _made(values, path)
    quick = _made({**values, **changes}, path, full)  # always read, so that a mistake in it is found at once
    study = quick if short else full
    return study, _plain(study, {**values, **changes} if short else values)


def _made(values: Mapping[str, Any], path: Path, full: StudySettings | None = None) -> StudySettings:
    """Makes a study from the values of its file; names that the full study has and this one dropped are ignored in it."""
    name = text(values.get("name", path.stem), "name")
    if not _NAME.fullmatch(name):
        raise ValueError(f"name={name} must be lower-case letters, digits and underscores")
    if name != path.stem and path.name != "study.yaml":
        raise ValueError(f"name={name} must be that of its file, {path.stem}")
    conditions = word_map(values.get("conditions", {"main": []}), "conditions")
    methods = word_map(values["methods"], "methods", "method")
    places, rows = (set(conditions), set(methods)) if full is None else (set(full.conditions), set(full.methods))
    known_places, known_rows = sorted(places | set(conditions)), sorted(rows | set(methods))
    left_out = _left_out(values.get("leave_out", []), known_places, known_rows)
    steps = values.get("steps")
    branch = _branch(values.get("branch"))
    if branch is not None and steps is not None and max(branch.at) > steps:
        raise ValueError(f"branch.at={branch.at} goes beyond steps={steps}")
    compared = methods if branch is None else branch.remedies
    known_compared = known_rows if branch is None else _remedies(branch, full)
    baseline = next(iter(compared)) if branch is None else next(name for name, said in compared.items() if not said)
    if values.get("baseline") is not None:
        wanted = one_of(values["baseline"], known_compared, "baseline")
        baseline = wanted if wanted in compared else baseline
    seeds = seed_list(values.get("seeds", 5), "seeds")
    study = StudySettings(
        name=name,
        title=text(values.get("title", ""), "title"),
        about=text(values.get("about", ""), "about"),
        source=_source(values.get("source")),
        needs=[text(each, "needs") for each in entries(values.get("needs", []), "needs")],
        common=words(values.get("common", []), "common"),
        steps=None if steps is None else whole_number(steps, "steps"),
        seeds=seeds,
        conditions=conditions,
        methods=methods,
        leave_out=[pair for pair in left_out if pair[0] in conditions and pair[1] in methods],
        baseline=baseline,
        tune=_tune(values.get("tune"), seeds, methods, known_rows),
        branch=branch,
        short=dict(values["short"]),
        report=_report(values["report"], known_places, sorted({*known_rows, *known_compared})),
    )
    if not study.pairs:
        raise ValueError("leave_out leaves nothing to run")
    return study


def _branch(values: Any) -> Branching | None:
    if values is None:
        return None
    values = mapping(values, "branch")
    require_keys(values, list(describe(Branching)), "branch", "branch.")
    for key in ("at", "steps", "remedies"):
        if key not in values:
            raise ValueError(f"branch.{key} is missing; branch needs at, steps and remedies")
    at = [whole_number(each, "branch.at") for each in entries(values["at"], "branch.at")]
    if not at or sorted(set(at)) != at:
        raise ValueError(f"branch.at={at} must be steps in rising order, at least one")
    remedies = word_map(values["remedies"], "branch.remedies", "method")
    if all(remedies.values()):
        raise ValueError("branch.remedies: one of them must change nothing, unchanged: [], for the others to be compared with")
    measure = [text(each, "branch.measure") for each in entries(values.get("measure", ["default"]), "branch.measure")]
    require_measures(measure, "branch.measure")
    return Branching(
        at=at,
        steps=whole_number(values["steps"], "branch.steps"),
        repeats=whole_number(values.get("repeats", 1), "branch.repeats"),
        common=words(values.get("common", []), "branch.common"),
        remedies=remedies,
        measure=measure,
    )


def _remedies(branch: Branching, full: StudySettings | None) -> list[str]:
    """Returns the names of remedies that a study's file may name."""
    more = {} if full is None or full.branch is None else full.branch.remedies
    return sorted({*branch.remedies, *more})


def _left_out(values: Any, places: Sequence[str], rows: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for number, entry in enumerate(entries(values, "leave_out")):
        where = f"leave_out.{number}"
        pair = mapping(entry, where)
        require_keys(pair, ["condition", "method"], where, f"{where}.")
        place = one_of(pair.get("condition"), places, f"{where}.condition")
        found.append((place, one_of(pair.get("method"), rows, f"{where}.method")))
    return found


def _report(values: Any, places: Sequence[str], rows: Sequence[str]) -> ReportSettings:
    report = report_settings(mapping(values, "report"))
    if report.outcome is None:
        raise ValueError("report.outcome is missing: the one number of a run, {value: <name in metrics.csv>, ...}")
    for number, entry in enumerate(report.published):
        one_of(entry.condition, places, f"report.published.{number}.condition")
        one_of(entry.method, rows, f"report.published.{number}.method")
    for figure in report.figures:
        for known, names in ((places, figure.conditions), (rows, figure.methods)):
            for name in names:
                one_of(name, known, f"report.figures.{figure.id}")
    return report


def _kept(report: Mapping[str, Any], study: StudySettings) -> dict[str, Any]:
    """Returns the values of a report without what a short form has dropped: published numbers, and names in figures."""
    rows = {*study.methods, *(study.branch.remedies if study.branch is not None else ())}
    kept, known = dict(report), {"conditions": set(study.conditions), "methods": rows}
    if report.get("published"):
        kept["published"] = [
            each for each in report["published"] if each["condition"] in study.conditions and each["method"] in rows
        ]
    if report.get("figures"):
        figures = []
        for figure in report["figures"]:
            named = {key: [name for name in figure[key] if name in known[key]] for key in known if figure.get(key)}
            figures += [{**figure, **named}] if all(named.values()) else []
        kept["figures"] = figures
    return kept


def _tune(values: Any, seeds: Sequence[int], methods: Mapping[str, Any], known: Sequence[str]) -> Tune | None:
    if values is None:
        return None
    values = mapping(values, "tune")
    names = list(describe(Tune))
    require_keys(values, names, "tune", "tune.")
    for key in names:
        if key not in values:
            raise ValueError(f"tune.{key} is missing; tune needs {', '.join(names)}")
    own = seed_list(values["seeds"], "tune.seeds")
    met = sorted(set(own) & set(seeds))
    if met:
        raise ValueError(
            f"tune.seeds={own} meets seeds={list(seeds)} in {', '.join(map(str, met))}; "
            "what is chosen on a seed is not reported on it"
        )
    grid: dict[str, dict[str, list[Any]]] = {}
    for method, settings in mapping(values["grid"], "tune.grid").items():
        if one_of(method, known, "tune.grid") not in methods:
            continue
        grid[method] = {}
        for name, tried in mapping(settings, f"tune.grid.{method}").items():
            where = f"tune.grid.{method}.{name}"
            grid[method][text(name, where)] = entries(tried, where)
            if not tried or any(isinstance(value, Mapping) for value in tried):
                raise ValueError(f"{where}={tried} must be a list of values")
    sizes = {method: _points(settings) for method, settings in grid.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{method} has {count}" for method, count in sizes.items())
        raise ValueError(f"tune.grid: {told}; every method gets the same number of settings to try")
    value = report_settings({"outcome": values["value"]}).outcome
    assert value is not None
    return Tune(own, whole_number(values["steps"], "tune.steps"), value, grid)


def _points(settings: Mapping[str, Sequence[Any]]) -> int:
    count = 1
    for tried in settings.values():
        count *= len(tried)
    return count


def _source(values: Any) -> Source | None:
    if values is None:
        return None
    values = mapping(values, "source")
    require_keys(values, list(describe(Source)), "source", "source.")
    items = [text(each, "source.items") for each in entries(values.get("items", []), "source.items")]
    return Source(text(values.get("paper", ""), "source.paper"), items)


def _plain(study: StudySettings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a study as its folder keeps it, in the form of a study's file."""
    tune = study.tune
    return {
        "name": study.name,
        "title": study.title,
        "about": study.about,
        "source": None if study.source is None else {"paper": study.source.paper, "items": study.source.items},
        "needs": study.needs,
        "common": study.common,
        "steps": study.steps,
        "seeds": study.seeds,
        "conditions": study.conditions,
        "methods": study.methods,
        "leave_out": [{"condition": condition, "method": method} for condition, method in study.leave_out],
        "baseline": study.baseline,
        "tune": None
        if tune is None
        else {"seeds": tune.seeds, "steps": tune.steps, "value": values["tune"]["value"], "grid": tune.grid},
        "branch": None if study.branch is None else asdict(study.branch),
        "short": {},
        "report": _kept(values["report"], study),
    }
