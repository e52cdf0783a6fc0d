"""What the project itself registers, and registries that forget what a test enters."""

import sys
from collections.abc import Collection

import pytest

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.settings.registry import Registry


def built_in_interventions() -> dict[str, type[Intervention]]:
    """Returns the project's own methods by name, without those of plugins; never none, as tests of each would pass unrun."""
    found = {name: cls for name, cls in INTERVENTIONS.items() if cls.__module__.startswith("plasticity.interventions.")}
    assert len(found) > 30, f"only {len(found)} of {len(INTERVENTIONS)} methods are known as the project's own"
    return found


def forget_entries(monkeypatch: pytest.MonkeyPatch, *registries: Registry) -> None:
    """Lets the registries of a test go back to their entries at its end."""
    for registry in registries:
        len(registry)  # the project's own are there before
        for name in ("_entries", "_places"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def forget_modules(before: Collection[str]) -> None:
    """Forgets the plugins and the modules without a package that were imported since; libraries stay, they may be half loaded."""
    for name in set(sys.modules) - set(before):
        if name.startswith("plugin_") or (
            "." not in name and "site-packages" not in str(getattr(sys.modules[name], "__file__", ""))
        ):
            del sys.modules[name]
