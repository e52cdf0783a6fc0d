"""Building streams from settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import gymnasium
import torch

from plasticity.envs.environments.atari_settings import AtariSettings
from plasticity.envs.environments.bandit import BANDIT_ID
from plasticity.envs.environments.dmc_stream import DmcSettings, build_dmc
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.gym_stream import GymSettings, build_gym
from plasticity.envs.environments.mujoco_stream import MujocoSettings, build_mujoco
from plasticity.envs.problem import Problem, environment_problem
from plasticity.envs.stream import Stream
from plasticity.envs.tasks.data_settings import (
    CameraLocationsSettings,
    ClassIncrementalSettings,
    ClassPairsSettings,
    FirstPhasesSettings,
    ScheduleSettings,
    ShakespeareSettings,
    SlowRegressionSettings,
    TargetOffsetsSettings,
    TaskStreamSettings,
)
from plasticity.envs.tasks.data_streams import (
    build_camera_locations,
    build_incremental,
    build_offsets,
    build_pairs,
    build_phases,
    build_shakespeare,
    build_slow_regression,
    build_transformed,
)
from plasticity.settings.fields import Settings, setting

__all__ = ["STREAMS", "BanditSettings", "Problem", "TaskStreamSettings", "build_stream"]


@dataclass
class BanditSettings(Settings):
    """The image-classification contextual bandit."""

    section: ClassVar[str] = "env"

    dataset: str = setting("digits", "``digits``, ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100`` or ``quick_draw``.")
    data_folder: str | None = setting(None, "Where data sets are kept; None for ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.")
    num_envs: int = setting(1, "Copies that are stepped together.")
    reward: float = setting(1.0, "Reward of the right class.")
    episode_steps: int = setting(100, "Steps after which an episode is truncated.")


def _bandit(settings: BanditSettings, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    env = gymnasium.make_vec(
        BANDIT_ID,
        num_envs=settings.num_envs,
        vectorization_mode="vector_entry_point",
        dataset=settings.dataset,
        root=settings.data_folder,
        reward=settings.reward,
        episode_steps=settings.episode_steps,
    )
    stream = EnvironmentStream(env, seed, f"bandit of {settings.dataset}")
    return stream, environment_problem(stream)


def _atari(settings: AtariSettings, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    from plasticity.envs.environments.atari import build_atari  # here, as it loads the emulator

    return build_atari(settings, seed, device)


STREAMS: Final[dict[str, tuple[type, Callable[[Any, int, torch.device], tuple[Stream, Problem]]]]] = {
    "bandit": (BanditSettings, _bandit),
    "task_stream": (TaskStreamSettings, build_transformed),
    "class_pairs": (ClassPairsSettings, build_pairs),
    "class_incremental": (ClassIncrementalSettings, build_incremental),
    "first_phases": (FirstPhasesSettings, build_phases),
    "target_offsets": (TargetOffsetsSettings, build_offsets),
    "camera_locations": (CameraLocationsSettings, build_camera_locations),
    "shakespeare": (ShakespeareSettings, build_shakespeare),
    "slow_regression": (SlowRegressionSettings, build_slow_regression),
    "gym": (GymSettings, build_gym),
    "atari": (AtariSettings, _atari),
    "dmc": (DmcSettings, build_dmc),
    "mujoco": (MujocoSettings, build_mujoco),
}


def build_stream(settings: object, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    """Builds the stream that belongs to a settings object of ``STREAMS``.

    Args:
        settings: One of the settings classes.
        seed: The run's seed.
        device: That of the learner, where data are kept unless the settings say otherwise.

    Raises:
        ValueError: If a setting makes no sense or data are missing.
    """
    if isinstance(settings, ScheduleSettings) and settings.keep_on == "cpu":
        device = torch.device("cpu")
    for cls, build in STREAMS.values():
        if isinstance(settings, cls):
            return build(settings, seed, device)
    raise TypeError(f"{type(settings).__name__} is not among the settings of {', '.join(STREAMS)}")
