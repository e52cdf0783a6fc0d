"""The words of a command line: Hydra's grammar, flags, sweeps, and what must hold of the words by themselves."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, Transformer
from hydra.errors import HydraException

from plasticity.settings.naming import did_you_mean

# Below these stand names that no default lists: of parts, and of arguments of third-party environments.
FREE: Final = ("network.parts.", "optimizer.parts.", "env.kwargs.")
HYDRA: Final = ("hydra.", "hydra/")
_SEED: Final = re.compile(r"seed=\d{1,18}")
_FLAGS: Final = {"-h": "--help", "--help": "--help", "-m": "--multirun", "--multirun": "--multirun"}
_PRINTING: Final = ("--hydra-help", "--version", "--resolve")
_WITH_VALUE: Final = {
    "--config-dir": None,
    "--package": None,
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}


def split_flags(arguments: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Separates flags from settings, which a user writes in any order.

    Args:
        arguments: The words of the command line; a flag's value follows it, or its ``=``.

    Returns:
        The values of the flags by their long names, empty for those that have none; and the words that set something.

    Raises:
        ValueError: If a word is neither, or a flag's value is missing or unknown.
    """
    flags: dict[str, str] = {}
    words: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if name in _WITH_VALUE:
            known = _WITH_VALUE[name]
            if not equals and waiting and (waiting[0] in known if known else not waiting[0].startswith("-")):
                value = waiting.pop(0)
            flags[name] = _flag_value(name, value or ("all" if name == "--info" else ""), known)
        elif word in _FLAGS or word in _PRINTING:
            flags[_FLAGS.get(word, word)] = ""
        elif word.startswith("-") or not (equals or word.startswith("~")):
            raise ValueError(f"{word} is not understood; write settings as name=value, and see --help")
        else:
            words.append(f"++{word}" if word.startswith(FREE) else word)
    return flags, words


def _flag_value(name: str, value: str, known: Sequence[str] | None) -> str:
    if not value or (known and value not in known):
        allowed = f"one of {', '.join(known)}" if known else "a name"
        raise ValueError(f"{f'{name} {value}'.rstrip()} is not understood: {name} is followed by {allowed}")
    return value


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Parses name=value words.

    Raises:
        ValueError: If a word does not follow Hydra's grammar.
    """
    return [_parsed(word) for word in words]


@lru_cache(maxsize=4096)
def _parsed(word: str) -> Override:
    """Parses a word once, for it takes milliseconds and the runs of a grid share most of theirs."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        hint = "a value with special characters needs quotes of its own: run_dir=\"'a=b'\""
        raise ValueError(f"{word} is not understood: {reason}; {hint}") from error


def check_words(overrides: Sequence[Override], choices: Mapping[str, Sequence[str]], multirun: bool) -> None:
    """Refuses what is known to be wrong before anything is composed.

    Args:
        overrides: Parsed words.
        choices: What there is to choose from in each group.
        multirun: Whether they describe a grid, which may sweep values and set up Hydra.

    Raises:
        ValueError: In one line that names what is wrong and the valid choices.
    """
    for name, count in Counter(override.key_or_group for override in overrides).items():
        if count > 1:
            raise ValueError(f"{name} is given {count} times; give it once")
    for override in overrides:
        name = override.key_or_group
        if name == "method" and ((override.is_sweep_override() and not multirun) or isinstance(override.value(), list)):
            raise ValueError(f"{override.input_line}: a method is one name; write a file that lists both, or compare by -m")
        if override.is_sweep_override() and not multirun:
            values = ",".join(chosen_values(override))
            raise ValueError(f"{name}={values} names several runs; add -m to run them all, or write {name}=[{values}] for a list")
        if override.is_hydra_override() and not multirun:
            raise ValueError(f"{override.input_line} is for grids only; add -m, or leave it out")
        if name.startswith(("hydra/sweeper", "hydra.sweeper", "hydra.sweep.")):
            raise ValueError(f"{override.input_line}: a grid runs every combination of its words in its own folder; leave it out")
        if name in choices and not override.is_delete():
            for value in chosen_values(override):
                _check_choices(name, value, choices[name])


def _check_choices(group: str, value: str, known: Sequence[str]) -> None:
    names = chosen_names(value)
    for choice in names:
        if choice not in known:
            hint = did_you_mean(choice, known)
            none = ", or [] for none" if group == "intervention" else ""
            raise ValueError(f"{group}={choice} is unknown{hint}; choose from {', '.join(known)}{none}")
        if names.count(choice) > 1:
            raise ValueError(f"{group}={value} names {choice} twice; a method runs once")


def chosen_names(value: str) -> list[str]:
    """Returns the names in the value of a group: of a list, ``[a,b]``, each."""
    return [name for name in value.strip("[]").split(",") if name] if value.startswith("[") else [value]


def chosen_values(override: Override) -> list[str]:
    """Returns the values that a sweep goes through, as words; a single value is a list of one.

    Raises:
        ValueError: If the values of a sweep cannot be listed.
    """
    if not override.is_sweep_override():
        return [str(override.get_value_element_as_str())]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        raise ValueError(f"{override.input_line} names no values; list them, as in {override.key_or_group}=a,b")
    return [str(value) for value in override.sweep_string_iterator()]


def plain_texts(override: Override) -> list[str]:
    """Returns the texts of ``a,b`` or ``[a,b]`` without quotes and escapes: names of folders, which may hold spaces.

    Raises:
        ValueError: If the values of a sweep cannot be listed.
    """
    if not override.is_sweep_override():
        return _plain_texts(override.value())
    chosen_values(override)  # refuses what names no values
    return [text for value in override.sweep_iterator(transformer=Transformer.identity) for text in _plain_texts(value)]


def _plain_texts(value: object) -> list[str]:
    if isinstance(value, list):
        return [text for each in value for text in _plain_texts(each)]
    return [] if value is None else [value.text if isinstance(value, QuotedString) else str(value)]


def word_lists(overrides: Sequence[Override]) -> tuple[tuple[str, ...], ...]:
    """Returns the words of each run of a grid: every combination of the swept values, the last word's varying fastest."""
    return tuple(product(*map(_alternatives, overrides)))


def _alternatives(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    prefix = "++" if override.is_force_add() else "+" if override.is_add() else ""
    key = override.get_key_element().lstrip("+")
    return [f"{prefix}{key}={value}" for value in chosen_values(override)]


def covering(runs: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Yields the runs that set something which no run before them sets, so that every word is in one of them.

    A whole number for a seed is nothing new: no two of them are refused for different reasons.
    """
    said: set[str] = set()
    for number, words in enumerate(runs):
        news = {word for word in words if word not in said and not (number and _SEED.fullmatch(word))}
        if news or not number:
            said.update(words)
            yield words


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
