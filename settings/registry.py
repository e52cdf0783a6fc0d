"""The one registry: everything that a user may add is found here by its kind and its name.

A decorator of its room enters a class or function (``@intervention``, ``@metric``, ``@stream``, ``@torso``, ``@head``,
``@agent``, ``@optimizer``, ``@dataset``). The project's own entries come with their modules, which ``Registry`` imports at the
first look; a user's come with ``plugins=`` or the entry points of installed packages (``plasticity.settings.plugins``).
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Final, Generic, TypeVar

from plasticity.settings.naming import did_you_mean

Entry = TypeVar("Entry")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Entries of one kind by name, sorted.

    Args:
        kind: What an entry is called, as the command line writes it: ``intervention``, ``metric`` ...
        rooms: Packages whose modules hold the project's own entries.
    """

    def __init__(self, kind: str, *rooms: str) -> None:
        self.kind = kind
        self._rooms = rooms
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self._complete = False

    def add(self, name: str, entry: Entry, source: object) -> None:
        """Enters one.

        Args:
            name: Lower-case words joined by underscores.
            entry: What is found under it.
            source: The class or function that defines it, of which the file is named if another takes the same name.

        Raises:
            ValueError: The name has another form, or is taken by another definition; both files are named.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{self.kind} name {name!r} must be lower-case words joined by underscores")
        place = (_file_of(source), getattr(source, "__qualname__", repr(source)))
        if self._places.get(name, place) != place:
            raise ValueError(f"{self.kind} {name} is registered twice: in {self._places[name][0]} and in {place[0]}")
        self._entries[name], self._places[name] = entry, place

    def __getitem__(self, name: str) -> Entry:
        """Returns the entry of a name.

        Raises:
            KeyError: There is none; see ``named`` for a message to a user.
        """
        self._load()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Yields the names, sorted."""
        self._load()
        return iter(sorted(self._entries))

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

    def _load(self) -> None:
        if self._complete:
            return
        self._complete = True
        for room in self._rooms:
            package = importlib.import_module(room)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                importlib.import_module(f"{room}.{module.name}")


def _file_of(source: object) -> str:
    try:
        return inspect.getfile(source)  # type: ignore[arg-type]  # TypeError for what has no file
    except TypeError:
        return str(getattr(source, "__module__", "an unknown place"))
