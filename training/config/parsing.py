"""From the words of a command line to the one command that they stand for, checked and planned once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plasticity.settings.plugins import load_plugins
from plasticity.training.branching.planning import branch_plan, is_branch, methods_of, points_in
from plasticity.training.branching.point import BranchPoint
from plasticity.training.config.choices import chosen_from
from plasticity.training.config.command_line import Composer, checked_overrides
from plasticity.training.config.config_store import CHOICES
from plasticity.training.config.hydra_text import hydra_text
from plasticity.training.config.listing import help_text, list_lines
from plasticity.training.config.methods import fit_to_methods
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.config.sweeps import spelled_in_full
from plasticity.training.config.words import (
    covering,
    parse_overrides,
    plain_texts,
    plugin_places,
    split_flags,
    with_absolute_plugins,
    word_lists,
)
from plasticity.training.saving.resuming import all_words, saved_settings
from plasticity.training.studies.asking import Study, study_asked

_NOT_FILES: Final = ("interventions", "metrics")  # what list= takes from the registries only


@dataclass(frozen=True)
class Train:
    """One run.

    Attributes:
        plan: What to run.
        words: The words that it was planned from, kept in its folder.
        folder: Its folder; None for one that names itself.
        resume: Whether it continues the run in the folder.
        settings: The user's YAML files that the plan came from.
        origin: Where another run is branched from, or None.
    """

    plan: Plan
    words: tuple[str, ...]
    folder: Path | None
    resume: bool = False
    settings: tuple[Path, ...] = ()
    origin: BranchPoint | None = None


@dataclass(frozen=True)
class Grid:
    """Several runs, each of which a worker composes and plans from its words.

    Attributes:
        runs: The words of each run, as Hydra composes them: what a method stands for is spelled out.
        said: The words of each run, as the user wrote them; those of settings that do not fit its method are taken out.
        notes: Lines for the user about what was taken out.
        launcher: Words for Hydra: which launcher, how it is set up, and where a user's YAML files are.
        plans: Plans of enough runs that every word is in one of them, to be tried out before any run starts.
        folder: Folder of all runs; None for one that is named after the first.
        own: Folder of the user's YAML files.
        branches: Whether the runs are branches, which are composed from their parents.
    """

    runs: tuple[tuple[str, ...], ...]
    said: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    launcher: tuple[str, ...]
    plans: tuple[Plan, ...]
    folder: Path | None
    own: Path | None = None
    branches: bool = False


@dataclass(frozen=True)
class Evaluate:
    """Episodes with a checkpoint.

    Attributes:
        plan: The run's plan, with the settings of this evaluation.
        folder: The run folder.
    """

    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Show:
    """A text for the user: help, a list, a config."""

    text: str


@dataclass(frozen=True)
class Report:
    """A page that compares finished runs.

    Attributes:
        folders: Grids, studies, runs, or folders that hold any of them; or one bundle.
        out: Folder of the page; None for one in the folder.
        bundle: File to pack runs and page into, or None.
        baseline: Method that the others are compared with, or None.
    """

    folders: tuple[Path, ...]
    out: Path | None = None
    bundle: Path | None = None
    baseline: str | None = None


Command = Train | Grid | Evaluate | Report | Show | Study
_REPORT_WORDS: Final = ("report", "run_dir", "bundle", "baseline")


def parse(arguments: Sequence[str]) -> Command:
    """Returns what a command line asks for. Nothing is written.

    Args:
        arguments: Words of the command line without the program.

    Raises:
        ValueError: In one line that names what is wrong and the valid choices.
        HydraException: If there is no such launcher, or setting of it.
    """
    flags, words = split_flags(arguments)
    own = Path(flags["--config-dir"]).expanduser().absolute() if "--config-dir" in flags else None
    composer, words = Composer(own=own), with_absolute_plugins(words)
    listing = _value_of("list", words)
    if listing is not None or "--help" in flags:
        load_plugins(plugin_places(words))
        return Show("\n".join(_listed(listing, composer)) if listing is not None else help_text(composer.configs))
    if _value_of("report", words) is not None:
        return _report(flags, words)
    if _value_of("study", words) is not None:
        return study_asked(flags, words, composer)
    resumed = _value_of("resume", words)
    if resumed not in (None, "null"):
        words = [word for word in words if not word.startswith("resume=")]
        return _resumed(Path(str(resumed)), flags, words, composer)
    words = spelled_in_full(words, composer.folders, "--multirun" in flags)
    load_plugins(plugin_places(words))
    if is_branch(words):
        return _branched(flags, words, composer)
    choices = composer.choices()
    overrides = checked_overrides(words, choices, "--multirun" in flags)
    runs = word_lists([override for override in overrides if not override.is_hydra_override()])
    runs, notes = fit_to_methods(runs, [composer.interventions_of(run) for run in runs]) if "--multirun" in flags else (runs, [])
    plans = tuple(plan_from(composer.compose(run, choices)) for run in covering(runs))
    first = plans[0]
    if flags.keys() - {"--multirun", "--config-dir"}:
        return Show(hydra_text(flags, composer.spelled_out(runs[0]), composer))
    if any(plan.run.mode == "evaluate" for plan in plans):
        raise ValueError("mode=evaluate plays with a checkpoint of one run; give its folder, resume=<run folder>")
    folder = Path(first.run.run_dir) if first.run.run_dir else None
    if "--multirun" not in flags:
        return Train(first, runs[0], folder, settings=chosen_from(own, first.config[CHOICES]))
    runs = tuple(tuple(word for word in run if not word.startswith("run_dir=")) for run in runs)
    hydra = [str(override.input_line) for override in overrides if override.is_hydra_override()]
    launcher = (*hydra, *composer.hydra_words)
    if hydra:
        with composer.hydra():
            composer.launcher_config(launcher)  # refused before there is a folder
    return Grid(tuple(tuple(composer.spelled_out(run)) for run in runs), runs, tuple(notes), launcher, plans, folder, own)


def _branched(flags: Mapping[str, str], words: Sequence[str], composer: Composer) -> Command:
    """Plans one or several runs that start from checkpoints of others."""
    several = "--multirun" in flags
    for flag in flags.keys() - {"--multirun", "--config-dir"}:
        raise ValueError(f"{flag} does not go with branch.run=; leave it out")
    for point in points_in(words):  # what plugins of the parents register may be named by the words
        load_plugins(point.config()["plugins"])
    overrides = checked_overrides(words, composer.choices(), several)
    runs = word_lists([override for override in overrides if not override.is_hydra_override()])
    runs, notes = fit_to_methods(runs, [methods_of(run, composer) for run in runs]) if several else (runs, [])
    planned = [branch_plan(run, composer) for run in covering(runs)]
    first, origin = planned[0]
    folder = Path(first.run.run_dir) if first.run.run_dir else None
    if not several:
        return Train(first, runs[0], folder, settings=chosen_from(composer.own, first.config[CHOICES]), origin=origin)
    runs = tuple(tuple(word for word in run if not word.startswith("run_dir=")) for run in runs)
    launcher = (*(str(each.input_line) for each in overrides if each.is_hydra_override()), *composer.hydra_words)
    with composer.hydra():
        composer.launcher_config(launcher)
    nothing: tuple[str, ...] = ()
    plans = tuple(plan for plan, _ in planned)
    return Grid(tuple(nothing for _ in runs), runs, tuple(notes), launcher, plans, folder, composer.own, branches=True)


def _resumed(folder: Path, flags: Mapping[str, str], words: Sequence[str], composer: Composer) -> Command:
    """Plans to continue a run: its settings are those that were resolved at its start, changed only by the new words.

    Whether these changes are allowed is decided when the result is compared with the checkpoint.
    """
    saved = saved_settings(folder)
    if "--multirun" in flags:
        raise ValueError("resume continues one run; leave -m out")
    if any(override.key_or_group == "run_dir" for override in parse_overrides(words)):
        raise ValueError("resume continues in the run's own folder; leave run_dir out")
    load_plugins([*saved["plugins"], *plugin_places(words)])
    choices = composer.choices()
    checked_overrides(words, choices)
    config = composer.compose_onto(saved, words, choices) | {"run_dir": str(folder)}
    plan = plan_from(config)
    if plan.run.mode == "evaluate":
        return Evaluate(plan, folder)
    before = saved.get(CHOICES) or {}
    chosen = {group: name for group, name in config[CHOICES].items() if before.get(group) != name}
    return Train(plan, tuple(all_words(folder, words)), folder, resume=True, settings=chosen_from(composer.own, chosen))


def _report(flags: Mapping[str, str], words: Sequence[str]) -> Report:
    for flag in flags:
        raise ValueError(f"{flag} does not go with report=, which reads folders; leave it out")
    said: dict[str, list[str]] = {}
    for override in parse_overrides(words):
        name = override.key_or_group
        if name not in _REPORT_WORDS:
            raise ValueError(f"{override.input_line} does not go with report=, which takes only {', '.join(_REPORT_WORDS[1:])}")
        said[name] = plain_texts(override)
        if not all(said[name]) or not said[name]:
            raise ValueError(f"{override.input_line} is empty; report= takes folders of grids, studies and runs, report=a,b")
    for name in _REPORT_WORDS[1:]:
        if len(said.get(name, [])) > 1:
            raise ValueError(f"{name}={','.join(said[name])} must be one name")
    out, bundle = (Path(said[name][0]).expanduser() if name in said else None for name in ("run_dir", "bundle"))
    folders = tuple(Path(name).expanduser() for name in said["report"])
    return Report(folders, out, bundle, said["baseline"][0] if "baseline" in said else None)


def _value_of(name: str, words: Sequence[str]) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"{name}=")), None)


def _listed(kind: str, composer: Composer) -> list[str]:
    lines, own = list_lines(kind, composer.configs, composer.own), composer.own
    return lines if own is None or kind in _NOT_FILES or "." in kind else [*lines, *list_lines(kind, own)]
