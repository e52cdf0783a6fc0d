"""The one registry: everything that a user may add is looked up here by its kind and its name.

A decorator of its kind enters a class or function (``@intervention``, ``@metric``, ``@stream``, ``@torso``, ``@head``,
``@agent``, ``@optimizer``, ``@dataset``). The project's own entries come with their modules, which ``Registry`` imports at the
first look-up; a user's come with ``plugins=`` or the entry points of installed packages (``plasticity.settings.plugins``).
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Final, Generic, NamedTuple, TypeVar

from plasticity.settings.naming import did_you_mean

Entry = TypeVar("Entry")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_NAME_WITH_NUMBERS: Final = re.compile(r"[a-z][a-z0-9_]*(\.[0-9]+)?")


class Place(NamedTuple):
    """Where an entry is defined.

    Attributes:
        file: Path of the file.
        qualified_name: Of the class or function in it.
        module: Name of the module.
    """

    file: str
    qualified_name: str
    module: str


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Entries of one kind by name.

    Args:
        kind: What an entry is called, as the command line writes it: ``intervention``, ``metric`` ...
        rooms: Packages whose modules, and those of the packages in them, hold the project's own entries.
        in_order: Modules whose entries come first, in the order of their definition; all others follow as they are entered. None
            sorts by name.
        numbers: Whether a name may end with a decimal fraction, as ``dormant_fraction_tau_0.1`` does.
    """

    def __init__(self, kind: str, *rooms: str, in_order: Sequence[str] | None = None, numbers: bool = False) -> None:
        self.kind = kind
        self._rooms, self._in_order = rooms, in_order
        self._form = _NAME_WITH_NUMBERS if numbers else _NAME
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, Place] = {}
        self._complete = False

    def add(self, name: str, entry: Entry, source: object) -> None:
        """Adds an entry.

        Args:
            name: Lower-case words joined by underscores.
            entry: What is found under it.
            source: The class or function that defines it, whose file is named if another takes the same name.

        Raises:
            ValueError: The name has another form, or is taken by another definition; both files are named.
        """
        if not self._form.fullmatch(name):
            raise ValueError(f"{self.kind} name {name!r} must be lower-case words joined by underscores")
        place = _place_of(source)
        if not self._owns(place.module):
            self._load()  # so that the project's own entries have their names before a plugin can take one
        there = self._places.get(name, place)
        if there[:2] != place[:2]:
            raise ValueError(f"{self.kind} {name} is registered twice: in {there.file} and in {place.file}")
        self._entries[name], self._places[name] = entry, place

    def __getitem__(self, name: str) -> Entry:
        """Returns the entry of a name.

        Raises:
            KeyError: There is none; see ``named`` for a message to a user.
        """
        self._load()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Yields the names, sorted or in the requested order."""
        self._load()
        return iter(sorted(self._entries, key=None if self._in_order is None else self._rank))

    def __len__(self) -> int:
        """Returns how many there are."""
        self._load()
        return len(self._entries)

    def named(self, name: str) -> Entry:
        """Returns the entry of a name.

        Raises:
            ValueError: There is none; the message names those there are.
        """
        if name not in self:
            raise ValueError(f"{self.kind}={name} is unknown{did_you_mean(name, self)}; choose from {', '.join(self)}")
        return self[name]

    def added(self) -> list[str]:
        """Returns the names that plugins entered."""
        return [name for name in self if not self._owns(self._places[name].module)]

    def file_of(self, name: str) -> str:
        """Returns the path of the file that defines an entry."""
        self._load()
        return self._places[name].file

    def _owns(self, module: str) -> bool:
        return any(module == room or module.startswith(f"{room}.") for room in self._rooms)

    def _rank(self, name: str) -> int:
        """Returns the position of an entry's module; entries of one module stay as they were entered."""
        assert self._in_order is not None
        module = self._places[name].module
        return self._in_order.index(module) if module in self._in_order else len(self._in_order)

    def _load(self) -> None:
        if self._complete:
            return
        self._complete = True
        try:
            for room in self._rooms:
                _import_all(importlib.import_module(room))
        except BaseException:
            self._complete = False
            raise


def _import_all(package: ModuleType) -> None:
    for found in pkgutil.iter_modules(getattr(package, "__path__", [])):
        _import_all(importlib.import_module(f"{package.__name__}.{found.name}"))


def _place_of(source: object) -> Place:
    module = str(getattr(source, "__module__", "an unknown place"))
    try:
        file = inspect.getfile(source)  # type: ignore[arg-type]  # TypeError for what has no file
    except TypeError:
        file = module
    return Place(file, getattr(source, "__qualname__", repr(source)), module)
