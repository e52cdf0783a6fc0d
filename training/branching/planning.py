"""From the words of a branch to its plan: the parent's resolved settings, changed by methods and by what may change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from plasticity.settings.fields import require_choice
from plasticity.settings.naming import did_you_mean
from plasticity.settings.plugins import load_plugins
from plasticity.training.branching.measuring import require_measures
from plasticity.training.branching.point import KEEP, REPLAYS, BranchPoint, find_point
from plasticity.training.config.command_line import Composer, method_of
from plasticity.training.config.config_store import CHOICES
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.config.words import chosen_names, chosen_values, parse_overrides, plain_texts, plugin_places, word_lists
from plasticity.training.saving.checkpoint import require_match
from plasticity.training.saving.resuming import MAY_CHANGE

SECTION: Final = "branch"
_KEYS: Final = ("run", "step", "drop", "repeat", "measure", "replay")
# What may differ between a branch and its parent: besides methods, the problem and the optimizer, what a resumed run may.
_MAY_CHANGE: Final = ("interventions", "protocol", "env", "optimizer", SECTION)


def is_branch(words: Sequence[str]) -> bool:
    """Returns whether words start a run from another's checkpoint."""
    return any(word.lstrip("+~").startswith(f"{SECTION}.") for word in words)


def point_of(words: Sequence[str], *, there: bool = True) -> tuple[BranchPoint, list[str]]:
    """Returns where a branch starts, and its other words.

    Args:
        words: Of one run.
        there: Whether the checkpoint is looked for. Otherwise the point has no checksum and serves only for planning.

    Raises:
        ValueError: In one line that names what is wrong and what is allowed.
    """
    said: dict[str, list[str]] = {}
    rest = []
    for word, override in zip(words, parse_overrides(words), strict=True):
        section, _, key = override.key_or_group.partition(".")
        if section != SECTION:
            rest.append(word)
            continue
        if key not in _KEYS:
            raise ValueError(f"{SECTION}.{key} is unknown{did_you_mean(key, _KEYS)}; {SECTION} has {', '.join(_KEYS)}")
        said[key] = plain_texts(override)
    if len(said.get("run", [])) != 1:
        raise ValueError(f"{SECTION}.run=<run folder> names the run that it starts from; give one")
    folder, measure = Path(said["run"][0]).expanduser(), said.get("measure", [])
    step, repeat = _number("step", said.get("step"), None), _number("repeat", said.get("repeat"), 0)
    require_measures(measure, f"{SECTION}.measure")
    replay = ",".join(said.get("replay", [])) or KEEP
    require_choice(f"{SECTION}.replay", replay, REPLAYS)
    point = find_point(folder, step) if there else BranchPoint(folder, step or 0, "")
    return replace(point, repeat=repeat or 0, drop=tuple(said.get("drop", ())), measure=tuple(measure), replay=replay), rest


def points_in(words: Sequence[str]) -> list[BranchPoint]:
    """Returns where the branches of a command line start, each once."""
    own = [override for override in parse_overrides(words) if override.key_or_group.startswith(f"{SECTION}.")]
    return list(dict.fromkeys(point_of(run)[0] for run in word_lists(own)))


def branch_plan(words: Sequence[str], composer: Composer) -> tuple[Plan, BranchPoint]:
    """Returns the plan of a branch, and where it starts.

    Args:
        words: Of one run.
        composer: Where YAML files are found.

    Raises:
        ValueError: In one line that names what is wrong and what is allowed.
    """
    point, rest = point_of(words)
    return plan_onto(point.config(), rest, point, composer), point


def plan_onto(parent: Mapping[str, Any], rest: Sequence[str], point: BranchPoint, composer: Composer) -> Plan:
    """Returns the plan of a branch.

    Args:
        parent: The resolved config of the parent.
        rest: The words of the branch without those for where it starts.
        point: Where it starts; its checkpoint is not read.
        composer: Where YAML files are found.

    Raises:
        ValueError: In one line that names what is wrong and what is allowed.
    """
    load_plugins([*parent["plugins"], *plugin_places(rest)])
    config = _composed(parent, rest, point, composer)
    for group in ("agent", "network"):
        before, now = (each[CHOICES].get(group) for each in (parent, config))
        if before != now:
            raise ValueError(f"{group}={now}: a branch has its parent's, {before}")
    if config["seed"] != parent["seed"]:
        raise ValueError(f"seed={config['seed']}: a branch has its parent's seed; branch.repeat=1 draws new random numbers")
    try:
        require_match(parent, config, (*MAY_CHANGE, *_MAY_CHANGE), ("the parent", "the branch"))
    except ValueError as error:
        raise ValueError(
            f"{error}; a branch may change methods, env., optimizer., steps and what is measured: set the rest in the parent, "
            "which in a study is common:"
        ) from error
    if config["steps"] <= point.step:
        raise ValueError(f"steps={config['steps']} is not after the step of the branch, {point.step}; give a larger steps=")
    return plan_from({**config, SECTION: point.told()})


def methods_of(words: Sequence[str], composer: Composer) -> list[str]:
    """Returns the interventions of a branch.

    Raises:
        ValueError: In one line that names what is wrong and what is allowed.
    """
    point, rest = point_of(words)
    return _methods(point.config(), composer.spelled_out(rest), method_of(rest), point)


def _composed(parent: Mapping[str, Any], words: Sequence[str], point: BranchPoint, composer: Composer) -> dict[str, Any]:
    name, spelled = method_of(words), composer.spelled_out(words)
    methods = _methods(parent, spelled, name, point)
    others = [word for word in spelled if parse_overrides([word])[0].key_or_group != "intervention"]
    chosen = f"intervention=[{','.join(methods)}]"
    own_folder = {**parent, "run_dir": None}  # a branch that is not told where to go names itself, it does not go to its parent
    config = composer.compose_onto(own_folder, [chosen, *others], composer.choices())
    if name is not None:
        config[CHOICES] = {**config[CHOICES], "method": name}
    return config


def _methods(parent: Mapping[str, Any], spelled: Sequence[str], method: str | None, point: BranchPoint) -> list[str]:
    """Returns the parent's methods without those that end, and those of ``method=``; or what ``intervention=`` lists."""
    before = list(parent["interventions"])
    for name in point.drop:
        if name not in before:
            raise ValueError(f"branch.drop={name}: the parent has {', '.join(before) or 'no methods'}")
    given = [override for override in parse_overrides(spelled) if override.key_or_group == "intervention"]
    said = chosen_names(chosen_values(given[0])[0]) if given else None
    if method is None and said is not None:
        if point.drop:
            raise ValueError("intervention= lists all methods of a branch; leave branch.drop out")
        return said
    kept = [name for name in before if name not in point.drop]
    return [*kept, *(name for name in said or () if name not in kept)]


def _number(name: str, texts: list[str] | None, otherwise: int | None) -> int | None:
    if texts is None or texts == []:
        return otherwise
    if len(texts) != 1 or not texts[0].isdigit():
        raise ValueError(f"{SECTION}.{name}={','.join(texts)} must be a whole number, 0 or more")
    return int(texts[0])
