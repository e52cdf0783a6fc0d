"""Registries that forget what a test enters."""

import sys
from collections.abc import Collection

import pytest

from plasticity.settings.registry import Registry


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
