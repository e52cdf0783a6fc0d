"""The state of a MuJoCo simulation, complete enough to continue bit for bit."""

from typing import Any, Final

import mujoco  # type: ignore[import-untyped]
import numpy as np
import torch

_KIND: Final = mujoco.mjtState.mjSTATE_INTEGRATION  # time, qpos, qvel, act, controls, forces, mocap and the solver's warm start
# Computed by the step before, and read by environments before the next one: a velocity is a difference of two positions.
_DERIVED: Final = ("xpos", "xipos", "geom_xpos", "site_xpos")


def physics_state(model: Any, data: Any) -> dict[str, torch.Tensor]:
    """Returns the state of a simulation.

    Args:
        model: The ``MjModel``; what was changed in it is not saved.
        data: Its ``MjData``.
    """
    state = np.empty(mujoco.mj_stateSize(model, _KIND), np.float64)
    mujoco.mj_getState(model, data, state, _KIND)
    derived = {name: torch.from_numpy(getattr(data, name).copy()) for name in _DERIVED}
    return {"integration": torch.from_numpy(state), **derived}


def restore_physics(model: Any, data: Any, state: dict[str, torch.Tensor]) -> None:
    """Restores a saved state; ``model`` must be as it was then.

    Raises:
        ValueError: The state is of another model.
    """
    expected = mujoco.mj_stateSize(model, _KIND)
    if state["integration"].numel() != expected:
        raise ValueError(f"saved physics has {state['integration'].numel()} numbers, this model has {expected}")
    mujoco.mj_setState(model, data, state["integration"].numpy(), _KIND)
    mujoco.mj_forward(model, data)  # leaves the solver's warm start as it is
    for name in _DERIVED:
        getattr(data, name)[:] = state[name].numpy()
