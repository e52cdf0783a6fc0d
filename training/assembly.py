"""From a plan to the parts of a run: stream, agent, observers."""

import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from plasticity.agents.agent import Agent
from plasticity.agents.factory import build_agent
from plasticity.agents.part_origin import PartOrigin
from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner
from plasticity.envs.factory import build_stream
from plasticity.envs.problem import Problem
from plasticity.envs.stream import Stream
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.metrics.observer import TASK_START, MetricsObserver, Observer
from plasticity.metrics.probe import DRAWS_PER_INPUT, ProbeObserver
from plasticity.training.config.settings import Plan
from plasticity.training.config.sizes import refuse_impossible_counts, refuse_impossible_memory
from plasticity.training.evaluation.episodes import EvaluationObserver
from plasticity.training.evaluation.task_evaluation import MakeLearner, TaskEvaluationObserver, TaskEvaluationSettings
from plasticity.training.first_probe import FIRST_PROBE, FirstProbeObserver
from plasticity.training.memory import keep_freed_memory
from plasticity.training.processor import LARGE_NETWORK_PARAMETERS, parameters_of, slower_settings
from plasticity.training.task_start import FEWEST_EXAMPLES, OwnExamples, TaskStartObserver
from plasticity.updates.execution import Execution


class Assembly(NamedTuple):
    """The parts of a run."""

    agent: Agent
    stream: Stream
    observers: dict[str, Observer]


def assemble(plan: Plan, origin: Mapping[str, PartOrigin] | None = None) -> Assembly:
    """Builds a run.

    Sets PyTorch's thread count for the process, and what the process does with freed memory.

    Args:
        plan: What to build.
        origin: The agent's parts in the run that this one branches from, by name; None for a run that is no branch.

    Raises:
        ValueError: If the parts of the plan do not fit together.
    """
    refuse_impossible_counts(plan)
    device = choose_device(plan.run.device)
    if plan.run.capture and device.type != "cuda":
        raise ValueError(f"capture=true records updates as CUDA graphs and needs device=cuda, not {device}")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are made on the current one
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(plan.run.seed)
    try:
        stream, problem = build_stream(plan.env, plan.run.seed, device)
    except ValueError as error:
        raise ValueError(f"env: {error}") from error
    refuse_impossible_memory(plan, stream.input_shape, stream.input_dtype, problem.frame_stack, device)
    builder = PartBuilder(
        spec=plan.network,
        input_shape=stream.input_shape,
        input_dtype=stream.input_dtype,
        optimizer=plan.optimizer,
        interventions={name: partial(deepcopy, method) for name, method in plan.interventions.items()},
        seed=plan.run.seed,
        device=device,
        execution=Execution(torch.bfloat16 if plan.run.precision == "bf16" else None, plan.run.compile, plan.run.capture),
        channels_last=plan.run.channels_last,
        part_specs=plan.network_parts,
        part_optimizers=plan.optimizer_parts,
        origin=origin,
    )
    agent = build_agent(plan.agent_name, plan.agent, problem, builder, plan.choices["agent"])
    _refuse_unknown_parts(plan, agent)
    _refuse_weights_of_samples(plan, agent)
    _refuse_absent_tasks(plan, problem)
    _refuse_single_examples(plan, agent, stream)
    if "branch" not in plan.config:  # where a run branches, they act at once
        _warn_of_idle_methods(plan, problem)
    for line in getattr(stream, "notes", ()):
        print(f"note: {line}", file=sys.stderr)
    if plan.run.mode == "train" and not getattr(stream, "exact_resume", True):
        print(
            "note: this env cannot save its episodes; after a resume they start again, and the run is no longer the same",
            file=sys.stderr,
        )
    for line in slower_settings(plan.run, agent, device):
        print(f"note: {line}", file=sys.stderr)
    torch.set_num_threads(choose_threads(plan.run.threads, agent))
    return Assembly(agent, stream, _observers(plan, agent, stream, partial(_another_learner, plan, problem, builder)))


def _observers(plan: Plan, agent: Agent, stream: Stream, make_learner: MakeLearner) -> dict[str, Observer]:
    """Builds what measures the run; ``make_learner`` makes learners to compare a supervised one with."""
    observers: dict[str, Observer] = {
        "metrics": MetricsObserver(plan.metrics, plan.run.seed),
        "probe": ProbeObserver(plan.probe, plan.run.seed),
    }
    own = _own_examples(plan, agent, stream)
    if plan.metrics.at or plan.metrics.after_switch:
        observers[TASK_START] = TaskStartObserver(plan.metrics, plan.run.seed, own)
    if plan.probe.before_first_update:
        observers[FIRST_PROBE] = FirstProbeObserver(plan.probe, plan.run.seed, agent, own)
    if plan.evaluation.every_steps:
        observers["evaluation"] = EvaluationObserver(plan.evaluation, plan.env, plan.run.seed, agent, stream)
    if isinstance(stream, TaskStream) and isinstance(agent, SupervisedLearner):
        observers["task_evaluation"] = TaskEvaluationObserver(plan.task_evaluation, plan.run.seed, agent, stream, make_learner)
    elif plan.task_evaluation != TaskEvaluationSettings():
        raise ValueError(
            "task_evaluation evaluates the tasks of a data stream, and this env is not one: leave it out, and see "
            "evaluation.every_steps"
        )
    return observers


