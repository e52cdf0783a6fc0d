"""Gymnasium's checker on the real environments as the streams wrap them; those of our own have it in their own tests."""

import warnings
from functools import partial
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

from plasticity.envs.environments.dmc import DmcEnv, DmcSettings
from plasticity.envs.environments.gym_stream import make_environment
from plasticity.envs.environments.mujoco_stream import NO_SHIFT, MujocoSettings, shifted
from plasticity.envs.simulation.physics_shift import SHIFTS

# The checker wants the same from the same seed, so every change brings the same factor.
STEADY: dict[str, Any] = {"shift_values": [0.5], "change_every_steps": 1}
# Not ours to change: these environments give their observations no bounds, and the checker would rather see no wrapper.
KNOWN = ".*infinity", ".*different from the unwrapped version"


def finds_nothing(env: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for message in KNOWN:
            warnings.filterwarnings("ignore", message)
        check_env(env, skip_render_check=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "Walker2d-v5"])
@pytest.mark.parametrize("shift", [NO_SHIFT, *SHIFTS])
def test_mujoco_under_every_shift(name: str, shift: str) -> None:
    finds_nothing(shifted(partial(make_environment, name, {}), MujocoSettings(shift=shift, **STEADY), 0)())


@pytest.mark.parametrize("action_repeat", [1, 2, 4])
@pytest.mark.parametrize("shift", [NO_SHIFT, "gravity"])
def test_deepmind_control_with_held_actions(action_repeat: int, shift: str) -> None:
    finds_nothing(shifted(partial(DmcEnv, "walker-walk", action_repeat), DmcSettings(shift=shift, **STEADY), 0)())
