"""Which runs of a study are done, and what stops the others."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import yaml

from plasticity.training.saving.checkpoint import latest_checkpoint
from plasticity.training.saving.identity import LEFT_OUT, identity, plugin_digests
from plasticity.training.saving.run_folder import CONFIG, PROVENANCE
from plasticity.training.saving.status import FAILED as RUN_FAILED
from plasticity.training.saving.status import FINISHED, is_alive, read_status
from plasticity.training.studies.cells import Cell
from plasticity.training.studies.folder import FAILED, StudyFolder
from plasticity.training.studies.folder import FINISHED as SAID_FINISHED
from plasticity.training.studies.upgrades import completed

DONE, TO_DO, INTERRUPTED, FAILED_BEFORE, OTHER, BUSY = STATES = (
    "done",
    "to do",
    "interrupted",
    "failed",
    "other settings or code",
    "busy",
)
_SHOWN: Final = 3


@dataclass(frozen=True)
class State:
    """Where a run of a study stands.

    Attributes:
        name: One of ``STATES``.
        message: Why it failed, or what is different.
    """

    name: str
    message: str = ""

    def runs(self, retry: bool) -> bool:
        """Returns whether it is to be run, or continued."""
        return self.name in (TO_DO, INTERRUPTED) or (retry and self.name == FAILED_BEFORE)


def state_of(cell: Cell, plan: Mapping[str, Any], study: StudyFolder, event: Mapping[str, Any], mine: bool = False) -> State:
    """Returns where a run stands.

    Args:
        cell: The run.
        plan: Its config as planned, to name what is different.
        study: Its study's folder.
        event: Its last event, empty if there is none.
        mine: Whether this process has taken the run.
    """
    folder = study.path / cell.place
    if not mine and study.is_taken(cell):
        return State(BUSY, "another process works on it")
    failed = event.get("event") == FAILED
    if not folder.exists() or not any(folder.iterdir()):
        if failed and not event.get("folder") and event.get("identity") == cell.identity:
            return State(FAILED_BEFORE, str(event.get("message", "")))
        return State(TO_DO)
    if is_alive(folder):
        return State(BUSY, "a run is at work in its folder")
    try:
        config = yaml.load((folder / CONFIG).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        known = json.loads((folder / PROVENANCE).read_text())
        plugins = plugin_digests(known["files"])
        made = identity(config, plugins)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return State(OTHER, f"{folder} holds no readable {CONFIG} and {PROVENANCE}")
    if made != cell.identity:
        with suppress(ValueError, KeyError, TypeError):  # a config that today's program cannot read counts as another one
            config = completed(config, plan)
        if identity(config, plugins) != cell.identity:
            return State(OTHER, _difference(config, plan))
    status = read_status(folder)
    newest = latest_checkpoint(folder)
    complete = newest is not None and newest.stem == f"step_{cell.steps:09d}"
    if status.state == FINISHED or (complete and event.get("event") == SAID_FINISHED):
        return State(DONE)
    if status.state == RUN_FAILED or failed:
        return State(FAILED_BEFORE, str(status.error or event.get("message", "")))
    return State(INTERRUPTED, f"at step {status.step} of {cell.steps}")


def _difference(config: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Returns which settings differ, the first few of them; if none does, that a plugin's file differs."""
    here, wanted = _flat(config), _flat(plan)
    told = [
        f"{name}={here.get(name, 'absent')} in the run, {wanted.get(name, 'absent')} in the study"
        for name in sorted({*here, *wanted})
        if here.get(name) != wanted.get(name)
    ]
    if not told:
        return "a plugin's file has changed since the run"
    more = f", and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return "; ".join(told[:_SHOWN]) + more


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in LEFT_OUT or (name == "plugins" and not prefix):
            continue
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{name}.")
        else:
            found[name] = str(list(value) if isinstance(value, tuple) else value)
    return found
