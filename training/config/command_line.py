"""The command line: what may be said, and one clear line for what may not."""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plasticity.settings.naming import did_you_mean
from plasticity.settings.plugins import load_plugins
from plasticity.training.config.choices import options
from plasticity.training.config.config_store import CHOICES, GROUPS, register_configs
from plasticity.training.config.settings import plan_from

# Below these stand names that no default lists: of parts, and of arguments of other people's environments.
_FREE: Final = ("network.parts.", "optimizer.parts.", "env.kwargs.")


@dataclass(frozen=True)
class Request:
    """A checked command line.

    Attributes:
        overrides: What was given, as Hydra's overrides.
        multirun: Whether it describes a grid.
        configs: The composed configs, as plain containers: one for a single run; for a grid so many that every swept value
            appears in one of them.
    """

    overrides: tuple[str, ...]
    multirun: bool
    configs: tuple[dict[str, Any], ...]

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run, or of the first run of a grid."""
        return self.configs[0]


def check_command_line(arguments: Sequence[str], configs: Path) -> Request:
    """Parses overrides, loads plugins, and composes every choice that is named.

    Args:
        arguments: Words of the command line without the program.
        configs: Folder of the YAML files.

    Raises:
        ValueError: In one line that names what is wrong and the valid choices.
    """
    multirun = any(word in ("-m", "--multirun") for word in arguments)
    words = [_freely(word) for word in arguments if word not in ("-m", "--multirun")]
    for word in words:
        if word.startswith("-") or not ("=" in word or word.startswith("~")):
            raise ValueError(f"{word} is not understood; write settings as name=value, and see --help")
    overrides = parse_overrides(words)
    _check_given_once(overrides)
    load_plugins(plugin_places(words))
    register_configs()
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        visible = {group: options(group, configs) for group in GROUPS}
        for override in overrides:
            _check_group(override, visible, multirun)
        composed = [_composed_run(alternative, visible) for alternative in _alternatives(overrides)]
    for config in composed:
        plan_from(config)
    return Request(tuple(words), multirun, tuple(composed))


def compose_config(words: Sequence[str], configs: Path) -> dict[str, Any]:
    """Composes one config from checked overrides; plugins must be loaded."""
    register_configs()
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        return _compose(words)


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Parses name=value words.

    Raises:
        ValueError: If a word does not follow Hydra's grammar.
    """
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed.append(parser.parse_override(word))
        except HydraException as error:
            reason = str(error).splitlines()[0]
            hint = "a value with special characters needs quotes of its own: run_dir=\"'a=b'\""
            raise ValueError(f"{word} is not understood: {reason}; {hint}") from error
    return parsed


def chosen_values(override: Override) -> list[Any]:
    """Returns the values that a sweep goes through, as words; a single value is a list of one.

    Raises:
        ValueError: If the values of a sweep cannot be listed.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        raise ValueError(f"{override.input_line} names no values; list them, as in {override.key_or_group}=a,b")
    return [str(value) for value in override.sweep_string_iterator()]


def plugin_places(words: Sequence[str]) -> list[str]:
    """Returns what ``plugins=`` names, if it is given.

    Raises:
        ValueError: If a word does not follow Hydra's grammar.
    """
    for override in parse_overrides([word for word in words if word.startswith("plugins=")]):
        if override.key_or_group == "plugins":
            value = override.value()
            return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
    return []


def with_absolute_plugins(words: Sequence[str]) -> list[str]:
    """Returns the words with the files of ``plugins=`` as absolute paths, so that they mean the same in another folder."""
    return [_absolute_plugins(word) if word.startswith("plugins=") else word for word in words]


def _absolute_plugins(word: str) -> str:
    places = [str(Path(place).expanduser().absolute()) if place.endswith(".py") else place for place in plugin_places([word])]
    return f"plugins=[{','.join(map(quoted, places))}]"


def quoted(text: str) -> str:
    """Returns a text as Hydra's grammar quotes it: backslashes matter before a quote only, and are doubled there."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def _check_given_once(overrides: Sequence[Override]) -> None:
    for name, count in Counter(override.key_or_group for override in overrides).items():
        if count > 1:
            raise ValueError(f"{name} is given {count} times; give it once")


def _check_group(override: Override, visible: Mapping[str, Sequence[str]], multirun: bool) -> None:
    name = override.key_or_group
    if override.is_sweep_override() and not multirun:
        values = ",".join(chosen_values(override))
        raise ValueError(f"{name}={values} names several runs; add -m to run them all, or write {name}=[{values}] for a list")
    if override.is_hydra_override() and not multirun:
        raise ValueError(f"{override.input_line} is for grids only; add -m, or leave it out")
    if name in visible and not override.is_delete():
        for value in chosen_values(override):
            _check_choices(name, value, visible[name])


