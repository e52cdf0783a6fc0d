"""From checked words to one composed config, and one clear line for what does not fit into it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plasticity.settings.naming import did_you_mean
from plasticity.training.config.choices import options
from plasticity.training.config.config_store import CHOICES, GROUPS, register_configs
from plasticity.training.config.methods import METHOD, method_names, read_method, spelled_out
from plasticity.training.config.words import FREE, HYDRA, check_words, chosen_names, chosen_values, parse_overrides, quoted

CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs"
CONFIG: Final = "config"  # name of the file that every other config is composed into
_RESUMED: Final = "_resumed"
_COMMANDS: Final = {  # words that name what to do, and words that are valid only with them
    "study": ("short", "plan", "retry"),
    "report": ("bundle", "baseline"),
    "list": (),
}
_SECTIONS: Final = ("agent", "env", "network", "optimizer", "metrics")  # groups that fill the section of their name


@dataclass(frozen=True)
class Composer:
    """Composes configs from the project's YAML files and a user's.

    Attributes:
        configs: Folder of the project's.
        own: Folder of the user's, laid out like it: ``experiment/mine.yaml`` is chosen by ``experiment=mine``.
    """

    configs: Path = CONFIGS
    own: Path | None = None
    _protocols: dict[tuple[str, ...], tuple[list[str], dict[str, Any]]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.own is not None and not self.own.is_dir():
            raise ValueError(f"--config-dir {self.own}: there is no such folder")

    @property
    def folders(self) -> list[Path]:
        """The folders of YAML files, the project's first."""
        return [self.configs, *([self.own] if self.own is not None else [])]

    @property
    def hydra_words(self) -> list[str]:
        """The words by which Hydra finds the user's folder."""
        return [] if self.own is None else [f"hydra.searchpath=[{quoted(f'file://{self.own}')}]"]

    def choices(self) -> dict[str, list[str]]:
        """Returns what there is to choose from in each group; plugins must be loaded.

        Raises:
            ValueError: If a file of the user has the name of one of the project's, which would hide it.
        """
        found = {group: options(group, self.configs) for group in GROUPS if group != METHOD}
        found[METHOD] = method_names(self.folders)
        if self.own is not None:
            for group in found:
                theirs = [] if group in ("intervention", METHOD) else options(group, self.own)
                for name in set(theirs).intersection(found[group]):
                    first, second = (folder / group / f"{name}.yaml" for folder in (self.configs, self.own))
                    raise ValueError(f"{group}={name} has two files, {first} and {second}; give yours another name")
                found[group] += theirs
        return found

    @contextmanager
    def hydra(self) -> Iterator[None]:
        """Sets up Hydra for the block; plugins must be loaded."""
        register_configs()
        known = GlobalHydra.instance()
        outer, known.hydra = known.hydra, None  # set by a grid, if this is called in one of its runs
        try:
            with initialize_config_dir(str(self.configs.resolve()), version_base="1.3", job_name="run_agent"):
                yield
        finally:
            known.hydra = outer

    def launcher_config(self, words: Sequence[str]) -> DictConfig:
        """Composes the settings of a launcher; ``hydra`` must be set up.

        Raises:
            HydraException: If there is no such launcher or setting of it.
        """
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return hydra.compose_config(CONFIG, list(words), RunMode.MULTIRUN)

    def compose(self, words: Sequence[str], choices: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Composes one run from the words that set something in it.

        Args:
            words: Checked words of one run.
            choices: What ``choices`` returns.

        Raises:
            ValueError: If a setting is unknown, with what is known in its place; or if its value does not fit there.
        """
        name = method_of(words)
        words = self.spelled_out(words)
        overrides = parse_overrides(words)
        named = [override for override in overrides if not override.key_or_group.startswith(FREE)]
        try:
            config = self._compose(words)
        except ValueError:
            self._check_keys(named, choices)
            raise
        if any(override.is_add() or override.is_force_add() or override.is_delete() for override in named):
            self._check_keys(named, choices)  # these may name settings that do not exist
        if name is not None:
            config[CHOICES][METHOD] = name
        return config

    def spelled_out(self, words: Sequence[str]) -> list[str]:
        """Returns the words of a run in which the words of its method, which come first, replace ``method=``.

        Raises:
            ValueError: If the method's file is not a method's, or the list of interventions is given as well.
        """
        name = method_of(words)
        overrides = [override for override in parse_overrides(words) if override.key_or_group != METHOD]
        others = [str(override.input_line) for override in overrides]
        if name is None:
            return others
        said = {override.key_or_group for override in overrides}
        if "intervention" in said:
            raise ValueError(f"method={name} and intervention= both choose the interventions; leave one of them out")
        experiment = [str(override.input_line) for override in overrides if override.key_or_group == "experiment"]
        protocol, configured = self._protocol(experiment) if experiment else ((), {})
        return [*spelled_out(read_method(name, self.folders), sorted(said), protocol, configured), *others]

    def interventions_of(self, words: Sequence[str]) -> list[str] | None:
        """Returns the interventions that the words of a run choose, by themselves or by a method; None if they choose none."""
        for override in parse_overrides(self.spelled_out(words)):
            if override.key_or_group == "intervention":
                return chosen_names(chosen_values(override)[0])
        return None

    def _protocol(self, experiment: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """Returns the interventions that an experiment keeps under every method, and what it sets of any."""
        key = tuple(experiment)
        if key not in self._protocols:
            config = self._compose([*experiment, "intervention=[]"])
            self._protocols[key] = (config["protocol"], config["interventions"])
        return self._protocols[key]

    def _check_keys(self, overrides: Sequence[Override], choices: Mapping[str, Sequence[str]]) -> None:
        """Looks up every key in the config that the chosen groups alone compose to."""
        groups = [override for override in overrides if override.key_or_group in choices]
        base = self._compose([str(override.input_line) for override in groups])
        check_keys(overrides, base, choices)

    def compose_onto(
        self, saved: Mapping[str, Any], words: Sequence[str], choices: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Changes a resolved config by words. What they do not name is not looked up in today's files.

        A group with an unchanged choice keeps all of its settings; another choice is composed from the files.

        Args:
            saved: The config, as a run folder or a checkpoint holds it.
            words: Checked words of one run.
            choices: What ``choices`` returns.

        Raises:
            ValueError: If a setting is unknown, or its value does not fit.
        """
        overrides = parse_overrides(words)
        groups = {override.key_or_group: override for override in overrides if override.key_or_group in choices}
        base = self._with_choices(saved, groups)
        chosen = base.pop(CHOICES)
        check_keys(overrides, base, choices)
        ConfigStore.instance().store(name=_RESUMED, node=base)
        settings = [str(override.input_line) for override in overrides if override.key_or_group not in groups]
        return self._compose(settings, _RESUMED) | {CHOICES: chosen}

    def _with_choices(self, saved: Mapping[str, Any], groups: Mapping[str, Override]) -> dict[str, Any]:
        before = dict(saved.get(CHOICES) or {})
        chosen = {name: "null" if override.is_delete() else chosen_values(override)[0] for name, override in groups.items()}
        for group in ("experiment", METHOD):
            was, now = (choices.get(group, "null") for choices in (before, {**before, **chosen}))
            if was != now:
                raise ValueError(f"checkpoint has {group}={was}, command line has {group}={now}")
        changed = [name for name in _SECTIONS if name in chosen and chosen[name] != before.get(name)]
        kept = saved["interventions"]
        methods = chosen_names(chosen["intervention"]) if "intervention" in chosen else list(kept)
        added = [name for name in methods if name not in kept]
        words = [f"intervention=[{','.join(added)}]", *(str(groups[name].input_line) for name in changed)]
        new = self._compose(words) if added or changed else {}
        return {
            **saved,
            **{name: new.get(name) for name in changed},
            "interventions": {name: kept[name] if name in kept else new["interventions"][name] for name in methods},
            CHOICES: before | {name: chosen[name] for name in changed},
        }

    def _compose(self, words: Sequence[str], name: str = CONFIG) -> dict[str, Any]:
        """Composes a config, and adds under ``choices`` which file of each group it was made of."""
        ours = [word for word in words if not word.lstrip("+~").startswith(HYDRA)]
        try:
            with self.hydra():
                config = compose(name, overrides=[*ours, *self.hydra_words], return_hydra_config=True)
            chosen = chosen_files(config.hydra.runtime.choices)
            OmegaConf.set_struct(config, False)
            del config["hydra"]
            container = OmegaConf.to_container(config, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(" ".join(str(error).split())) from error
        assert isinstance(container, dict)
        return {str(key): value for key, value in container.items()} | {CHOICES: chosen}


def compose_config(words: Sequence[str], configs: Path) -> dict[str, Any]:
    """Composes one config from checked words; plugins must be loaded."""
    return Composer(configs)._compose(words)


def checked_overrides(words: Sequence[str], choices: Mapping[str, Sequence[str]], multirun: bool = False) -> list[Override]:
    """Parses words and makes the checks that need no composed config.

    Raises:
        ValueError: In one line that names what is wrong and the valid choices.
    """
    overrides = parse_overrides(words)
    check_words(overrides, choices, multirun)
    return overrides


def method_of(words: Sequence[str]) -> str | None:
    """Returns the name in ``method=``, or None."""
    named = [override for override in parse_overrides(words) if override.key_or_group == METHOD and not override.is_delete()]
    value = chosen_values(named[0])[0] if named else "null"
    return None if value == "null" else value


def chosen_files(choices: Mapping[str, Any], method: str | None = None) -> dict[str, str]:
    """Returns the words by which the groups but the interventions were chosen: those of Hydra's record, and the method's."""
    chosen = {group: str(choices[group]) for group in GROUPS if group != "intervention" and choices.get(group)}
    return chosen if method is None else {**chosen, METHOD: method}


def check_keys(overrides: Sequence[Override], base: Mapping[str, Any], choices: Mapping[str, Sequence[str]]) -> None:
    """Refuses settings that a config does not have.

    Raises:
        ValueError: With what it has in that place.
    """
    tree = {key: value for key, value in base.items() if key != CHOICES}
    for override in overrides:
        name = override.key_or_group
        if name in choices or override.is_hydra_override() or name.startswith(FREE):
            continue
        node: Any = tree
        path = name.split(".")
        for depth, key in enumerate(path):
            if not isinstance(node, dict) or key not in node:
                raise ValueError(_unknown_key(path, depth, node, choices))
            node = node[key]


def _unknown_key(path: Sequence[str], depth: int, node: object, choices: Mapping[str, Sequence[str]]) -> str:
    name = ".".join(path)
    if not isinstance(node, dict):
        return f"{name} is unknown; {'.'.join(path[:depth])} is a single value"
    if path[0] == "interventions" and depth == 1 and path[1] in choices["intervention"]:
        return f"{name} is set, but {path[1]} is not chosen in intervention=[{','.join(node)}]; add it there"
    command = next((each for each, theirs in _COMMANDS.items() if depth == 0 and path[0] in theirs), None)
    if command is not None:
        what = "a study, study=<name> or study=./mine.yaml (list=studies)" if command == "study" else "folders, report=<folder>"
        return f"{name} is valid only with {command}=, which is missing; name {what}"
    known = sorted({*node, *choices} if depth == 0 else node)
    hint = did_you_mean(path[depth], [*known, *_COMMANDS] if depth == 0 else known)
    where = ".".join(path[:depth]) or "the config"
    return f"{name} is unknown{hint}; {where} has {', '.join(known) or 'no settings'}"
