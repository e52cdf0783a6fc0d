"""How long a run will take and how much disk it will fill, from a few timed steps of it."""

import re
import time
from dataclasses import dataclass, replace
from typing import Any, Final

from plasticity.agents.agent import Agent
from plasticity.envs.stream import Stream
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.metrics.observer import observe
from plasticity.metrics.view import View
from plasticity.training.assembly import Assembly, assemble
from plasticity.training.config.settings import Plan
from plasticity.training.observation import Observers
from plasticity.training.step import Step
from plasticity.training.studies.logged import awaited
from plasticity.training.tracking.tracker import Tracker

_SECONDS: Final = 1.5  # of timing
_FEWEST: Final = 5  # steps
_SKIPPED: Final = 3  # first steps, in which libraries set themselves up and functions are compiled
_WARMUP: Final = 256
_TIMED: Final = ("metrics", "probe")  # evaluations play whole episodes, and are not timed
_BYTES_OF_ROW: Final = 110  # in metrics.csv and for TensorBoard
_COPIES: Final = 3  # weights, and two moments of each


@dataclass(frozen=True)
class Estimate:
    """What one run will cost.

    Attributes:
        seconds: Of its steps and its metrics and probes; without evaluations, checkpoints and its start.
        bytes: On disk.
        untimed: Names of observers whose time comes in addition.
        names: Values that were written in the timed steps.
        later: Pattern of the names of values that may come after them; None if there are none.
    """

    seconds: float
    bytes: float
    untimed: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    later: re.Pattern[str] | None = None


def estimate(plan: Plan) -> Estimate:
    """Builds a run, does some of its steps and measures once; nothing is written.

    Raises:
        ValueError: If the parts of the plan do not fit together.
    """
    warmup = getattr(plan.agent, "warmup_env_steps", 0)
    agent_settings: Any = plan.agent
    if warmup > _WARMUP:  # most of a run comes after it
        agent_settings = replace(agent_settings, warmup_env_steps=_WARMUP)
    assembly = assemble(replace(plan, agent=agent_settings))
    agent, stream, observers = assembly
    with Tracker((), plan.run.log_every_steps) as tracker:
        quiet = Observers({}, tracker)
        rollout = int(getattr(plan.agent, "rollout_steps", 0))
        skipped = rollout if rollout and plan.run.compile else min(warmup, _WARMUP) + (0 if rollout else _SKIPPED)
        *_, before = _steps(agent, stream, quiet, skipped, 0.0)
        count, seconds, names = _steps(agent, stream, quiet, rollout or _FEWEST, 0.0 if rollout else _SECONDS)
        names |= before
    steps = plan.run.steps
    total, rows = seconds / max(1, count) * steps, len(names) * (steps / plan.run.log_every_steps)
    for name in _TIMED:
        times = _times_measured(plan, assembly, name)
        if times:
            started = time.perf_counter()
            measured = observe(observers[name], View(stream.step, stream.task, agent))
            total += times * (time.perf_counter() - started)
            rows += times * len(measured)
            names |= measured.keys()
    stream.close()
    weights = sum(value.numel() * value.element_size() for part in agent.parts.values() for value in part.network.parameters())
    untimed = tuple(
        name for name, observer in observers.items() if name not in _TIMED and (observer.at_task_switch or observer.due(0, steps))
    )
    size = weights * _COPIES * plan.checkpoint.keep + rows * _BYTES_OF_ROW + _replay(plan, stream)
    return Estimate(total, size, untimed, frozenset(names), awaited(plan, assembly))


def _steps(agent: Agent, stream: Stream, observers: Observers, fewest: int, at_least: float) -> tuple[int, float, set[str]]:
    """Does some steps; returns how many in the stream's count, the seconds, and the names of the values that they log."""
    begun, started, names = stream.step, time.perf_counter(), set[str]()
    done = 0
    while done < fewest or time.perf_counter() - started < at_least:
        step = Step.begun(agent, stream, observers)
        step.complete(agent, observers)
        done += 1
        names |= step.logs.keys()
    return stream.step - begun, time.perf_counter() - started, names


def _times_measured(plan: Plan, assembly: Assembly, name: str) -> float:
    every = int(getattr(plan, name).every_steps)
    stream, times = assembly.stream, 0.0
    if every:
        times += plan.run.steps / every
    if assembly.observers[name].at_task_switch and isinstance(stream, TaskStream):
        times += plan.run.steps / stream.minibatches(0)
    return times


def _replay(plan: Plan, stream: Stream) -> float:
    """Returns the bytes of a full replay on disk, which holds one observation for each transition."""
    kept = min(int(getattr(plan.agent, "buffer_transitions", 0)), plan.run.steps)
    size = stream.input_dtype.itemsize
    for length in stream.input_shape:
        size *= length
    return float(kept * size)
