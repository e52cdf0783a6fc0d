"""The settings of every supervised benchmark, and how its stream is built: the base of a new one.

A benchmark is a dataclass with ``@stream("<name>")`` that derives from ``TaskSettings``, or from ``ImageTaskSettings`` if its
tasks are images, and whose ``source`` makes the tasks, see ``plasticity.envs.tasks.task_data.TaskSource``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from plasticity.envs.datasets.augmentation import Augmentation
from plasticity.envs.datasets.data_place import PLACES, place_of_data
from plasticity.envs.datasets.datasets import Dataset, Split, load_dataset, names_of_datasets
from plasticity.envs.problem import Problem
from plasticity.envs.registry import StreamSettings
from plasticity.envs.stream import Stream
from plasticity.envs.tasks.preparation import Preparation
from plasticity.envs.tasks.schedule import Schedule
from plasticity.envs.tasks.task_data import TaskSource
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator


@dataclass
class TaskSettings(StreamSettings):
    """Supervised tasks one after the other, and how the examples of each are shown."""

    epochs_per_task: int = setting(1, "Passes over a task's examples.", low=1)
    batches_per_task: int | None = setting(None, "Minibatches of a task, instead of passes; None to count passes.", low=1)
    batch_size: int = setting(16, "Examples in a minibatch.", low=1)
    drift_steps: int = setting(
        0,
        "Minibatches that a change takes: in the first ones of a task fewer and fewer examples are still of the task before it; "
        "0 for sudden changes.",
        low=0,
    )
    announce_tasks: bool = setting(True, "Whether the learner and the interventions are informed when a task starts.")
    keep_on: str = setting(
        "auto",
        "Where the data are kept: ``device``, that of the learner; ``cpu``; or ``auto``, the device if they "
        "fit there (what is read task by task, from folders of images and from texts, is assumed to fit).",
        choices=PLACES,
    )

    def source(self, seed: int, device: torch.device) -> TaskSource:
        """Makes the source of the tasks; the one method that a benchmark must define.

        Args:
            seed: The run's seed; the tasks depend on nothing else.
            device: Where tasks are wanted.

        Raises:
            ValueError: A setting makes no sense, or data are missing.
        """
        raise NotImplementedError(f"{type(self).__name__} must define source")

    def preparation(self) -> Preparation | None:
        """Returns the preparation of every minibatch, or None for none."""
        return None

    def epochs_of_first_tasks(self) -> Sequence[int]:
        """Returns the passes of the first tasks, where they differ from ``epochs_per_task``."""
        return ()

    def build(self, seed: int, device: torch.device) -> tuple[Stream, Problem]:
        """Builds the stream of the source's tasks."""
        source = self.source(seed, torch.device("cpu") if self.keep_on == "cpu" else device)
        schedule = Schedule(
            self.epochs_per_task,
            self.batch_size,
            self.announce_tasks,
            tuple(self.epochs_of_first_tasks()),
            self.batches_per_task,
            self.drift_steps,
        )
        stream = TaskStream(source, schedule, seed, self.preparation())
        problem = Problem(
            "examples",
            source.outputs,
            discrete=source.classification,
            announces_tasks=self.announce_tasks,
            validates=source.has_validation,
            masks=stream.active() is not None,
        )
        return stream, problem


@dataclass
class ImageTaskSettings(TaskSettings):
    """Tasks over images."""

    dataset: str = setting("digits", "Name of a data set.", choices=names_of_datasets)
    data_folder: str | None = setting(None, "Where data sets are kept; None for ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.")
    flip_probability: float = setting(0.0, "Chance that a training image is mirrored, left to right.", low=0, high=1)
    crop_padding: int = setting(0, "Pixels of the reflected border from which training images are cropped at random.", low=0)
    rotation_degrees: float = setting(
        0.0, "Largest rotation of training images; angles are uniform from 0 to it.", low=0, high=360
    )
    pixel_mean: list[float] = setting([], "Subtracted from each channel of images in [0, 1]; empty for no standardisation.")
    pixel_std: list[float] = setting([], "What each channel is then divided by.", above=0)

    def folder(self) -> Path | None:
        """Returns ``data_folder`` as a path, with the user's home filled in."""
        return None if self.data_folder is None else Path(self.data_folder).expanduser()

    def load(self, split: Split | None) -> Dataset:
        """Loads the data set, or a split of it."""
        return load_dataset(self.dataset, split, self.folder())

    def placed(self, device: torch.device, *datasets: Dataset) -> list[Dataset]:
        """Returns data sets that belong together, all in one place: on the device, if ``keep_on`` and its memory let them."""
        place = place_of_data(self.keep_on, device, sum(dataset.inputs.nbytes for dataset in datasets))
        return [replace(dataset, inputs=dataset.inputs.to(place), targets=dataset.targets.to(place)) for dataset in datasets]

    def preparation(self) -> Preparation:
        """Returns the augmentation and standardisation of images."""
        augmentation = Augmentation(self.flip_probability, self.crop_padding, self.rotation_degrees)
        return Preparation(augmentation, self.pixel_mean, self.pixel_std)


def drawn(dataset: Dataset, examples: int | None, seed: int) -> Dataset:
    """Returns this number of examples of a data set, drawn without replacement, or all.

    Raises:
        ValueError: The data set has fewer.
    """
    available = len(dataset.targets)
    if examples is None:
        return dataset
    if not 1 <= examples <= available:
        raise ValueError(f"examples must be null or 1..{available}, got {examples!r}")
    rows = torch.randperm(available, generator=torch_generator(seed, "images"))[:examples]
    return replace(dataset, inputs=dataset.inputs[rows], targets=dataset.targets[rows])
