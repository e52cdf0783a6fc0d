"""The streams by name, registered by the ``stream`` decorator; plugins use the same one."""

from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

import torch

from plasticity.envs.problem import Problem
from plasticity.envs.stream import Stream
from plasticity.settings.fields import Settings
from plasticity.settings.registry import Registry


class StreamSettings(Settings):
    """Base of the settings of all streams: a dataclass whose fields are ``env.<name>``, and which builds what they describe.

    Most streams derive from one of its two kinds and define only what is specific to them:
        ``plasticity.envs.tasks.task_settings`` for
    supervised tasks, ``plasticity.envs.environments.vector_settings`` for environments of gymnasium's interface.

    Attributes:
        name: What it is registered as.
    """

    section: ClassVar[str] = "env"
    name: ClassVar[str] = ""

    def build(self, seed: int, device: torch.device) -> tuple[Stream, Problem]:
        """Builds the stream and returns it with the problem that it poses.

        Args:
            seed: The run's seed.
            device: That of the learner.

        Raises:
            ValueError: A setting makes no sense, or data are missing.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build")


STREAMS: Final = Registry[type[StreamSettings]]("env", "plasticity.envs.environments", "plasticity.envs.tasks")
_Class = TypeVar("_Class", bound=type[StreamSettings])


def stream(name: str) -> Callable[[_Class], _Class]:
    """Registers a stream under the name by which it is chosen, ``env=<name>``.

    It decorates the settings class, above ``@dataclass``, and the class builds its stream: so the settings are declared once, as
    typed fields with their ranges, and are passed on as one object.

    Args:
        name: Lower-case words joined by underscores.

    Raises:
        ValueError: The name is taken by another class, or is not of that form.
        TypeError: The class is not a dataclass derived from ``StreamSettings``.
    """

    def add(cls: _Class) -> _Class:
        # A class that only inherits from a dataclass would pass is_dataclass, and its settings would not be config keys.
        if not (isinstance(cls, type) and issubclass(cls, StreamSettings) and "__dataclass_fields__" in vars(cls)):
            raise TypeError(f"env {name}: {cls!r} must be a dataclass derived from StreamSettings, with @dataclass below @stream")
        STREAMS.add(name, cls, cls)
        cls.name = name
        return cls

    return add
