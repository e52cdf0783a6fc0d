"""Methods by name: a name for a bundle of interventions, their settings and what else belongs to them.

``method=<name>`` is replaced by other words of the command line before anything is composed, so that a run, a grid and a study
accept it in the same way. A method has a file ``method/<name>.yaml`` in ``configs`` or in a user's folder; every intervention is
also a method of its own name, with its own defaults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from plasticity.interventions.registry import INTERVENTIONS
from plasticity.settings.naming import did_you_mean
from plasticity.training.config.choices import defaults_of, files
from plasticity.training.config.words import FREE, parse_overrides, quoted

METHOD: Final = "method"
_KEYS: Final = ("interventions", "words")
_MAY_SET: Final = ("network", "optimizer", "agent")  # a method sets no stream, steps or seed


@dataclass(frozen=True)
class Method:
    """A named bundle.

    Attributes:
        name: Of the method.
        interventions: Settings that differ from the defaults, by the name of the intervention, in order.
        words: Words of the command line that belong to it, such as ``network.activations=[tanh]``.
    """

    name: str
    interventions: Mapping[str, Mapping[str, Any]]
    words: tuple[str, ...] = field(default=())


def method_names(folders: Sequence[Path]) -> list[str]:
    """Returns the names of all methods.

    Args:
        folders: Folders that are laid out like ``configs/``.

    Raises:
        ValueError: If a file has the name of an intervention, or two files have the same.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for name in files(METHOD, folder):
            path = folder / METHOD / f"{name}.yaml"
            if name in INTERVENTIONS:
                raise ValueError(f"{path} has the name of an intervention, which is a method of that name; give it another")
            if name in found:
                raise ValueError(f"method={name} has two files, {found[name]} and {path}; give yours another name")
            found[name] = path
    return sorted({*found, *INTERVENTIONS})


def read_method(name: str, folders: Sequence[Path]) -> Method:
    """Returns a method by its name.

    Args:
        name: One of ``method_names``.
        folders: Where files are looked for.

    Raises:
        ValueError: In one line that names the file, if it is not a method's.
    """
    for folder in folders:
        path = folder / METHOD / f"{name}.yaml"
        if path.is_file():
            try:
                content = yaml.safe_load(path.read_text())
            except (OSError, yaml.YAMLError) as error:
                raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
            return _checked(name, content or {}, path)
    return Method(name, {name: {}})


def _checked(name: str, content: object, path: Path) -> Method:
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold settings: {' and '.join(_KEYS)}")
    for key in content:
        if key not in _KEYS:
            raise ValueError(f"{path}: {key} is unknown{did_you_mean(str(key), _KEYS)}; a method has {', '.join(_KEYS)}")
    bundle, words = content.get("interventions") or {}, content.get("words") or []
    if not isinstance(bundle, Mapping) or not all(isinstance(values or {}, Mapping) for values in bundle.values()):
        raise ValueError(f"{path}: interventions must hold names with their settings, or nothing, below each")
    for each, values in bundle.items():
        known = list(INTERVENTIONS)
        if each not in known:
            raise ValueError(f"{path}: interventions.{each} is unknown{did_you_mean(str(each), known)}; see list=interventions")
        settings = list(defaults_of(INTERVENTIONS[each]))
        for key in values or {}:
            if key not in settings:
                hint = did_you_mean(str(key), settings)
                raise ValueError(f"{path}: interventions.{each}.{key} is unknown{hint}; {each} has {', '.join(settings)}")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{path}: words must be a list of words of the command line, such as network.activations=[tanh]")
    for override in parse_overrides(words):
        if override.key_or_group.partition(".")[0] not in _MAY_SET or override.is_sweep_override():
            raise ValueError(
                f"{path}: {override.input_line} does not belong to a method, which sets one value of {', '.join(_MAY_SET)}"
            )
    spelled = tuple(f"++{word}" if word.startswith(FREE) else word for word in words)
    return Method(name, {each: dict(values or {}) for each, values in bundle.items()}, spelled)


def spelled_out(
    method: Method, said: Sequence[str], protocol: Sequence[str], configured: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Returns the words that a method stands for.

    Interventions of the experiment's protocol come after those of the method; other interventions of the experiment are left out.
    An intervention that is in both has the method's settings.

    Args:
        method: The method.
        said: Names of what other words set, which take precedence over those of the method.
        protocol: Interventions that the experiment keeps under every method.
        configured: What the experiment sets of interventions, by name.
    """
    kept = [name for name in protocol if name not in method.interventions]
    chosen = [*method.interventions, *kept]
    words = [f"intervention=[{','.join(chosen)}]"]
    words += [f"~interventions.{name}" for name in configured if name not in chosen and f"interventions.{name}" not in said]
    for name, settings in method.interventions.items():
        # Where the experiment sets something, the method goes back to the defaults.
        values = {**(defaults_of(INTERVENTIONS[name]) if name in configured else {}), **settings}
        words += [f"interventions.{name}.{key}={spelled(value)}" for key, value in values.items()]
    words += method.words
    return [word for word in words if word.lstrip("+").partition("=")[0] not in said]


def spelled(value: object) -> str:
    """Returns a value of a YAML file as Hydra's grammar writes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{spelled(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spelled, value))}]"
    return str(value)


def fit_to_methods(
    runs: Sequence[tuple[str, ...]], chosen: Sequence[Sequence[str] | None]
) -> tuple[tuple[tuple[str, ...], ...], list[str]]:
    """Removes settings from the runs of a grid without their intervention, and then duplicate runs.

    A setting of an intervention that no run has stays: it is a mistake, and is refused as one.

    Args:
        runs: The words of each run.
        chosen: Interventions of each run; None where no word chooses them.

    Returns:
        The words of each run, each once, and a note for each setting that was taken out of some runs.
    """
    somewhere = {name for names in chosen for name in names or ()}
    fitting: dict[tuple[str, ...], None] = {}
    left_out: dict[str, dict[str, None]] = {}
    for words, names in zip(runs, chosen, strict=True):
        unfit = []
        for word in words if names is not None else ():
            section, _, rest = word.lstrip("+~").partition("=")[0].partition(".")
            owner = rest.partition(".")[0]
            if section == "interventions" and owner in somewhere and owner not in (names or ()):
                unfit.append(word)
                choice = next(each for each in words if each.partition("=")[0] in (METHOD, "intervention"))
                left_out.setdefault(word.lstrip("+~").partition("=")[0], {})[choice] = None
        fitting[tuple(word for word in words if word not in unfit)] = None
    notes = [f"{name} does not apply to {', '.join(choices)}, whose runs leave it out" for name, choices in left_out.items()]
    return tuple(fitting), notes
