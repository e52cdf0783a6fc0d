"""Restores agent, stream and observers at the point where a branch starts."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.agent import Agent
from plasticity.agents.part_origin import PartOrigin
from plasticity.agents.replay.memory import TransitionMemory
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.metrics.log_values import Measurements
from plasticity.settings.seeding import derive_seed
from plasticity.training.assembly import Assembly, assemble
from plasticity.training.branching.measuring import measured
from plasticity.training.branching.point import CLEAR, BranchPoint
from plasticity.training.config.settings import Plan, optimizers_of
from plasticity.training.saving.saver import restore
from plasticity.training.step import Step
from plasticity.updates.logs import by_part

_IN_PARTS = ("network", "optimizer", "interventions", "begun")  # what the state of every part holds


@dataclass(frozen=True)
class Branch:
    """A run at the moment when it leaves its parent.

    Attributes:
        assembly: The parts of the run, as the parent had them, with new methods attached.
        state: The parent's.
        unfinished: The parent's step that was not completed, if there is one.
        logs: What was measured before anything acted, and values of new methods that acted at once.
    """

    assembly: Assembly
    state: Mapping[str, Any]
    unfinished: Step | None
    logs: Measurements


def begin(plan: Plan, point: BranchPoint) -> Branch:
    """Builds a branch and takes it to its first moment.

    Raises:
        ValueError: If parent and plan do not fit together.
    """
    state = point.load()
    assembly = assemble(plan, origins(state))
    agent, stream, _ = assembly
    emptied = emptied_replay(plan, point, agent)
    if emptied is not None and not point.reads_replay:
        state = {**state, "agent": {**state["agent"], "replay": emptied}}
    if point.repeat:
        state = _with_other_numbers(plan, point, state)
        if isinstance(stream, TaskStream):
            print(
                "note: the order of the examples is the parent's in every repeat; only the agent's draws are new", file=sys.stderr
            )
    try:
        unfinished = restore(state, point.folder, *assembly)
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{point.where}: the checkpoint does not fit this run: {reason}") from error
    new = [name for name in plan.interventions if name not in state["config"]["interventions"]]
    logs = measured(plan, point.measure, assembly)
    if emptied is not None:
        _replay_of(agent).load_state_dict(emptied)
    for name, part in agent.parts.items():
        own = part.at_branch(new)
        logs |= by_part(own, name) if len(agent.parts) > 1 else own
    return Branch(assembly, state, unfinished, logs)


def origins(state: Mapping[str, Any]) -> dict[str, PartOrigin]:
    """Returns the parts of the parent by name.

    Args:
        state: Its checkpoint's.
    """
    optimizer, by_part = optimizers_of(state["config"])
    within = state["agent"].get("parts", state["agent"])  # agents have them together or one by one
    return {
        name: PartOrigin(part, by_part.get(name, optimizer))
        for name, part in within.items()
        if isinstance(part, Mapping) and part.keys() >= {*_IN_PARTS}
    }


def emptied_replay(plan: Plan, point: BranchPoint, agent: Agent) -> dict[str, Any] | None:
    """Returns the state of the replay with which a branch starts, without transitions and priorities; None to keep the parent's.

    With an empty one the rest of the agent continues: it acts as it would have, and learns again when it has received as many
    transitions as it waits for at the start of a run. If the parent's last step was not completed, it is completed in the branch,
    and its transitions are the first to enter.

    Args:
        plan: Of the branch.
        point: Where it starts.
        agent: Just built.

    Raises:
        ValueError: If there is no replay to empty.
    """
    if point.replay != CLEAR:
        return None
    if not hasattr(agent, "replay"):
        raise ValueError(f"{point.where}: branch.replay=clear empties a replay, and agent={plan.choices['agent']} has none")
    return _replay_of(agent).state_dict()


def _replay_of(agent: Agent) -> TransitionMemory:
    replay: TransitionMemory = getattr(agent, "replay")  # noqa: B009  # not every agent has one
    return replay


def _with_other_numbers(plan: Plan, point: BranchPoint, state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state with generators that are seeded by the repeat."""
    seed = derive_seed(plan.run.seed, "branch", point.repeat)
    agent, stream, _ = assemble(replace(plan, run=replace(plan.run, seed=seed)), origins(state))
    fresh = {"agent": agent.state_dict(), "stream": stream.state_dict()}
    stream.close()
    return {**state, **{key: redrawn(state[key], fresh[key]) for key in fresh}}


def redrawn(state: Any, fresh: Any) -> Any:
    """Returns a nested state with the random generators of another; everything else is unchanged.

    Args:
        state: The state to continue from.
        fresh: The state of the same object, built with another seed.
    """
    if _is_generator(state):
        return fresh
    if isinstance(state, Mapping) and isinstance(fresh, Mapping):
        return {key: redrawn(value, fresh[key]) if key in fresh else value for key, value in state.items()}
    if isinstance(state, list | tuple) and isinstance(fresh, list | tuple) and len(state) == len(fresh):
        return type(state)(redrawn(one, other) for one, other in zip(state, fresh, strict=True))
    return state


def _is_generator(value: Any) -> bool:
    """Returns whether a value is the state of a generator, PyTorch's or NumPy's."""
    if isinstance(value, Tensor):
        return value.dtype == torch.uint8 and value.ndim == 1 and len(value) in _sizes()
    return isinstance(value, Mapping) and "bit_generator" in value


def _sizes() -> tuple[int, ...]:
    """Returns the lengths of the states of generators, on the CPU and on a GPU."""
    return len(torch.Generator().get_state()), 16
