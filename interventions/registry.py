"""The interventions by name, entered by the ``intervention`` decorator; plugins use the same decorator."""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from plasticity.interventions.base import Intervention
from plasticity.settings.registry import Registry

INTERVENTIONS: Final = Registry[type[Intervention]]("intervention", "plasticity.interventions.methods")
_Class = TypeVar("_Class", bound=type[Intervention])


def intervention(name: str) -> Callable[[_Class], _Class]:
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
                f"intervention {name}: {cls!r} must be a dataclass derived from Intervention, with @dataclass below @intervention"
            )
        INTERVENTIONS.add(name, cls, cls)
        cls.name = cls.section = name
        return cls

    return add


def refuse_conflicts(names: Iterable[str]) -> None:
    """Raises ValueError naming the pair and the reason if two of ``names`` refuse to run together."""
    chosen = list(names)
    for name in chosen:
        for other, reason in INTERVENTIONS.named(name).conflicts.items():
            if other in chosen:
                raise ValueError(f"intervention=[{name},{other}] cannot run together: {reason}")
