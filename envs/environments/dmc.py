"""The DeepMind Control Suite as gymnasium environments, and streams of them, one or several in sequence.

Tassa et al. (2018), "DeepMind Control Suite".
"""

import warnings
from dataclasses import dataclass
from functools import partial
from math import ceil, isfinite
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from plasticity.envs.environments.mujoco_stream import NO_SHIFT, ShiftSettings, shifted
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.registry import stream
from plasticity.envs.simulation.generator_state import (
    generator_state,
    restore_old_generator,
    restored_generator,
    state_of_old_generator,
)
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.fields import setting
from plasticity.settings.naming import unknown_name

Observation = npt.NDArray[np.float32]


def _suite() -> Any:
    """Returns the suite, which is imported at the first use, because it loads the physics engine."""
    with warnings.catch_warnings():  # it looks for a screen, and warns where there is none
        warnings.simplefilter("ignore")
        from dm_control import suite
    return suite


def task_names() -> list[str]:
    """Returns every task of the suite as ``domain-task``."""
    return ["-".join(pair) for pair in _suite().ALL_TASKS]


class DmcEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """One task of the suite; reward in [0, ``action_repeat``].

    Observations are the suite's, flattened in its order, in single precision. Actions in [-1, 1] are scaled to the suite's
    bounds. Episodes are truncated at the task's time limit, 1000 control steps for most; almost no task terminates.

    Args:
        task: ``domain-task``, such as ``humanoid-run``.
        action_repeat: Control steps for which an action is held; rewards are summed.

    Attributes:
        model: The ``MjModel``.
        episode_steps: Steps of an episode at its time limit; None for a task without one.

    Raises:
        ValueError: The task is unknown or cannot be loaded, or ``action_repeat`` is below 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, task: str = "cartpole-swingup", action_repeat: int = 1, render_mode: str | None = None) -> None:
        from plasticity.envs.simulation.mujoco_warnings import warn_in_python  # imported here: it loads the physics engine

        if task not in task_names():
            raise ValueError(unknown_name("task", task, task_names()))
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat} must be at least 1")
        warn_in_python()
        domain, name = task.split("-", 1)
        self.render_mode = render_mode
        self._repeat = action_repeat
        self._generator = np.random.RandomState(0)
        try:
            self._suite = _suite().load(domain, name, task_kwargs={"random": self._generator})
            self.model = self._suite.physics.model.ptr
            self._original = _arrays(self.model)
            self._suite.reset()  # one task shapes its ground here, for which it needs a graphics library
        except Exception as error:  # any error that the physics engine raises without one
            raise ValueError(f"task={task} cannot be loaded: {(str(error) or type(error).__name__).splitlines()[0]}") from error
        limit = self._suite._step_limit
        self.episode_steps = ceil(limit / action_repeat) if isfinite(limit) else None
        bounds = self._suite.action_spec()
        self._low, self._high = bounds.minimum, bounds.maximum
        self.action_space = spaces.Box(-1.0, 1.0, bounds.shape, np.float32)
        size = sum(int(np.prod(part.shape)) for part in self._suite.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self._generator.seed(int(self.np_random.integers(2**32)))
        return _flat(self._suite.reset().observation), {}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Holds an action, of values in [-1, 1], for ``action_repeat`` control steps, or until the episode ends."""
        scaled = self._low + (np.asarray(action, np.float64) + 1.0) * 0.5 * (self._high - self._low)
        reward = 0.0
        for _ in range(self._repeat):
            after = self._suite.step(scaled)
            reward += float(after.reward)
            if after.last():
                break
        terminated = after.last() and after.discount == 0.0
        return _flat(after.observation), reward, terminated, after.last() and not terminated, {}

    def render(self) -> Any:
        """Returns an image (240, 320, 3) from the first camera, if ``render_mode`` is ``rgb_array``."""
        return self._suite.physics.render(240, 320, camera_id=0) if self.render_mode == "rgb_array" else None

    def state_dict(self) -> dict[str, Any]:
        """Returns the physics, what the task changed in the model, the place in the episode and the generators."""
        from plasticity.envs.simulation.mujoco_state import physics_state  # imported here: it loads the physics engine

        now = _arrays(self.model)
        return {
            "physics": physics_state(self.model, self._suite.physics.data.ptr),
            "model": {name: torch.from_numpy(now[name]) for name in now if not np.array_equal(now[name], self._original[name])},
            "control_steps": self._suite._step_count,
            "over": self._suite._reset_next_step,
            "generator": generator_state(self.np_random),
            "suite_generator": state_of_old_generator(self._generator),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where ``state_dict`` was taken."""
        from plasticity.envs.simulation.mujoco_state import restore_physics  # imported here: it loads the physics engine

        for name, original in self._original.items():
            getattr(self.model, name)[...] = state["model"][name].numpy() if name in state["model"] else original
        restore_physics(self.model, self._suite.physics.data.ptr, state["physics"])
        self._suite._step_count, self._suite._reset_next_step = state["control_steps"], state["over"]
        self.np_random = restored_generator(state["generator"])
        restore_old_generator(self._generator, state["suite_generator"])


@stream("dmc")
@dataclass
class DmcSettings(ShiftSettings):
    """A task of the DeepMind Control Suite, or a sequence of tasks."""

    task: str = setting("cartpole-swingup", "``domain-task``.")
    action_repeat: int = setting(
        1, "Control steps for which an action is held; one environment step is that many control steps.", low=1
    )
    tasks: list[str] = setting(
        [],
        "Tasks to learn one after the other and again from the first, instead of ``task``; their observations"
        " and actions must have the same shapes.",
    )
    steps_per_task: int = setting(1_000_000, "Environment steps, over all copies, between tasks of ``tasks``.", low=1)

    def environment(self, seed: int) -> gymnasium.Env[Any, Any]:
        """Makes one copy of ``task``, as yet without a shift; the seed does not matter."""
        return DmcEnv(self.task, self.action_repeat)

    def vector(self, seed: int) -> VectorEnv[Any, Any, Any]:
        """Makes all copies of the task, or of the sequence of tasks.

        Raises:
            ValueError: A task is unknown, or tasks in sequence do not have the same shapes.
        """
        if not self.tasks:
            return _vector(self, self.task, seed)
        if self.shift != NO_SHIFT:
            raise ValueError(f"tasks={self.tasks} and shift={self.shift}: choose one of the two")
        return _sequence(self, seed)

    def label(self) -> str:
        """Returns the tasks."""
        return ",".join(self.tasks) or self.task


def _vector(settings: DmcSettings, task: str, seed: int) -> SyncVector:
    return SyncVector([shifted(partial(DmcEnv, task, settings.action_repeat), settings, seed)] * settings.num_envs)


def _sequence(settings: DmcSettings, seed: int) -> TaskSequence:
    shapes = {}
    for task in settings.tasks:
        env = DmcEnv(task)
        shapes[task] = (env.observation_space.shape, env.action_space.shape)
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{task} {observation} {action}" for task, (observation, action) in shapes.items())
        raise ValueError(f"tasks={settings.tasks} must have the same shapes of observations and actions, they have {told}")
    makers = [partial(_vector, settings, task, seed) for task in settings.tasks]
    return TaskSequence(makers, settings.steps_per_task, seed, settings.announce_tasks)


def _flat(observation: dict[str, Any]) -> Observation:
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)


def _arrays(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Returns copies of all floating-point arrays of a model: tasks move targets and shape the ground by writing into them."""
    found = {}
    for name in dir(model):
        value = None if name.startswith("_") else getattr(model, name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            found[name] = value.copy()
    return found


gymnasium.register("plasticity/DeepMindControl-v0", "plasticity.envs.environments.dmc:DmcEnv")