def _own_examples(plan: Plan, agent: Agent, stream: Stream) -> OwnExamples | None:
    """Returns the source of the current task's examples before they are learned from, or None where there is none.

    Raises:
        ValueError: If there is none, and the settings ask for it.
    """
    if isinstance(stream, TaskStream) and isinstance(agent, SupervisedLearner):
        probed = DRAWS_PER_INPUT * plan.probe.inputs if plan.probe.before_first_update else 0
        return OwnExamples(stream, agent, max(plan.metrics.inputs, probed, FEWEST_EXAMPLES))
    if plan.metrics.at:
        stream.peek(1)  # an environment refuses
        raise ValueError(f"metrics.at={plan.metrics.at} is for agent=supervised; metrics.after_switch=[1] is for all agents")
    return None


def _another_learner(plan: Plan, problem: Problem, builder: PartBuilder, seed: int) -> SupervisedLearner:
    """Builds a learner like that of the run, with another seed."""
    agent = build_agent(plan.agent_name, plan.agent, problem, replace(builder, seed=seed, origin=None))
    assert isinstance(agent, SupervisedLearner)
    return agent


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; ``auto`` is the first CUDA device, or the CPU without one.

    Raises:
        ValueError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name} is not available on this machine; choose cpu or auto")
    return torch.device(name)


def choose_threads(threads: str, agent: Agent) -> int:
    """Returns the number given; for ``auto``, all cores for a network of a million parameters and one for a smaller one.

    On a small network a second thread costs more time than it saves, and on a busy machine the loss is much larger.
    """
    if threads != "auto":
        return int(threads)
    return (os.cpu_count() or 1) if parameters_of(agent) >= LARGE_NETWORK_PARAMETERS else 1


def _refuse_unknown_parts(plan: Plan, agent: Agent) -> None:
    named = {f"interventions.{name}.parts": method.parts for name, method in plan.interventions.items()}
    named |= {"network.parts": list(plan.network_parts), "optimizer.parts": list(plan.optimizer_parts)}
    for setting, parts in named.items():
        unknown = [part for part in parts if part not in agent.parts]
        if unknown:
            allowed = ", ".join(agent.parts)
            raise ValueError(f"{setting}={unknown}: agent={plan.choices['agent']} has the parts {allowed}")


def _refuse_weights_of_samples(plan: Plan, agent: Agent) -> None:
    """Refuses methods that weight the transitions of a replay where an agent does not use these weights."""
    weighing = [name for part in agent.parts.values() for name in part.hooks.weighing()]
    if weighing and getattr(getattr(agent, "replay", None), "age_weights", None) is None:
        raise ValueError(
            f"{weighing[0]} sets what is drawn from a replay, and agent={plan.choices['agent']} has none that draws by "
            "age; choose agent=dqn or agent=sac"
        )


def _refuse_absent_tasks(plan: Plan, problem: Problem) -> None:
    """Refuses learning rates that follow the tasks of examples where there are none."""
    parts = {f".parts.{name}": settings for name, settings in plan.optimizer_parts.items()}
    for part, settings in {"": plan.optimizer, **parts}.items():
        if settings.schedule_per_task and problem.kind != "examples":
            raise ValueError(
                f"optimizer{part}.schedule_per_task=true follows the tasks of a data stream, and this env is not one; choose "
                "false, and the schedule runs over optimizer.schedule_steps"
            )


def _refuse_single_examples(plan: Plan, agent: Agent, stream: Stream) -> None:
    """Refuses minibatches of one example where batch normalisation needs their variance."""
    if not any(isinstance(module, nn.BatchNorm1d) for part in agent.parts.values() for module in part.network.modules()):
        return
    remedy = "batch normalisation of a dense layer needs 2 or more; network.normalisation=[layer] does not"
    for name, settings in (("agent", plan.agent), ("env", plan.env)):
        if getattr(settings, "batch_size", None) == 1:
            raise ValueError(f"{name}.batch_size=1 makes minibatches of one example: {remedy}")
    if isinstance(stream, TaskStream):
        steps = task = 0
        while steps < plan.run.steps:
            if stream.smallest_minibatch(task) == 1:
                raise ValueError(
                    f"task {task} has {stream.source.examples_in(task)} examples, of which env.batch_size={stream.batch_size} "
                    f"leaves a minibatch of one: {remedy}"
                )
            steps, task = steps + stream.minibatches(task), task + 1


def without_updates(plan: Plan) -> str:
    """Returns a line if the run ends before its agent learns, so that its methods do nothing; "" if it learns."""
    warmup, branch = int(getattr(plan.agent, "warmup_env_steps", 0)), plan.config.get("branch") or {}
    begun = int(branch["step"]) if branch.get("replay") == "clear" else 0
    if not warmup or plan.run.steps > begun + warmup:
        return ""
    after = f" after step {begun}, where the replay is emptied" if begun else ""
    return (
        f"this run makes no update: steps={plan.run.steps} ends within the first agent.warmup_env_steps={warmup} steps{after}, "
        "in which the agent acts and does not learn"
    )


def _warn_of_idle_methods(plan: Plan, problem: Problem) -> None:
    """Warns when a method waits for task switches that never come."""
    for name, method in plan.interventions.items():
        waits = getattr(method, "at_task_switch", False) and getattr(method, "every_updates", 1) == 0
        if waits and not problem.announces_tasks:
            print(
                f"warning: {name} acts at task switches only, and this env announces none: it will do nothing. "
                f"Set interventions.{name}.every_updates.",
                file=sys.stderr,
            )
