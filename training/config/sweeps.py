"""Lists of values by name: ``-m env.game=@atari_57`` in a grid, ``conditions: env.game=@atari_57`` in a study.

A list has a file ``sweep/<name>.yaml`` in ``configs`` or in a user's folder. It names the setting that its values belong to, and
may give two scores of each value, by which outcomes are normalised.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from plasticity.settings.naming import did_you_mean
from plasticity.training.config.choices import files

SWEEP: Final = "sweep"
_KEYS: Final = ("setting", "values", "scores")
_NAMED: Final = re.compile(r"@([A-Za-z0-9_]+)")
_WORD: Final = re.compile(r"([+]{0,2}[\w.]+)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Sweep:
    """A list of values.

    Attributes:
        setting: The setting that they are values of, such as ``env.game``.
        values: In their order.
        scores: Two scores of a value that normalisation maps to 0 and 1; empty if there are none.
    """

    setting: str
    values: tuple[str, ...]
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def sweeps_in(folders: Sequence[Path]) -> dict[str, Sweep]:
    """Returns all lists by name.

    Args:
        folders: Folders that are laid out like ``configs/``.

    Raises:
        ValueError: In one line that names the file, if it is no such list or another one has its name.
    """
    found: dict[str, Sweep] = {}
    for folder in folders:
        for name in files(SWEEP, folder):
            path = folder / SWEEP / f"{name}.yaml"
            if name in found:
                raise ValueError(f"@{name} has two files, {path} and one of the project; give yours another name")
            found[name] = _read(path)
    return found


def sweep_with_scores(name: str) -> Sweep:
    """Returns a list of the project that has scores.

    Raises:
        ValueError: There is none of that name.
    """
    from plasticity.training.config.command_line import CONFIGS  # here, as it loads Hydra

    known = {each: sweep for each, sweep in sweeps_in([CONFIGS]).items() if sweep.scores}
    if name not in known:
        raise ValueError(f"scores={name} is unknown{did_you_mean(name, known)}; lists with scores are {', '.join(known)}")
    return known[name]


def _read(path: Path) -> Sweep:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold setting: <name> and values: [...] or scores: {{<value>: [<low>, <high>]}}")
    for key in content:
        if key not in _KEYS:
            raise ValueError(f"{path}: {key} is unknown{did_you_mean(str(key), _KEYS)}; a list has {', '.join(_KEYS)}")
    setting, scores = content.get("setting"), _scores(content.get("scores") or {}, path)
    values = content.get("values", list(scores))
    if not isinstance(setting, str) or not setting:
        raise ValueError(f"{path}: setting={setting} must be the name of a setting, such as env.game")
    if not isinstance(values, list) or not values or len({str(value) for value in values}) < len(values):
        raise ValueError(f"{path}: values must be a list of values, each once")
    return Sweep(setting, tuple(str(value) for value in values), scores)


def _scores(content: object, path: Path) -> dict[str, tuple[float, float]]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: scores must hold <value>: [<low>, <high>]")
    found = {}
    for name, pair in content.items():
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(each) in (int, float) for each in pair)
        if not numbers or pair[0] == pair[1]:
            raise ValueError(f"{path}: scores.{name}={pair} must be two different numbers, [<low>, <high>]")
        found[str(name)] = (float(pair[0]), float(pair[1]))
    return found


def spelled_in_full(words: Sequence[str], folders: Sequence[Path], multirun: bool) -> list[str]:
    """Returns the words with the values of a list in place of its name.

    Args:
        words: Words of a command line; of ``<setting>=@<name>`` only settings that have a list are considered.
        folders: Folders that are laid out like ``configs/``.
        multirun: Whether they describe a grid; a single run takes no list.

    Raises:
        ValueError: If there is no such list, or it is for a grid.
    """
    if not any("=@" in word or ",@" in word for word in words):
        return list(words)
    known = sweeps_in(folders)
    return [_in_full(word, known, multirun) for word in words]


def _in_full(word: str, known: Mapping[str, Sweep], multirun: bool) -> str:
    found = _WORD.fullmatch(word)
    own = {} if found is None else {name: sweep for name, sweep in known.items() if sweep.setting == found[1].lstrip("+")}
    if found is None or not own:
        return word
    parts, named = found[2].split(","), 0
    for place, part in enumerate(parts):
        name = _NAMED.fullmatch(part)
        if name is None:
            continue
        if name[1] not in own:
            lists = ", ".join(f"@{each}" for each in own)
            raise ValueError(f"{found[1]}={part} is unknown{did_you_mean(name[1], own)}; the lists of {found[1]} are {lists}")
        parts[place], named = ",".join(own[name[1]].values), len(own[name[1]].values)
    if named and not multirun:
        raise ValueError(f"{word} names {named} values; add -m to run them all")
    return f"{found[1]}={','.join(parts)}"
