"""Building streams from settings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import gymnasium
import torch
from gymnasium import spaces

from envs.bandit import BANDIT_ID
from envs.datasets import load_dataset
from envs.environment_stream import EnvironmentStream
from envs.stream import Stream
from envs.task_stream import TaskStream


@dataclass
class BanditSettings:
    """The image-classification contextual bandit.

    Attributes:
        dataset: ``digits``, ``mnist``, ``fashion_mnist`` or ``cifar10``.
        data_folder: Where data sets are kept; None for ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.
        num_envs: Copies that are stepped together.
        reward: Reward of the right class.
        episode_steps: Steps after which an episode is truncated.
    """

    dataset: str = "digits"
    data_folder: str | None = None
    num_envs: int = 1
    reward: float = 1.0
    episode_steps: int = 100


@dataclass
class TaskStreamSettings:
    """A sequence of supervised tasks over one data set.

    Attributes:
        transformation: ``permuted_pixels``, ``random_labels``, ``permuted_labels`` or ``none``.
        dataset: ``digits``, ``mnist``, ``fashion_mnist`` or ``cifar10``.
        data_folder: Where data sets are kept; None for ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.
        examples_per_task: Examples drawn for each task; None for all of them.
        epochs_per_task: Passes over a task's examples.
        batch_size: Examples in a minibatch.
        announce_tasks: Whether the learner and the interventions are told when a task begins.
    """

    transformation: str = "permuted_pixels"
    dataset: str = "digits"
    data_folder: str | None = None
    examples_per_task: int | None = None
    epochs_per_task: int = 1
    batch_size: int = 16
    announce_tasks: bool = True


class Problem(NamedTuple):
    """What an agent must know of a stream to be built for it.

    Attributes:
        kind: ``environment`` or ``examples``.
        outputs: Actions, action dimensions or classes.
        discrete: Whether outputs are actions or classes to choose from.
        announces_tasks: Whether task switches are announced.
    """

    kind: str
    outputs: int
    discrete: bool
    announces_tasks: bool


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
    stream = EnvironmentStream(env, seed)
    assert isinstance(stream.action_space, spaces.Discrete)
    return stream, Problem("environment", int(stream.action_space.n), discrete=True, announces_tasks=False)


def _tasks(settings: TaskStreamSettings, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    folder = None if settings.data_folder is None else Path(settings.data_folder)
    stream = TaskStream(
        load_dataset(settings.dataset, root=folder),
        settings.transformation,
        settings.examples_per_task,
        settings.epochs_per_task,
        settings.batch_size,
        seed,
        settings.announce_tasks,
        device,
    )
    return stream, Problem("examples", stream.classes, discrete=True, announces_tasks=settings.announce_tasks)


STREAMS: Final[dict[str, tuple[type, Callable[[Any, int, torch.device], tuple[Stream, Problem]]]]] = {
    "bandit": (BanditSettings, _bandit),
    "task_stream": (TaskStreamSettings, _tasks),
}


def build_stream(settings: object, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    """Builds the stream that belongs to a settings object of ``STREAMS``.

    Args:
        settings: One of the settings classes.
        seed: The run's seed.
        device: Where the data of a data stream live.

    Raises:
        ValueError: If a setting makes no sense or data are missing.
    """
    for cls, build in STREAMS.values():
        if isinstance(settings, cls):
            return build(settings, seed, device)
    raise TypeError(f"{type(settings).__name__} is not among the settings of {', '.join(STREAMS)}")
