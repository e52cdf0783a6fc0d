"""Building agents from settings, and refusing streams they cannot learn from."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agents.agent import Agent
from agents.dqn import DQN, DQNSettings
from agents.parts import PartBuilder
from agents.supervised import SupervisedLearner, SupervisedSettings


class AgentEntry(NamedTuple):
    """One kind of agent.

    Attributes:
        settings: Class of its settings.
        kind: Kind of stream that it learns from, ``environment`` or ``examples``.
        build: Makes the agent from settings, number of outputs, and the part builder.
    """

    settings: type
    kind: str
    build: Callable[[Any, int, PartBuilder], Agent]


def _supervised(settings: SupervisedSettings, outputs: int, build_part: PartBuilder) -> Agent:
    return SupervisedLearner(settings, outputs, classification=True, build_part=build_part)


AGENTS: Final[dict[str, AgentEntry]] = {
    "dqn": AgentEntry(DQNSettings, "environment", DQN),
    "supervised": AgentEntry(SupervisedSettings, "examples", _supervised),
}


def build_agent(name: str, settings: object, kind: str, discrete: bool, outputs: int, build_part: PartBuilder) -> Agent:
    """Builds an agent for a stream.

    Args:
        name: A key of ``AGENTS``.
        settings: Its settings.
        kind: Kind of the stream, ``environment`` or ``examples``.
        discrete: Whether actions or classes are chosen from a finite set.
        outputs: Their number.
        build_part: Builds the parts.

    Raises:
        ValueError: If the agent cannot learn from such a stream.
    """
    entry = AGENTS[name]
    if entry.kind != kind:
        fits = " or ".join(other for other, row in AGENTS.items() if row.kind == kind)
        stream = "an environment" if kind == "environment" else "a data stream"
        raise ValueError(f"agent={name} cannot learn from this env, which is {stream}; choose agent={fits}, or another env")
    if not discrete:
        raise ValueError(f"agent={name} needs a finite set of actions or classes")
    return entry.build(settings, outputs, build_part)
