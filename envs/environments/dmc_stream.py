"""Streams of DeepMind Control tasks, one or several in sequence."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.mujoco_stream import NO_SHIFT, ShiftSettings, shifted
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.problem import Problem, environment_problem
from plasticity.envs.simulation.normalisation import normalised
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.envs.stream import Stream
from plasticity.settings.fields import setting


@dataclass
class DmcSettings(ShiftSettings):
    """A task of the DeepMind Control Suite, or a sequence of tasks."""

    task: str = setting("cartpole-swingup", "``domain-task``.")
    action_repeat: int = setting(1, "Control steps for which an action is held; one environment step is that many control steps.")
    tasks: list[str] = setting(
        [],
        "Tasks to learn one after the other and again from the first, instead of ``task``; their observations"
        " and actions must have the same shapes.",
    )
    steps_per_task: int = setting(1_000_000, "Environment steps, over all copies, between tasks of ``tasks``.")


def build_dmc(settings: DmcSettings, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    """Builds the stream and says what problem it poses.

    Raises:
        ValueError: A task is unknown, or tasks in sequence do not have the same shapes.
    """
    changes = settings.shift != NO_SHIFT
    if settings.tasks and changes:
        raise ValueError(f"tasks={settings.tasks} and shift={settings.shift}: choose one of the two")
    env: VectorEnv[Any, Any, Any] = _vector(settings, settings.task, seed) if not settings.tasks else _sequence(settings, seed)
    stream = EnvironmentStream(normalised(env, settings), seed, ",".join(settings.tasks) or settings.task)
    return stream, environment_problem(stream)


def _vector(settings: DmcSettings, task: str, seed: int) -> SyncVector:
    from plasticity.envs.environments.dmc import DmcEnv  # here, as it loads the physics engine and the suite

    return SyncVector([shifted(partial(DmcEnv, task, settings.action_repeat), settings, seed)] * settings.num_envs)


def _sequence(settings: DmcSettings, seed: int) -> TaskSequence:
    from plasticity.envs.environments.dmc import DmcEnv  # here, as it loads the physics engine and the suite

    shapes = {}
    for task in settings.tasks:
        env = DmcEnv(task)
        shapes[task] = (env.observation_space.shape, env.action_space.shape)
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{task} {observation} {action}" for task, (observation, action) in shapes.items())
        raise ValueError(f"tasks={settings.tasks} must have the same shapes of observations and actions, they have {told}")
    makers = [partial(_vector, settings, task, seed) for task in settings.tasks]
    return TaskSequence(makers, settings.steps_per_task, seed, settings.announce_tasks)
