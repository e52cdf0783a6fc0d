"""Saving and restoring single environments in mid-episode, third-party ones included."""

from collections.abc import Iterator
from typing import Any, Final

import gymnasium
import numpy as np
import torch
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, Continuous_MountainCarEnv, MountainCarEnv, PendulumEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from plasticity.envs.simulation.generator_state import generator_state, restored_generator
from plasticity.envs.simulation.keeps_state import is_project_class, resumes_exactly

_WITHOUT_STATE: Final = (OrderEnforcing, PassiveEnvChecker)
_STOCK_MUJOCO: Final = "gymnasium.envs.mujoco."  # nothing of theirs lives in Python from one step to the next
_CLASSIC: Final = (AcrobotEnv, CartPoleEnv, Continuous_MountainCarEnv, MountainCarEnv, PendulumEnv)


def keeps_all_state(env: gymnasium.Env[Any, Any]) -> bool:
    """Returns whether ``environment_state`` can save ``env`` and all its wrappers in mid-episode.

    That is so for gymnasium's classic control and MuJoCo environments, under gymnasium's own time limit, and for everything
    that keeps its own state (``plasticity.envs.simulation.keeps_state.KeepsState``). It is not so for a subclass of any of
    these, which may have attributes of its own that are not known here.
    """
    return all(type(layer) in (TimeLimit, *_WITHOUT_STATE) or _can_save(layer) for layer in _layers(env))


def episode_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Returns the most steps of an episode: of a time limit, or as stated by an environment of this project; None without one."""
    limits = []
    for layer in _layers(env):
        if isinstance(layer, TimeLimit):
            limits.append(int(layer._max_episode_steps))
        elif is_project_class(type(layer)) and getattr(layer, "episode_steps", None) is not None:
            limits.append(int(layer.episode_steps))  # type: ignore[attr-defined]
    return min(limits, default=None)


def environment_state(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """Returns the state of an environment that ``keeps_all_state``, as plain numbers, strings, tensors and containers."""
    return {"layers": [_layer_state(layer) for layer in _layers(env) if not isinstance(layer, _WITHOUT_STATE)]}


def restore_environment(env: gymnasium.Env[Any, Any], state: dict[str, Any]) -> None:
    """Restores a saved state of an environment made in the same way, which must have been reset before.

    Raises:
        ValueError: The state is of another kind of environment.
    """
    layers = [layer for layer in _layers(env) if not isinstance(layer, _WITHOUT_STATE)]
    names = [type(layer).__name__ for layer in layers]
    saved = [layer["name"] for layer in state["layers"]]
    if names != saved:
        raise ValueError(f"saved environment is made of {', '.join(saved)}, this one of {', '.join(names)}")
    for layer, values in zip(layers, state["layers"], strict=True):  # from the outside in: wrappers may change the physics
        _restore_layer(layer, values)


def _layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """Yields the wrappers from the outside in, and last the environment itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _is_mujoco(layer: object) -> bool:
    return type(layer).__module__.startswith(_STOCK_MUJOCO)


def _can_save(layer: gymnasium.Env[Any, Any]) -> bool:
    return resumes_exactly(layer) or type(layer) in _CLASSIC or _is_mujoco(layer)


def _layer_state(layer: Any) -> dict[str, Any]:
    name = {"name": type(layer).__name__}
    if type(layer) is TimeLimit:
        return {**name, "elapsed_steps": layer._elapsed_steps}
    if resumes_exactly(layer):
        return {**name, "state": layer.state_dict()}
    generator = {"generator": generator_state(layer.np_random)}
    if type(layer) in _CLASSIC:
        return {**name, **generator, "state": _plain(layer.state), "over": getattr(layer, "steps_beyond_terminated", None)}
    from plasticity.envs.simulation.mujoco_state import physics_state  # imported here: it loads the physics engine

    return {**name, **generator, "physics": physics_state(layer.model, layer.data)}


def _restore_layer(layer: Any, values: dict[str, Any]) -> None:
    if type(layer) is TimeLimit:
        layer._elapsed_steps = values["elapsed_steps"]
        return
    if resumes_exactly(layer):
        layer.load_state_dict(values["state"])
        return
    layer.np_random = restored_generator(values["generator"])
    if type(layer) in _CLASSIC:
        saved = values["state"]
        layer.state = saved.numpy().copy() if isinstance(saved, torch.Tensor) else tuple(saved)
        if isinstance(layer, CartPoleEnv):
            layer.steps_beyond_terminated = values["over"]
        return
    from plasticity.envs.simulation.mujoco_state import restore_physics  # imported here: it loads the physics engine

    restore_physics(layer.model, layer.data, values["physics"])


def _plain(state: Any) -> torch.Tensor | list[float]:
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state.copy())
    return [float(number) for number in state]
