"""Building agents from settings, and refusing streams that they cannot learn from."""

from plasticity.agents.agent import Agent
from plasticity.agents.parts import PartBuilder
from plasticity.agents.registry import AGENTS
from plasticity.envs.problem import Problem


def build_agent(name: str, settings: object, problem: Problem, build_part: PartBuilder, called: str | None = None) -> Agent:
    """Builds an agent for a stream.

    Args:
        name: A key of ``AGENTS``.
        settings: Its settings.
        problem: The problem that the stream poses.
        build_part: Builds the parts.
        called: The word by which the user chose it, such as ``c51``, for messages; None for ``name``.

    Raises:
        ValueError: If the agent cannot learn from such a stream.
    """
    entry = AGENTS.named(name)
    actions = "discrete" if problem.discrete else "continuous"
    if entry.learns_from != problem.kind or entry.actions not in (actions, "both"):
        rows = AGENTS.items()
        fits = [other for other, row in rows if row.learns_from == problem.kind and row.actions in (actions, "both")]
        stream = f"an environment with {actions} actions" if problem.kind == "environment" else "a data stream"
        raise ValueError(
            f"agent={called or name} cannot learn from this env, which is {stream}; choose agent={' or '.join(fits)}, or "
            "another env"
        )
    return entry.build(settings, problem, build_part)
