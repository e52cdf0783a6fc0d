"""The agents by name, entered by the ``agent`` decorator; plugins use the same decorator."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from plasticity.agents.agent import Agent
from plasticity.agents.parts import PartBuilder
from plasticity.envs.problem import Problem
from plasticity.settings.fields import Settings, require_choice
from plasticity.settings.registry import Registry

_Build = TypeVar("_Build", bound=Callable[..., Agent])


class AgentEntry(NamedTuple):
    """One kind of agent.

    Attributes:
        settings: Class of its settings.
        learns_from: Kind of stream that it learns from, ``environment`` or ``examples``.
        actions: ``discrete``, ``continuous`` or ``both``.
        build: Makes the agent from settings, problem, and the part builder.
        description: One line.
    """

    settings: type[Settings]
    learns_from: str
    actions: str
    build: Callable[[Any, Problem, PartBuilder], Agent]
    description: str


AGENTS: Final = Registry[AgentEntry]("agent", "plasticity.agents")


def agent(name: str, settings: type[Settings], *, learns_from: str, actions: str) -> Callable[[_Build], _Build]:
    """Registers an agent: ``agent=<name>``, with its settings below ``agent.``.

    The decorated object is called with the settings, the ``Problem`` that the stream poses, and the ``PartBuilder`` that makes
    the agent's networks; it returns the agent. It is the class itself, if its constructor takes these, or a function. The class
    follows ``plasticity.agents.agent.Agent``, and ``Policy`` if it is to be evaluated.

    Args:
        name: Lower-case words joined by underscores.
        settings: A dataclass derived from ``Settings``, each field a ``setting``; its ``section`` is set to ``agent``. The first
            line of its docstring is what ``list=agents`` prints.
        learns_from: Kind of stream, ``environment`` or ``examples``.
        actions: What it chooses or predicts: ``discrete``, ``continuous`` or ``both``.

    Raises:
        ValueError: If the name is taken by another definition or not of that form, or a word is none of those.
        TypeError: If the settings are not such a class.
    """
    require_choice(f"agent {name}: learns_from", learns_from, ("environment", "examples"))
    require_choice(f"agent {name}: actions", actions, ("discrete", "continuous", "both"))
    if not (isinstance(settings, type) and issubclass(settings, Settings) and "__dataclass_fields__" in vars(settings)):
        raise TypeError(f"agent {name}: {settings!r} must be a dataclass derived from Settings")

    def add(build: _Build) -> _Build:
        lines = (settings.__doc__ or "").strip().splitlines()
        AGENTS.add(name, AgentEntry(settings, learns_from, actions, build, lines[0] if lines else ""), build)
        settings.section = "agent"
        return build

    return add
