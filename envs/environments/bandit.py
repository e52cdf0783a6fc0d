"""Image classification as a contextual bandit, the stationary environment in which DQN loses plasticity.

Observation: an image of a data set. Actions: its classes. Reward: ``reward`` if the action is the image's label, else 0.
The next image is drawn uniformly at random and does not depend on the action. See Lyle et al. (2023), "Understanding plasticity
in neural networks", and appendix B.3 of "Towards perpetually trainable neural networks". The task has no end; episodes are
cut (truncated, so values are bootstrapped) to give returns to report. A permutation of the labels makes another task of the same
images, for a separate run or for a branch that must learn it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from plasticity.envs.datasets.datasets import Dataset, Split, load_dataset, names_of_datasets
from plasticity.envs.environments.bandit_labels import BanditLabels
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.problem import Problem, environment_problem
from plasticity.envs.registry import StreamSettings, stream
from plasticity.envs.simulation.generator_state import generator_state, restored_generator
from plasticity.envs.stream import Stream
from plasticity.settings.fields import setting

BANDIT_ID = "plasticity/ContextualBandit-v0"


@stream("bandit")
@dataclass
class BanditSettings(StreamSettings):
    """The image-classification contextual bandit."""

    dataset: str = setting("digits", "Name of a data set.", choices=names_of_datasets)
    data_folder: str | None = setting(None, "Where data sets are kept; None for ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.")
    num_envs: int = setting(1, "Copies that are stepped together.", low=1)
    reward: float = setting(1.0, "Reward of the right class.")
    episode_steps: int = setting(100, "Steps after which an episode is truncated.", low=1)
    label_permutation: int = setting(
        0,
        "0 for the labels as they are; n > 0 for labels permuted by the n-th permutation of this seed. The images stay the same "
        "and in the same order; a branch may change it.",
        low=0,
    )
    drift_steps: int = setting(
        0,
        "Steps, over all copies, that a permutation of the labels takes: the chance that it holds grows from 0 to 1, from the "
        "start or where a branch starts; 0 for a sudden change.",
        low=0,
    )

    def build(self, seed: int, device: torch.device) -> tuple[Stream, Problem]:
        """Builds the stream and returns it with the problem that it poses."""
        env = gymnasium.make_vec(
            BANDIT_ID,
            num_envs=self.num_envs,
            vectorization_mode="vector_entry_point",
            dataset=self.dataset,
            root=self.data_folder,
            reward=self.reward,
            episode_steps=self.episode_steps,
            label_permutation=self.label_permutation,
            permutation_seed=seed,
            drift_steps=self.drift_steps,
        )
        stream = EnvironmentStream(env, seed, f"bandit of {self.dataset}")
        return stream, environment_problem(stream)


def _resolve(dataset: str | Dataset, split: Split | None, root: str | Path | None) -> Dataset:
    if isinstance(dataset, Dataset):
        return dataset
    return load_dataset(dataset, split, None if root is None else Path(root))


def _check_settings(reward: float, episode_steps: int) -> None:
    if not math.isfinite(reward):
        raise ValueError(f"reward must be finite, got {reward!r}")
    if episode_steps < 1:
        raise ValueError(f"episode_steps must be at least 1, got {episode_steps!r}")


def _image_space(dataset: Dataset) -> spaces.Box:
    shape = tuple(dataset.inputs.shape[1:])
    if dataset.inputs.dtype == torch.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(0.0, 1.0, shape, np.float32)


class ContextualBanditEnv(gymnasium.Env[npt.NDArray[Any], np.int64]):
    """The bandit as a single environment.

    Args:
        dataset: a name for ``load_dataset``, or the data themselves (float inputs must lie in [0, 1]).
        split: which part of a named data set; None is the loader's default.
        root: where a named data set is kept; None is the loader's default.
        reward: α, the reward of a right answer.
        episode_steps: steps after which an episode is truncated.
        label_permutation: 0 for the labels as they are, n > 0 for the n-th permutation, see ``bandit_labels``.
        permutation_seed: seed of the permutations; nothing else depends on it.
        drift_steps: steps over which the permuted labels come into force; 0 for at once.

    Attributes:
        labels: by which answers are paid.

    Raises:
        ValueError: an impossible setting, or data that cannot be loaded.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        dataset: str | Dataset = "digits",
        split: Split | None = None,
        root: str | Path | None = None,
        reward: float = 1.0,
        episode_steps: int = 100,
        label_permutation: int = 0,
        permutation_seed: int = 0,
        drift_steps: int = 0,
    ) -> None:
        _check_settings(reward, episode_steps)
        data = _resolve(dataset, split, root)
        self.reward = float(reward)
        self.episode_steps = episode_steps
        self.observation_space = _image_space(data)
        self.action_space = spaces.Discrete(data.classes)
        self._classes = data.classes
        self._images = data.inputs.numpy()
        self.labels = BanditLabels(data.targets.numpy(), data.classes, label_permutation, permutation_seed, drift_steps)
        self._index: int | None = None
        self._elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Starts an episode with a random image."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.labels.reseed(seed)
        self._elapsed = 0
        return self._next_image(), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Scores ``action`` against the current image's label and shows the next image.

        Raises:
            ValueError: the action is not a class.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._index is None:
            raise gymnasium.error.ResetNeeded("call reset before the first step of the contextual bandit")
        if not self.action_space.contains(action):
            raise ValueError(f"action must be an integer in 0..{self._classes - 1}, got {action!r}")
        (label,) = self.labels.of(np.array([self._index]))
        reward = self.reward if action == label else 0.0
        self._elapsed += 1
        return self._next_image(), reward, False, self._elapsed >= self.episode_steps, {}

    def _next_image(self) -> npt.NDArray[Any]:
        self._index = int(self.np_random.integers(len(self._images)))
        image: npt.NDArray[Any] = self._images[self._index].copy()
        return image


