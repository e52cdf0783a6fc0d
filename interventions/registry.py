"""The registry of interventions, filled by the ``register`` decorator; plugins use the same one."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

from plasticity.interventions.base import Intervention

_REGISTERED: dict[str, type[Intervention]] = {}
_Class = TypeVar("_Class", bound=type[Intervention])


def register(name: str) -> Callable[[_Class], _Class]:
    """Registers an intervention under the name that configs use.

    Args:
        name: Lower-case words joined by underscores.

    Raises:
        ValueError: If the name is taken by another class, or not of that form.
        TypeError: If the class is not a dataclass derived from ``Intervention``.
    """

    def add(cls: _Class) -> _Class:
        # A class that only inherits from a dataclass would pass is_dataclass, and its settings would not be config keys.
        if not (isinstance(cls, type) and issubclass(cls, Intervention) and "__dataclass_fields__" in vars(cls)):
            raise TypeError(
                f"intervention {name}: {cls!r} must be a dataclass derived from Intervention, @dataclass right below @register"
            )
        if not name.isidentifier() or name != name.lower():
            raise ValueError(f"intervention name {name!r} must be lower-case words joined by underscores")
        other = _REGISTERED.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"intervention {name} is registered twice: by {other.__module__} and by {cls.__module__}")
        cls.name = name
        _REGISTERED[name] = cls
        return cls

    return add


def registered() -> dict[str, type[Intervention]]:
    """Returns every known intervention by name, sorted."""
    return dict(sorted(_REGISTERED.items()))


def intervention_named(name: str) -> type[Intervention]:
    """Looks an intervention up.

    Raises:
        ValueError: If there is none of that name; the message names those there are.
    """
    if name not in _REGISTERED:
        close = get_close_matches(name, _REGISTERED, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"intervention={name} is unknown{hint}; choose from {', '.join(registered())}")
    return _REGISTERED[name]


def refuse_conflicts(names: Iterable[str]) -> None:
    """Raises ValueError naming the pair and the reason if two of ``names`` refuse to run together."""
    chosen = list(names)
    for name in chosen:
        for other, reason in intervention_named(name).conflicts.items():
            if other in chosen:
                raise ValueError(f"intervention=[{name},{other}] cannot run together: {reason}")
