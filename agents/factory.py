"""Building agents from settings, and refusing streams they cannot learn from."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from plasticity.agents.agent import Agent
from plasticity.agents.dqn.agent import DQN
from plasticity.agents.dqn.settings import DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.agents.sac.agent import SAC, SACSettings
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings


class Task(NamedTuple):
    """What an agent must know of a stream.

    Attributes:
        kind: ``environment`` or ``examples``.
        outputs: Actions, action dimensions or classes.
        discrete: Whether outputs are actions or classes to choose from; of examples, otherwise, numbers to predict.
        action_low: Lower bound of each action dimension; empty for discrete ones.
        action_high: Upper bounds.
        frame_stack: Frames along an observation's first axis; 1 if observations are no stacks of frames.
        validates: Whether tasks of examples come with a validation set.
        masks: Whether they say which classes count.
    """

    kind: str
    outputs: int
    discrete: bool
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    frame_stack: int = 1
    validates: bool = False
    masks: bool = False


class AgentEntry(NamedTuple):
    """One kind of agent.

    Attributes:
        settings: Class of its settings.
        kind: Kind of stream that it learns from, ``environment`` or ``examples``.
        actions: ``discrete``, ``continuous`` or ``both``.
        build: Makes the agent from settings, task, and the part builder.
    """

    settings: type
    kind: str
    actions: str
    build: Callable[[Any, Task, PartBuilder], Agent]


AGENTS: Final[dict[str, AgentEntry]] = {
    "dqn": AgentEntry(
        DQNSettings,
        "environment",
        "discrete",
        lambda settings, task, parts: DQN(settings, task.outputs, parts, task.frame_stack),
    ),
    "ppo": AgentEntry(
        PPOSettings, "environment", "both", lambda settings, task, parts: PPO(settings, task.outputs, task.discrete, parts)
    ),
    "sac": AgentEntry(
        SACSettings,
        "environment",
        "continuous",
        lambda settings, task, parts: SAC(settings, task.action_low, task.action_high, parts),
    ),
    "supervised": AgentEntry(
        SupervisedSettings,
        "examples",
        "both",
        lambda settings, task, parts: _supervised(settings, task, parts),
    ),
}


def _supervised(settings: SupervisedSettings, task: Task, parts: PartBuilder) -> SupervisedLearner:
    if settings.restore_best and not task.validates:
        raise ValueError("agent.restore_best=true needs a validation set: give the env one, or choose false")
    return SupervisedLearner(settings, task.outputs, task.discrete, parts, task.masks)


def build_agent(name: str, settings: object, task: Task, build_part: PartBuilder, called: str | None = None) -> Agent:
    """Builds an agent for a stream.

    Args:
        name: A key of ``AGENTS``.
        settings: Its settings.
        task: The stream, as far as the agent must know it.
        build_part: Builds the parts.
        called: The word by which the user chose it, such as ``c51``, for messages; None for ``name``.

    Raises:
        ValueError: If the agent cannot learn from such a stream.
    """
    entry = AGENTS[name]
    actions = "discrete" if task.discrete else "continuous"
    if entry.kind != task.kind or entry.actions not in (actions, "both"):
        fits = [other for other, row in AGENTS.items() if row.kind == task.kind and row.actions in (actions, "both")]
        stream = f"an environment with {actions} actions" if task.kind == "environment" else "a data stream"
        raise ValueError(
            f"agent={called or name} cannot learn from this env, which is {stream}; choose agent={' or '.join(fits)}, or "
            "another env"
        )
    return entry.build(settings, task, build_part)
