"""What there is to choose from and to set: ``list=...`` and ``--help``."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from textwrap import wrap
from typing import Final

from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.settings.fields import describe, require_choice
from plasticity.training.config.choices import REGISTERED, files, first_line, options
from plasticity.training.config.command_line import Composer
from plasticity.training.config.config_store import SECTIONS
from plasticity.training.config.settings import RunSettings
from plasticity.training.config.sweeps import SWEEP, sweeps_in
from plasticity.training.entry import program

_KINDS: Final = {
    "agents": "agent",
    "envs": "env",
    "networks": "network",
    "optimizers": "optimizer",
    "interventions": "intervention",
    "methods": "method",
    "metrics": "metrics",
    "experiments": "experiment",
    "studies": "study",
    "sweeps": SWEEP,
}
_WIDTH: Final = 110


def list_lines(kind: str, configs: Path, own: Path | None = None) -> list[str]:
    """Returns one line for each entry: its name, then its description.

    Args:
        kind: ``agents``, ``envs``, ``networks``, ``optimizers``, ``interventions``, ``methods``, ``metrics``, ``experiments``,
            ``studies`` or ``sweeps``; or, with the name of a registered one, such as ``agents.dqn``, for its settings, and with
            that of a sweep for its values.
        configs: Folder of the YAML files.
        own: Folder of the user's, for the values of a sweep of theirs.

    Raises:
        ValueError: If the kind or the name is unknown.
    """
    kind, _, name = kind.partition(".")
    require_choice("list", kind, list(_KINDS))
    group = _KINDS[kind]
    if name:
        rows = (
            _values_of(name, [configs, *([] if own is None else [own])])
            if group == SWEEP
            else _settings_of(group, kind, name, configs)
        )
    elif kind == "metrics":
        rows = {name: entry.line for name, entry in CATALOGUE.items()}
    elif kind == "interventions":
        rows = {name: first_line(method.__doc__) for name, method in INTERVENTIONS.items()}
    else:
        rows = {name: _description(group, name, configs) for name in options(group, configs)}
    width = max(map(len, rows), default=0)
    return [f"{name:<{width}}  {description}".rstrip() for name, description in rows.items()]


def _settings_of(group: str, kind: str, name: str, configs: Path) -> dict[str, str]:
    """Returns the settings of a choice: name and value, then what they mean and may be."""
    if group not in REGISTERED:
        raise ValueError(f"list={kind}.{name} is unknown; settings are listed of {', '.join(map(_plural, REGISTERED))}")
    registered, chosen = REGISTERED[group], {}
    if name not in registered.registry and name in options(group, configs):  # a choice that sets some of them otherwise
        composer = Composer()
        chosen = composer.compose([f"{group}={name}"], composer.choices())[group]
        name = str(chosen.get("name") or chosen["torso"])
    require_choice("list", f"{kind}.{name}", [f"{kind}.{other}" for other in registered.registry])
    rows = {}
    for entry in describe(registered.settings(registered.registry[name])).values():
        allowed = entry.rule.allowed()
        value = chosen.get(entry.name, entry.default)
        rows[f"{entry.name}={value}"] = " ".join(filter(None, (entry.rule.doc, allowed and f"[{allowed}]")))
    return rows


def _values_of(name: str, folders: Sequence[Path]) -> dict[str, str]:
    """Returns the values of a list, with the scores of those that have some."""
    known = sweeps_in(folders)
    require_choice("list", f"sweeps.{name}", [f"sweeps.{each}" for each in known])
    scores = known[name].scores
    return {value: "{:g} to {:g}".format(*scores[value]) if value in scores else "" for value in known[name].values}


def _plural(group: str) -> str:
    return next(kind for kind, other in _KINDS.items() if other == group)


def help_text(configs: Path) -> str:
    """Returns the text of ``--help``."""
    choices = {group: options(group, configs) for group in _KINDS.values() if group != SWEEP}
    choices["method"] = files("method", configs)
    groups = "\n".join(f"  {group:<13} {', '.join(names)}" for group, names in choices.items())
    settings = "\n".join(_setting_lines())
    text = f"""Trains an agent on a changing problem and measures how well it can still learn.

  python run_agent.py                                        DQN on the contextual bandit, a minute or two on a slow core
  python run_agent.py agent=supervised env=permuted_pixels   a supervised learner on permuted images
  python run_agent.py intervention=[layer_norm,redo] interventions.redo.threshold=0.1 seed=3
  python run_agent.py -m method=none,redo,l2_init seed=0,1,2   a grid, each run in a folder of its own
  python run_agent.py -m experiment=atari_dqn env.game=@atari_57   one run for each value of a list, see list=sweeps
  python run_agent.py study=<name or file> short=true        runs what is missing of a study, and reports; plan=true only plans
  python run_agent.py resume=<run folder>                    continues a run where it stopped
  python run_agent.py branch.run=<run folder> branch.step=<n> method=redo   starts from a checkpoint of another run
  python run_agent.py report=<folder>[,<folder>...]          compares the runs in them on one page, with intervals over seeds
  python run_agent.py mode=evaluate resume=<run folder>      plays episodes with its newest checkpoint

Choices, as group=choice (intervention takes a list; each intervention is also a method of its name):
{groups}

Settings, as name=value:
{settings}

  list=interventions   one line on each; also {", ".join(kind for kind in _KINDS if kind != "interventions")}
  list=agents.dqn      the settings of one, with defaults and ranges
  --cfg job            prints the whole config, with every setting and its value
  --config-dir <folder>   adds YAML files of your own, laid out like configs/
"""
    return text.replace("python run_agent.py", program())


def _setting_lines() -> Iterator[str]:
    """Yields the names of all settings at the top, and of all sections."""
    sections = ["agent", "env", "network", "optimizer", "interventions.<name>", "metrics", *SECTIONS]
    for names in ([field.name for field in fields(RunSettings)], [f"{section}.*" for section in sections]):
        yield from (f"  {line}" for line in wrap(" ".join(names), _WIDTH))


def _description(group: str, name: str, configs: Path) -> str:
    """Returns the comment at the top of a YAML file, without Hydra's package directive, or a plugin's description."""
    path = configs / group / f"{name}.yaml"
    if not path.is_file() and group == "method":
        return first_line(INTERVENTIONS[name].__doc__)
    if not path.is_file():
        return REGISTERED[group].describe(REGISTERED[group].registry[name])
    lines = path.read_text().splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""
