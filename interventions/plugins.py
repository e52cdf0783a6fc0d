"""Plugins: interventions in the user's own files and packages."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

ENTRY_POINT_GROUP: Final = "plasticity.interventions"


def load_plugins(places: Iterable[str]) -> None:
    """Imports plugins, whose ``register`` decorators add them to the registry.

    Args:
        places: Paths of Python files, or names of importable modules. Installed packages that declare an entry point of the
            group ``plasticity.interventions`` are loaded as well.

    Raises:
        ValueError: If a place is neither a file nor a module, or fails to import; the message says why.
    """
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()
    for place in places:
        try:
            _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        except (ImportError, OSError, SyntaxError, TypeError, ValueError, NameError, AttributeError) as error:
            raise ValueError(f"plugins={place} cannot be loaded: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError("no such file")
    name = f"plugin_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
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
