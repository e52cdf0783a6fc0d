"""Environments to evaluate an agent in, under the conditions in which it is being trained."""

from dataclasses import fields, replace
from math import ceil
from typing import Any, Final

import torch
from gymnasium import Env, Wrapper
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper

from plasticity.envs.environments.atari import AtariSettings, protocol_line
from plasticity.envs.environments.bandit import ContextualBanditVectorEnv
from plasticity.envs.environments.environment_stream import EnvironmentStream, innermost
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.factory import build_stream
from plasticity.envs.simulation.normalisation import follow_statistics
from plasticity.envs.simulation.shift import Shift
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.seeding import derive_seed

EPISODE_STEPS: Final = 100_000  # of an episode without another end


def evaluation_stream(settings: Any, seed: int, num_envs: int, episode_steps: int | None = None) -> EnvironmentStream:
    """Builds separate environments from the settings of those that are trained on.

    A lost life is not terminal in them. Before each evaluation, call ``follow_conditions`` and ``EnvironmentStream.restart``.

    Args:
        settings: One of the settings classes of ``plasticity.envs.registry.STREAMS``; not changed.
        seed: The run's seed, on which the physics depend that are drawn; the episodes get one derived from it.
        num_envs: Copies that are stepped together.
        episode_steps: Steps after which an episode is cut; None for ``episode_bound``.

    Raises:
        TypeError: The settings are of a stream of examples.
    """
    stream, _ = build_stream(evaluation_settings(settings, num_envs, episode_steps), seed, torch.device("cpu"))
    assert isinstance(stream, EnvironmentStream)
    stream.name += " of the evaluation"
    base = _unwrapped(stream.env)
    if isinstance(base, SyncVector | TaskSequence):
        base.limit_episodes(episode_bound(settings, episode_steps, stream))
    stream.restart(derive_seed(seed, "evaluation"))
    return stream


def episode_bound(settings: Any, episode_steps: int | None, stream: EnvironmentStream) -> int:
    """Returns the most steps of an episode in evaluation.

    Args:
        settings: Of the environment.
        episode_steps: A bound that the user gives, or None.
        stream: Made from the settings.

    Returns:
        The smaller of ``episode_steps`` and the environment's own limit; 100,000 where there is neither.
    """
    base = innermost(stream.env)
    own = base.episode_limit if isinstance(base, SyncVector) else getattr(settings, "episode_steps", None)
    if isinstance(settings, AtariSettings):
        own = ceil(settings.max_episode_frames / settings.frame_skip)
    return min((bound for bound in (own, episode_steps) if bound is not None), default=EPISODE_STEPS)


def evaluation_settings(settings: Any, num_envs: int, episode_steps: int | None = None) -> Any:
    """Returns the settings of evaluation: other copies, possibly shorter episodes, and no lost life is terminal.

    Raises:
        TypeError: The settings are of a stream of examples.
    """
    names = {field.name for field in fields(settings)}
    if "num_envs" not in names:
        raise TypeError(f"{type(settings).__name__} is not the settings of an environment: nothing to evaluate in")
    changes: dict[str, Any] = {"num_envs": num_envs}
    if "life_loss_terminates" in names:
        changes["life_loss_terminates"] = False
    if episode_steps is not None and "episode_steps" in names:
        changes["episode_steps"] = min(settings.episode_steps, episode_steps)
    if episode_steps is not None and "max_episode_frames" in names:
        changes["max_episode_frames"] = min(settings.max_episode_frames, episode_steps * settings.frame_skip)
    return replace(settings, **changes)


def environment_line(settings: Any) -> str:
    """Returns the settings of an environment that decide what a return means, in one line; for Atari its protocol."""
    if isinstance(settings, AtariSettings):
        game = f"games={','.join(settings.games)}" if settings.games else f"game={settings.game}"
        return f"env={settings.name} {game} {protocol_line(settings)}"
    told = [field.name for field in fields(settings) if field.name not in ("num_envs", "data_folder")]
    return " ".join([f"env={settings.name}", *(f"{setting}={getattr(settings, setting)}" for setting in told)])


def follow_conditions(evaluation: EnvironmentStream, training: EnvironmentStream) -> None:
    """Gives evaluation the statistics, the task, the shift and the labels that training has now, and holds them.

    At the end of a task of a sequence, this is still the task that the agent has learned, and not yet the next.

    Args:
        evaluation: Made by ``evaluation_stream`` from the settings of ``training``; changed in place. Call ``restart`` next.
        training: Only read.
    """
    follow_statistics(evaluation.env, training.env)
    base, source = _unwrapped(evaluation.env), _unwrapped(training.env)
    if isinstance(base, TaskSequence) and isinstance(source, TaskSequence):
        base.hold(source.played)
        return
    if isinstance(base, ContextualBanditVectorEnv) and isinstance(source, ContextualBanditVectorEnv):
        base.labels.follow(source.labels)
    latest = max(_shifts(source), key=lambda shift: shift.number, default=None)
    if latest is not None:
        for shift in _shifts(base):
            shift.hold(latest.number, latest.share)


def _unwrapped(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    while isinstance(env, VectorWrapper):
        env = env.env
    return env


def _shifts(vector: VectorEnv[Any, Any, Any]) -> list[Shift]:
    found = []
    for env in vector.envs if isinstance(vector, SyncVectorEnv) else ():
        layer: Env[Any, Any] = env
        while isinstance(layer, Wrapper):
            if isinstance(layer, Shift):
                found.append(layer)
            layer = layer.env
    return found