def _check_choices(group: str, value: str, known: Sequence[str]) -> None:
    choices = [choice for choice in value.strip("[]").split(",") if choice] if value.startswith("[") else [value]
    for choice in choices:
        if choice not in known:
            hint = did_you_mean(choice, known)
            none = ", or [] for none" if group == "intervention" else ""
            raise ValueError(f"{group}={choice} is unknown{hint}; choose from {', '.join(known)}{none}")
        if choices.count(choice) > 1:
            raise ValueError(f"{group}={value} names {choice} twice; a method runs once")


def _composed_run(words: Sequence[str], visible: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Composes one run, after every key was looked up in the config that its chosen groups compose to."""
    overrides = parse_overrides(words)
    groups = [_word(override, chosen_values(override)[0]) for override in overrides if override.key_or_group in visible]
    base = _compose(groups)
    _check_keys(overrides, {key: value for key, value in base.items() if key != CHOICES}, visible)
    return base if len(groups) == len(words) else _compose(words)


def _check_keys(overrides: Sequence[Override], base: Mapping[str, Any], visible: Mapping[str, Sequence[str]]) -> None:
    for override in overrides:
        name = override.key_or_group
        if name in visible or override.is_hydra_override() or name.startswith(_FREE):
            continue
        node: Any = base
        path = name.split(".")
        for depth, key in enumerate(path):
            if not isinstance(node, dict) or key not in node:
                raise ValueError(_unknown_key(path, depth, node, visible))
            node = node[key]


def _freely(word: str) -> str:
    """Lets a word add what it names where names are the user's own."""
    return f"++{word}" if word.startswith(_FREE) else word


def _unknown_key(path: Sequence[str], depth: int, node: object, visible: Mapping[str, Sequence[str]]) -> str:
    name = ".".join(path)
    if not isinstance(node, dict):
        return f"{name} is unknown; {'.'.join(path[:depth])} is a single value"
    if path[0] == "interventions" and depth == 1 and path[1] in visible["intervention"]:
        chosen = ",".join(node) if isinstance(node, dict) else ""
        return f"{name} is set, but {path[1]} is not chosen in intervention=[{chosen}]; add it there"
    known = sorted({*node, *visible} if depth == 0 else node)
    hint = did_you_mean(path[depth], known)
    where = ".".join(path[:depth]) or "the config"
    return f"{name} is unknown{hint}; {where} has {', '.join(known) or 'no settings'}"


def _alternatives(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Yields word lists in which every swept value appears at least once, the others being first choices."""
    values = [chosen_values(override) for override in overrides]
    first = [_word(override, options[0]) for override, options in zip(overrides, values, strict=True)]
    yield first
    for index, (override, alternatives) in enumerate(zip(overrides, values, strict=True)):
        for value in alternatives[1:]:
            yield [*first[:index], _word(override, value), *first[index + 1 :]]


def _word(override: Override, value: str) -> str:
    prefix = "++" if override.is_force_add() else "+" if override.is_add() else "~" if override.is_delete() else ""
    return f"{prefix}{override.get_key_element().lstrip('+~')}={value}" if value else f"{override.input_line}"


def _compose(words: Sequence[str]) -> dict[str, Any]:
    """Composes a config, and adds under ``choices`` which file of each group it was made of."""
    ours = [word for word in words if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    try:
        config = compose("config", overrides=ours, return_hydra_config=True)
        chosen = chosen_files(config.hydra.runtime.choices)
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        container = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(" ".join(str(error).split())) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()} | {CHOICES: chosen}


def chosen_files(choices: Mapping[str, Any]) -> dict[str, str]:
    """Returns the words by which agent, env, network, optimizer, metrics and experiment were chosen, from Hydra's record."""
    return {group: str(choices[group]) for group in GROUPS if group != "intervention" and choices.get(group)}


def name_folders_by_sweep(request: Request) -> str:
    """Returns the override that tells the runs of a grid which words are not swept, and belong in no name."""
    constant = [o.key_or_group for o in parse_overrides(request.overrides) if not o.is_sweep_override()]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(['run_dir', *constant])}]"


def fail(message: object) -> int:
    """Prints one line on stderr and returns the exit code of a command that was not understood, 2."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


def forget_hydra() -> None:
    """Clears Hydra's global state, so that its own entry point can start anew."""
    GlobalHydra.instance().clear()
