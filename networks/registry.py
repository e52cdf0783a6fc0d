"""The torsos and heads by name, entered by the ``torso`` and ``head`` decorators; plugins use the same decorators."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from plasticity.networks.spec import NetworkSpec
from plasticity.settings.registry import Registry

if TYPE_CHECKING:
    from plasticity.networks.heads.head import Head

TORSOS: Final = Registry[type[NetworkSpec]]("network.torso", "plasticity.networks.torsos")
HEADS: Final = Registry["type[Head]"]("head", "plasticity.networks.heads")
_Spec = TypeVar("_Spec", bound=type[NetworkSpec])
_Head = TypeVar("_Head", bound="type[Head]")


def torso(name: str) -> Callable[[_Spec], _Spec]:
    """Registers a torso's settings, which build it, under the name that configs use: ``network=<name>``.

    Args:
        name: Lower-case words joined by underscores.

    Raises:
        ValueError: If the name is taken by another class, or not of that form.
        TypeError: If the class is not a dataclass derived from ``NetworkSpec``.
    """

    def add(cls: _Spec) -> _Spec:
        # A class that only inherits from a dataclass would pass is_dataclass, and its settings would not be config keys.
        if not (isinstance(cls, type) and issubclass(cls, NetworkSpec) and "__dataclass_fields__" in vars(cls)):
            raise TypeError(
                f"torso {name}: {cls!r} must be a dataclass derived from NetworkSpec, with @dataclass(frozen=True, kw_only=True) "
                "below @torso"
            )
        TORSOS.add(name, cls, cls)
        cls.torso = name
        return cls

    return add


def head(*names: str) -> Callable[[_Head], _Head]:
    """Registers a head, made from (features, ``HeadSpec``, ``NetworkSpec``), under each of the kinds that it serves.

    Args:
        names: Lower-case words joined by underscores, ``HeadSpec.kind``.

    Raises:
        ValueError: If a name is taken by another class, or not of that form.
    """

    def add(cls: _Head) -> _Head:
        for name in names:
            HEADS.add(name, cls, cls)
        return cls

    return add