class ContextualBanditVectorEnv(VectorEnv[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[Any]]):
    """Many copies of the bandit in lockstep, drawn together from one generator; one copy equals the single environment.

    Every episode has the same length, so all copies start and end together. An episode that ends is followed at once by
    the next one (``AutoresetMode.SAME_STEP``): its true last images are ``info["final_obs"]``, shape (N, C, H, W), valid
    where ``info["_final_obs"]``.

    Args:
        num_envs: number of copies N.
        dataset: as for ContextualBanditEnv, like the remaining arguments.
        split: which part of a named data set.
        root: where a named data set is kept.
        reward: α, the reward of a right answer.
        episode_steps: steps after which an episode is truncated.
        label_permutation: 0 for the labels as they are, n > 0 for the n-th permutation, see ``bandit_labels``.
        permutation_seed: seed of the permutations; nothing else depends on it.
        drift_steps: steps over which the permuted labels come into force; 0 for at once.

    Attributes:
        labels: by which answers are paid.

    Raises:
        ValueError: an impossible setting, or data that cannot be loaded.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        dataset: str | Dataset = "digits",
        split: Split | None = None,
        root: str | Path | None = None,
        reward: float = 1.0,
        episode_steps: int = 100,
        label_permutation: int = 0,
        permutation_seed: int = 0,
        drift_steps: int = 0,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs!r}")
        _check_settings(reward, episode_steps)
        data = _resolve(dataset, split, root)
        self.num_envs = num_envs
        self.reward = float(reward)
        self.episode_steps = episode_steps
        self.single_observation_space = _image_space(data)
        self.single_action_space = spaces.Discrete(data.classes)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._classes = data.classes
        self._images = data.inputs.numpy()
        self.labels = BanditLabels(data.targets.numpy(), data.classes, label_permutation, permutation_seed, drift_steps)
        self._indices: npt.NDArray[np.int64] | None = None
        self._elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Starts an episode in every copy."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.labels.reseed(seed)
        self._elapsed = 0
        return self._next_images(), {}

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Scores one action per copy and shows the next images.

        Args:
            actions: (N,) integers, the classes answered.

        Raises:
            ValueError: actions of another shape or kind, or outside the classes.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._indices is None:
            raise gymnasium.error.ResetNeeded("call reset before the first step of the contextual bandit")
        answers = np.asarray(actions)
        if answers.shape != (self.num_envs,) or answers.dtype.kind not in "iu":
            raise ValueError(f"actions must be ({self.num_envs},) integers, got {answers.shape} {answers.dtype}")
        if answers.min() < 0 or answers.max() >= self._classes:
            raise ValueError(f"actions must lie in 0..{self._classes - 1}, got {answers.min()}..{answers.max()}")
        rewards = np.where(answers == self.labels.of(self._indices), self.reward, 0.0)
        self._elapsed += 1
        images, info = self._next_images(), {}
        truncated = np.full(self.num_envs, self._elapsed >= self.episode_steps)
        if self._elapsed >= self.episode_steps:
            info = {"final_obs": images, "_final_obs": truncated.copy()}
            self._elapsed = 0
            images = self._next_images()
        return images, rewards, np.zeros(self.num_envs, np.bool_), truncated, info

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the episodes and the generator, as plain numbers, strings and a tensor.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._indices is None:
            raise gymnasium.error.ResetNeeded("the contextual bandit has no state before its first reset")
        return {
            "generator": generator_state(self.np_random),
            "indices": torch.from_numpy(self._indices.copy()),
            "elapsed": self._elapsed,
            "labels": self.labels.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where ``state_dict`` was taken; if that had other labels, this environment changes to its own.

        Raises:
            ValueError: the state is of another number of copies, or of a larger data set or longer episodes.
        """
        indices = state["indices"].numpy().copy()
        if indices.shape != (self.num_envs,):
            raise ValueError(f"saved state has {len(indices)} environments, this one has {self.num_envs}")
        if indices.max() >= len(self._images):
            raise ValueError(f"saved state shows image {indices.max()}, the data set has {len(self._images)}")
        if state["elapsed"] >= self.episode_steps:
            raise ValueError(f"saved state is {state['elapsed']} steps into an episode of {self.episode_steps}")
        self.np_random = restored_generator(state["generator"])
        self._indices = indices
        self._elapsed = state["elapsed"]
        self.labels.load_state_dict(state.get("labels", {"number": 0}))  # a state from before there were permutations

    def _next_images(self) -> npt.NDArray[Any]:
        self._indices = self.np_random.integers(len(self._images), size=self.num_envs)
        return self._images[self._indices]


gymnasium.register(
    BANDIT_ID,
    entry_point="plasticity.envs.environments.bandit:ContextualBanditEnv",
    vector_entry_point="plasticity.envs.environments.bandit:ContextualBanditVectorEnv",
)
