"""Environments to evaluate an agent in, under the conditions in which it is being trained."""

from dataclasses import fields, replace
from typing import Any

import torch
from gymnasium import Env, Wrapper
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper

from envs.environment_stream import EnvironmentStream
from envs.factory import build_stream
from envs.normalisation import follow_statistics
from envs.physics_shift import PhysicsShift
from envs.task_sequence import TaskSequence
from seeding import derive_seed


def evaluation_stream(settings: Any, seed: int, num_envs: int) -> EnvironmentStream:
    """Builds environments of their own from the settings of those that are trained on.

    A lost life is not terminal in them. Before each evaluation, call ``follow_conditions`` and ``EnvironmentStream.restart``.

    Args:
        settings: One of the settings classes of ``envs.factory.STREAMS``; not changed.
        seed: The run's seed; the environments get one derived from it.
        num_envs: Copies that are stepped together.

    Raises:
        TypeError: The settings are of a stream of examples.
    """
    names = {field.name for field in fields(settings)}
    if "num_envs" not in names:
        raise TypeError(f"{type(settings).__name__} is not the settings of an environment: nothing to evaluate in")
    changes: dict[str, Any] = {"num_envs": num_envs}
    if "life_loss_terminates" in names:
        changes["life_loss_terminates"] = False
    stream, _ = build_stream(replace(settings, **changes), derive_seed(seed, "evaluation"), torch.device("cpu"))
    assert isinstance(stream, EnvironmentStream)
    return stream


def follow_conditions(evaluation: EnvironmentStream, training: EnvironmentStream) -> None:
    """Gives evaluation the statistics, the task and the physics that training has now, and holds them.

    Args:
        evaluation: Made by ``evaluation_stream`` from the settings of ``training``; changed in place. Call ``restart`` next.
        training: Only read.
    """
    follow_statistics(evaluation.env, training.env)
    base, source = _innermost(evaluation.env), _innermost(training.env)
    if isinstance(base, TaskSequence) and isinstance(source, TaskSequence):
        base.hold(source.number)
        return
    numbers = [shift.number for shift in _shifts(source)]
    for shift in _shifts(base):
        shift.hold(max(numbers))


def _innermost(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    while isinstance(env, VectorWrapper):
        env = env.env
    return env


def _shifts(vector: VectorEnv[Any, Any, Any]) -> list[PhysicsShift]:
    found = []
    for env in vector.envs if isinstance(vector, SyncVectorEnv) else ():
        layer: Env[Any, Any] = env
        while isinstance(layer, Wrapper):
            if isinstance(layer, PhysicsShift):
                found.append(layer)
            layer = layer.env
    return found
