"""Runs that were made before a setting was added to the program: they have its default."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from plasticity.training.config.settings import Plan, RunSettings, plan_from


def completed(saved: Mapping[str, Any], planned: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved config with the settings that only the planned one has, at today's defaults.

    A new setting gets the default that leaves runs as they were; without this function, every study that was started earlier
    would count as one of other settings.

    Args:
        saved: The resolved config of a run.
        planned: That of the run as it would be made now.

    Raises:
        ValueError: If today's program cannot read the saved config.
    """
    return _filled(saved, planned, _defaults(plan_from(asdict(RunSettings()) | dict(saved))))


def _defaults(plan: Plan) -> dict[str, Any]:
    """Returns all settings of a plan by section, including those that its config does not name."""
    sections = {field.name: getattr(plan, field.name) for field in fields(plan)}
    names = ("agent", "env", "network", "optimizer", "metrics", "probe", "evaluation", "task_evaluation", "checkpoint")
    found: dict[str, Any] = {name: asdict(sections[name]) for name in names}
    found |= {field.name: getattr(plan.run, field.name) for field in fields(RunSettings)}
    return found | {"interventions": {name: asdict(method) for name, method in plan.interventions.items()}}


def _filled(saved: Mapping[str, Any], planned: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(saved)
    for key, value in planned.items():
        if key not in defaults:
            continue
        if key not in saved:
            found[key] = defaults[key]
        elif isinstance(value, Mapping) and isinstance(saved[key], Mapping) and isinstance(defaults[key], Mapping):
            found[key] = _filled(saved[key], value, defaults[key])
    return found
