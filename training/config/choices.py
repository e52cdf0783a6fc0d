"""The choices of each config group: its YAML files, and the entries that plugins registered."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from plasticity.agents.registry import AGENTS
from plasticity.envs.registry import STREAMS
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.registry import TORSOS
from plasticity.optimizers.factory import OPTIMIZERS
from plasticity.settings.registry import Registry

PARTS: Final = "parts"  # key of the settings of single parts


class Group(NamedTuple):
    """A group of the config whose choices stand in a registry.

    Attributes:
        registry: Its entries.
        settings: Returns the class of an entry's settings.
        describe: Returns one line on an entry.
        more: What its node holds besides the name and the settings.
        key: Key of the name.
    """

    registry: Registry[Any]
    settings: Callable[[Any], type]
    describe: Callable[[Any], str]
    more: dict[str, object]
    key: str = "name"

    def node(self, name: str) -> dict[str, object]:
        """Returns the config of an entry: its name, and the default of each setting."""
        own = {key: value for key, value in defaults_of(self.settings(self.registry[name])).items() if key != self.key}
        return {self.key: name, **own, **self.more}


REGISTERED: Final = {
    "agent": Group(AGENTS, lambda entry: entry.settings, lambda entry: entry.description, {}),
    "env": Group(STREAMS, lambda entry: entry, lambda entry: first_line(entry.__doc__), {}),
    "network": Group(TORSOS, lambda entry: entry, lambda entry: first_line(entry.__doc__), {PARTS: {}}, "torso"),
    "optimizer": Group(OPTIMIZERS, lambda entry: entry.settings, lambda entry: entry.description, {PARTS: {}}),
    "intervention": Group(INTERVENTIONS, lambda entry: entry, lambda entry: first_line(entry.__doc__), {}),
}


def files(group: str, folder: Path) -> list[str]:
    """Returns the choices of a group that have a YAML file in a folder that is laid out like ``configs/``."""
    return sorted(path.stem for path in (folder / group).glob("*.yaml") if not path.stem.startswith("_"))


def chosen_from(own: Path | None, choices: Mapping[str, str]) -> tuple[Path, ...]:
    """Returns the files of a user's folder that a config was made of.

    Args:
        own: The folder, laid out like ``configs/``; None for none.
        choices: Word by which each group was chosen.
    """
    if own is None:
        return ()
    places = (own / group / f"{name}.yaml" for group, name in choices.items())
    return tuple(path.absolute() for path in places if path.is_file())


def added(group: str, configs: Path) -> list[str]:
    """Returns the choices of a group that plugins registered and that have no YAML file.

    Raises:
        ValueError: A plugin registered a name that a file of ``configs`` already has.
    """
    if group not in REGISTERED:
        return []
    registry, written = REGISTERED[group].registry, files(group, configs)
    names = registry.added()
    for name in sorted(set(names).intersection(written)):
        path = configs / group / f"{name}.yaml"
        if f"_{name}" not in (yaml.safe_load(path.read_text()) or {}).get("defaults", []):
            raise ValueError(
                f"{group}={name} is defined twice: in {path} and in {registry.file_of(name)}; give yours another name"
            )
    return [name for name in names if name not in written]


def options(group: str, configs: Path) -> list[str]:
    """Returns the choices of a config group: those with a file in ``configs``, and those that plugins registered.

    Every intervention is a method of its own name as well.
    """
    if group == "intervention":
        return list(INTERVENTIONS)
    if group == "method":
        return sorted({*files(group, configs), *INTERVENTIONS})
    return sorted([*files(group, configs), *added(group, configs)])


def defaults_of(settings: type) -> dict[str, object]:
    """Returns the default of each field in plain containers; without OmegaConf, whose checks take as long as the rest."""
    found: Any = fields(settings)
    defaults = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in found}
    return {name: _plain(value) for name, value in defaults.items()}


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def first_line(doc: str | None) -> str:
    """Returns the first line of a docstring, "" without one."""
    return ((doc or "").strip().splitlines() or [""])[0]
