"""Plugins: what a user adds, in separate files and in installed packages."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

ENTRY_POINT_GROUP: Final = "plasticity.plugins"


def load_plugins(places: Iterable[str]) -> None:
    """Imports plugins; the decorators in them enter what they define into the registries.

    Args:
        places: Paths of Python files, or names of importable modules. Installed packages that declare an entry point of the
            group ``plasticity.plugins`` are loaded as well.

    Raises:
        ValueError: A place is neither a file nor a module, or it or an entry point fails to import; the message gives the reason.
    """
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        _load(f"entry point {entry_point.name} = {entry_point.value}", entry_point.load)
    for place in places:
        load = partial(_import_file, place) if place.endswith(".py") else partial(importlib.import_module, place)
        _load(f"plugins={place}", load)


def _load(place: str, load: Callable[[], object]) -> None:
    try:
        load()
    except Exception as error:  # a user's code runs here, and may raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"{place} cannot be loaded: {type(error).__name__}: {reason}") from error


def _import_file(place: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError("no such file")
    # The path is part of the name, so that files of the same name in two folders do not pass for one module.
    name = f"plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
