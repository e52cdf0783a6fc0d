"""What there is to choose from: ``list=...`` and ``--help``."""

from dataclasses import fields
from pathlib import Path
from typing import Final

from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.settings.fields import require_choice
from plasticity.training.config.config_store import SECTIONS
from plasticity.training.config.settings import RunSettings

_KINDS: Final = {
    "agents": "agent",
    "envs": "env",
    "networks": "network",
    "optimizers": "optimizer",
    "interventions": "intervention",
    "metrics": "metrics",
    "experiments": "experiment",
}


def options(group: str, configs: Path) -> list[str]:
    """Returns the choices of a config group."""
    if group == "intervention":
        return list(INTERVENTIONS)
    return sorted(path.stem for path in (configs / group).glob("*.yaml") if not path.stem.startswith("_"))


def list_lines(kind: str, configs: Path) -> list[str]:
    """Returns one line for each entry: its name, then its description.

    Args:
        kind: ``agents``, ``envs``, ``networks``, ``optimizers``, ``interventions``, ``metrics`` or ``experiments``.
        configs: Folder of the YAML files.

    Raises:
        ValueError: If the kind is unknown.
    """
    require_choice("list", kind, list(_KINDS))
    if kind == "metrics":
        rows = {name: f"{entry.description} Range {entry.range}. Cost: {entry.cost}." for name, entry in CATALOGUE.items()}
    elif kind == "interventions":
        rows = {name: _first_line(method.__doc__) for name, method in INTERVENTIONS.items()}
    else:
        group = _KINDS[kind]
        rows = {name: _description(configs / group / f"{name}.yaml") for name in options(group, configs)}
    width = max(map(len, rows), default=0)
    return [f"{name:<{width}}  {description}" for name, description in rows.items()]


def help_text(configs: Path) -> str:
    """Returns the text of ``--help``."""
    groups = "\n".join(f"  {group:<13} {', '.join(options(group, configs))}" for group in _KINDS.values())
    return f"""Trains an agent on a changing problem and measures how well it can still learn.

  python run_agent.py                                        DQN on the contextual bandit, a minute or two on a slow core
  python run_agent.py agent=supervised env=permuted_pixels   a supervised learner on permuted images
  python run_agent.py intervention=[layer_norm,redo] interventions.redo.threshold=0.1 seed=3
  python run_agent.py -m seed=0,1,2 intervention=redo,l2_init   a grid, each run in a folder of its own
  python run_agent.py resume=<run folder>                    goes on where a run stopped
  python run_agent.py mode=evaluate resume=<run folder>      plays episodes with its newest checkpoint

Choices, as group=choice (intervention takes a list):
{groups}

Settings, as name=value:
  {" ".join(each.name for each in fields(RunSettings))}
  agent.* env.* network.* optimizer.* interventions.<name>.* metrics.* {" ".join(f"{section}.*" for section in SECTIONS)}

  list=interventions   one line on each; also {", ".join(kind for kind in _KINDS if kind != "interventions")}
  --cfg job            prints the whole config, with every setting and its value
"""


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().splitlines()[0]


def _description(path: Path) -> str:
    """Returns the comment at the top of a YAML file, without Hydra's package directive."""
    lines = path.read_text().splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""
