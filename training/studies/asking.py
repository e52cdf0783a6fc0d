"""``study=``: from the words of a command line to the study that they ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydra.core.override_parser.types import Override

from plasticity.settings.naming import did_you_mean
from plasticity.training.config.command_line import Composer
from plasticity.training.config.words import parse_overrides
from plasticity.training.studies.reading import read_study
from plasticity.training.studies.specification import StudySettings

FOLDER: Final = "study"  # of the studies' files, in ``configs`` and in a user's folder
_ROOT: Final = Path("studies")
_SWITCHES: Final = ("short", "plan", "retry")
_OF_THE_MACHINE: Final = ("device", "threads", "checkpoint.every_steps", "checkpoint.keep")


@dataclass(frozen=True)
class Study:
    """A study to be run, or planned.

    Attributes:
        file: Its file.
        settings: What the file holds.
        resolved: The same as plain containers with all defaults, for its folder.
        folder: Its folder.
        launcher: Words for Hydra: which launcher, how it is set up, and where a user's YAML files are.
        composer: Where YAML files are found.
        extra: Words for every run that set how it is computed and not what.
        plan: Whether to print what would be run, and to run nothing.
        retry: Whether runs that failed are run again.
    """

    file: Path
    settings: StudySettings
    resolved: Mapping[str, Any]
    folder: Path
    launcher: tuple[str, ...]
    composer: Composer
    extra: tuple[str, ...] = ()
    plan: bool = False
    retry: bool = False


def study_asked(flags: Mapping[str, str], words: Sequence[str], composer: Composer) -> Study:
    """Returns the study that a command line asks for. Nothing is written.

    Args:
        flags: Values of the flags by their long names.
        words: All words, ``study=`` among them.
        composer: Where YAML files are found.

    Raises:
        ValueError: In one line that names what is wrong and what is allowed.
        HydraException: If there is no such launcher, or setting of it.
    """
    for flag in flags.keys() - {"--config-dir"}:
        raise ValueError(f"{flag} does not go with study=, which runs everything in its file; leave it out")
    given: dict[str, Override] = {}
    launcher, extra = [], []
    for word, override in zip(words, parse_overrides(words), strict=True):
        name = override.key_or_group
        if name in given:
            raise ValueError(f"{name} is given twice; give it once")
        given[name] = override
        if override.is_hydra_override():
            if not name.startswith(("hydra/launcher", "hydra.launcher.")):
                raise ValueError(f"{word}: of Hydra's words a study takes only the launcher's, hydra/launcher=joblib")
            launcher.append(word)
        elif name in _OF_THE_MACHINE:
            extra.append(word)
        elif name not in ("study", "run_dir", *_SWITCHES):
            known = ["study", *_SWITCHES, "run_dir", "hydra/launcher", *_OF_THE_MACHINE]
            raise ValueError(f"{word} belongs in the study's file; study= takes {', '.join(known)}{did_you_mean(name, known)}")
        if override.is_sweep_override():
            raise ValueError(f"{word} names several values; a study takes one")
    file = study_file(str(given["study"].value()), composer)
    switched = {name: _switch(name, given) for name in _SWITCHES}
    settings, resolved = read_study(file, switched["short"], composer.folders)
    run_dir = given["run_dir"].value() if "run_dir" in given else None
    folder = Path(str(run_dir)).expanduser() if run_dir else _ROOT / f"{settings.name}{'_short' if switched['short'] else ''}"
    words_for_hydra = (*launcher, *composer.hydra_words)
    if launcher:
        with composer.hydra():
            composer.launcher_config(words_for_hydra)  # refused before there is a folder
    return Study(file, settings, resolved, folder, words_for_hydra, composer, tuple(extra), switched["plan"], switched["retry"])


def study_file(name: str, composer: Composer) -> Path:
    """Returns the file of a study: a path that ends in ``.yaml``, or the name of one in a folder of studies.

    Raises:
        ValueError: If there is none, or two of that name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"study={name}: there is no such file")
        return path
    found = [folder / FOLDER / f"{name}.yaml" for folder in (composer.configs, composer.own) if folder is not None]
    there = [path for path in found if path.is_file()]
    if len(there) > 1:
        raise ValueError(f"study={name} has two files, {there[0]} and {there[1]}; give yours another name")
    if not there:
        known = studies_in(composer)
        raise ValueError(
            f"study={name} is unknown{did_you_mean(name, known)}; choose from {', '.join(known) or 'no names'}, or give a path, "
            "study=./mine.yaml"
        )
    return there[0]


def studies_in(composer: Composer) -> list[str]:
    """Returns the names of the studies there are."""
    folders = [folder / FOLDER for folder in (composer.configs, composer.own) if folder is not None]
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _switch(name: str, given: Mapping[str, Override]) -> bool:
    value = given[name].value() if name in given else False
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value} must be true or false")
    return value
