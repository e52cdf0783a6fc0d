"""The values of a study's file: each is returned with its type, or refused in one line that names its place."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from plasticity.settings.naming import did_you_mean
from plasticity.training.config.sweeps import spelled_in_full

_FOLDER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
_OTHER: Final = re.compile(r"[^A-Za-z0-9_.+=-]")
_SAID_ELSEWHERE: Final = {
    "seed": "seeds: names them",
    "run_dir": "each run has its place in the study's folder",
    "resume": "an interrupted run is resumed automatically",
    "mode": "a study trains",
    "video": "a study trains",
    "study": "a study holds no other",
    "list": "a study trains",
    "branch.run": "branch: names what starts where",
    "branch.step": "branch.at: names the steps",
    "branch.repeat": "branch.repeats: gives their number",
    "branch.measure": "branch.measure: is a separate key",
}


def word_map(values: Any, where: str, default: str | None = None) -> dict[str, list[str]]:
    """Returns the words of each condition or method; their names are names of folders."""
    made = {}
    for name, said in mapping(values, where).items():
        if not isinstance(name, str):
            raise ValueError(f"{where}: {name} must be a text; write it in quotes")
        if not _FOLDER.fullmatch(name):
            raise ValueError(f"{where}: {name!r} names a folder and may have only letters, digits and . _ + - =")
        if said is None and default is None:
            raise ValueError(f"{where}.{name} must be a list of words; [] for none")
        made[name] = [f"{default}={name}"] if said is None else words(said, f"{where}.{name}")
    if not made:
        raise ValueError(f"{where} is empty; it needs at least one")
    return made


def one_for_each_value(word: str, folders: Sequence[Path]) -> dict[str, list[str]]:
    """Returns a condition for each value of ``<setting>=<value>,...``, named after the value; ``@<name>`` stands for a list."""
    full = spelled_in_full([word], folders, multirun=True)[0]
    setting, equals, listed = full.partition("=")
    if not equals or not all(listed.split(",")):
        raise ValueError(f"conditions: {word} must be <setting>=<value>,..., a map of conditions, or <setting>=@<list>")
    named = {_OTHER.sub("-", value).lstrip("-."): [f"{setting}={value}"] for value in listed.split(",")}
    if len(named) < len(listed.split(",")):
        raise ValueError(f"conditions: {word} names a value twice, or two that give a folder the same name")
    return named


def words(values: Any, where: str) -> list[str]:
    """Returns a list of command-line words; ValueError for anything else."""
    found = entries(values, where)
    for word in found:
        if not isinstance(word, str) or not ("=" in word or word.startswith("~")):
            raise ValueError(f'{where}: {word} must be a word of the command line, "name=value"')
        name = word.partition("=")[0].lstrip("+~")
        if name in _SAID_ELSEWHERE:
            raise ValueError(f"{where}: {word} is not for a study's file: {_SAID_ELSEWHERE[name]}")
        if name.startswith(("hydra.", "hydra/")):
            raise ValueError(f"{where}: {word} is for the command line, after study=")
    return list(found)


def seed_list(value: Any, where: str) -> list[int]:
    """Returns seeds: a number of them, or a list; ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return list(range(value))
    if not isinstance(value, list) or not value or any(type(seed) is not int or seed < 0 for seed in value):
        raise ValueError(f"{where}={value} must be a number of seeds, at least 1, or a list of seeds, at least 0 each")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}={value} names a seed twice")
    return list(value)


def whole_number(value: Any, where: str) -> int:
    """Returns a whole number, at least 1; ValueError for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 1:
        raise ValueError(f"{where}={value} must be a whole number, at least 1")
    return int(value)


def text(value: Any, where: str) -> str:
    """Returns a text; ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{where}={value} must be a text")
    return value


def entries(value: Any, where: str) -> list[Any]:
    """Returns a list; ValueError for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"{where}={value} must be a list, [{value}]")
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Returns a mapping; ValueError for anything else."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}={value} must hold <name>: <value>")
    return dict(value)


def one_of(value: Any, known: Sequence[str], where: str) -> str:
    """Returns a name that must be known; otherwise ValueError with the known names."""
    if value not in known:
        raise ValueError(f"{where}={value} is unknown{did_you_mean(str(value), known)}; choose from {', '.join(known)}")
    return str(value)


def require_keys(values: Mapping[str, Any], known: Sequence[str], where: str, prefix: str = "") -> None:
    """Raises ValueError for an unknown key, with the known ones."""
    for key in values:
        if key not in known:
            raise ValueError(f"{prefix}{key} is unknown{did_you_mean(str(key), known)}; {where} has {', '.join(known)}")
