"""The DeepMind Control Suite as gymnasium environments.

Tassa et al. (2018), "DeepMind Control Suite".
"""

import warnings
from math import ceil, isfinite
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from plasticity.envs.simulation.mujoco_state import physics_state, restore_physics
from plasticity.envs.simulation.mujoco_warnings import warn_in_python
from plasticity.envs.tasks.generator_state import generator_state, restored_generator
from plasticity.settings.naming import unknown_name

with warnings.catch_warnings():  # it looks for a screen, and warns where there is none
    warnings.simplefilter("ignore")
    from dm_control import suite

Observation = npt.NDArray[np.float32]


def task_names() -> list[str]:
    """Returns every task of the suite as ``domain-task``."""
    return ["-".join(pair) for pair in suite.ALL_TASKS]


class DmcEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """One task of the suite; reward in [0, ``action_repeat``].

    Observations are the suite's, flattened in its order, in single precision. Actions in [-1, 1] are scaled to the suite's
    bounds. Episodes are truncated at the task's time limit, 1000 control steps for most; almost no task terminates.

    Args:
        task: ``domain-task``, ``humanoid-run`` say.
        action_repeat: Control steps for which an action is held; rewards are summed.

    Attributes:
        model: The ``MjModel``.
        episode_steps: Steps of an episode at its time limit; None for a task without one.

    Raises:
        ValueError: The task is unknown or cannot be loaded, or ``action_repeat`` is below 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, task: str = "cartpole-swingup", action_repeat: int = 1, render_mode: str | None = None) -> None:
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
            self._suite = suite.load(domain, name, task_kwargs={"random": self._generator})
            self.model = self._suite.physics.model.ptr
            self._original = _arrays(self.model)
            self._suite.reset()  # one task shapes its ground here, for which it needs a graphics library
        except Exception as error:  # of whatever kind the physics engine raises when it has none
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
        drawing: Any = self._generator.get_state(legacy=False)
        now = _arrays(self.model)
        return {
            "physics": physics_state(self.model, self._suite.physics.data.ptr),
            "model": {name: torch.from_numpy(now[name]) for name in now if not np.array_equal(now[name], self._original[name])},
            "control_steps": self._suite._step_count,
            "over": self._suite._reset_next_step,
            "generator": generator_state(self.np_random),
            "suite_generator": {
                "key": torch.from_numpy(drawing["state"]["key"].astype(np.int64)),
                "position": int(drawing["state"]["pos"]),
                "has_gauss": int(drawing["has_gauss"]),
                "gauss": float(drawing["gauss"]),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where ``state_dict`` was taken."""
        for name, original in self._original.items():
            getattr(self.model, name)[...] = state["model"][name].numpy() if name in state["model"] else original
        restore_physics(self.model, self._suite.physics.data.ptr, state["physics"])
        self._suite._step_count, self._suite._reset_next_step = state["control_steps"], state["over"]
        self.np_random = restored_generator(state["generator"])
        drawing = state["suite_generator"]
        key = drawing["key"].numpy().astype(np.uint32)
        self._generator.set_state(("MT19937", key, drawing["position"], drawing["has_gauss"], drawing["gauss"]))


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
