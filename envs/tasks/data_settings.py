"""Settings of the data streams."""

from dataclasses import dataclass
from typing import ClassVar

from plasticity.envs.datasets.data_place import PLACES
from plasticity.settings.fields import Settings, setting


@dataclass
class ScheduleSettings(Settings):
    """How the examples of a task are shown."""

    section: ClassVar[str] = "env"

    epochs_per_task: int = setting(1, "Passes over a task's examples.")
    batches_per_task: int | None = setting(None, "Minibatches of a task in their place; None to count passes.")
    batch_size: int = setting(16, "Examples in a minibatch.")
    announce_tasks: bool = setting(True, "Whether the learner and the interventions are told when a task begins.")
    keep_on: str = setting(
        "auto",
        "Where the data are kept: ``device``, that of the learner; ``cpu``; or ``auto``, the device if they "
        "fit there (what is read task by task, from folders of images and from texts, is taken to fit).",
    )

    def __post_init__(self) -> None:
        """Raises ValueError if a place is unknown."""
        super().__post_init__()
        if self.keep_on not in PLACES:
            raise ValueError(f"env.keep_on={self.keep_on} is unknown; choose from {', '.join(PLACES)}")


@dataclass
class ImageSettings(ScheduleSettings):
    """Tasks over images."""

    dataset: str = setting("digits", "``digits``, ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100`` or ``quick_draw``.")
    data_folder: str | None = setting(None, "Where data sets are kept; None for ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.")
    flip_probability: float = setting(0.0, "Chance that a training image is mirrored, left to right.")
    crop_padding: int = setting(0, "Pixels of the reflected border from which training images are cropped at random.")
    rotation_degrees: float = setting(0.0, "Largest rotation of training images; angles are uniform from 0 to it.")
    pixel_mean: list[float] = setting([], "Subtracted from each channel of images in [0, 1]; empty for no standardisation.")
    pixel_std: list[float] = setting([], "What each channel is then divided by.")


@dataclass
class TaskStreamSettings(ImageSettings):
    """A sequence of supervised tasks over one data set, which transformations tell apart."""

    transformation: str = setting("permuted_pixels", "``permuted_pixels``, ``random_labels``, ``permuted_labels`` or ``none``.")
    examples: int | None = setting(None, "Examples of the data set that the run has, drawn once; None for all.")
    examples_per_task: int | None = setting(None, "Examples of these drawn for each task; None for all of them.")
    mode: str = setting(
        "continual",
        "``continual``, ``composite`` (the same examples are transformed each time) or ``growing`` (a class more each time).",
    )
    fraction: float = setting(1.0, "Part of a task's examples that is transformed.")
    test: bool | None = setting(
        None, "Whether images are kept for tests; None where there is an official test set, which digits and quick_draw lack."
    )


@dataclass
class ClassPairsSettings(ImageSettings):
    """Tasks between a few of many classes, the protocol of Continual ImageNet."""

    dataset: str = setting(
        "folder", "``folder``, one ``<class>.npy`` for each class in ``data_folder`` itself, or the name of a data set."
    )
    epochs_per_task: int = 250
    batch_size: int = 100
    classes_per_task: int = setting(2, "Classes in a task.")
    train_per_class: int = setting(600, "Images of each class to train on, its first ones.")
    test_per_class: int = setting(100, "Images to test on, its last ones.")
    validation_per_class: int = setting(0, "Images to choose by, those after the first.")
    order: str = setting(
        "periodic", "``periodic``, one permutation of the classes again and again, or ``fresh``, new classes for each task."
    )


@dataclass
class ClassIncrementalSettings(ImageSettings):
    """Tasks over a growing set of classes."""

    dataset: str = "cifar100"
    epochs_per_task: int = 200
    batch_size: int = 90
    classes_per_task: int = setting(5, "Classes that each task adds.")
    first_classes: int | None = setting(None, "Classes of the first task; None for ``classes_per_task``.")
    validation_per_class: int = setting(50, "Images of each class, its first ones, held out for validation.")
    masked: bool = setting(True, "Whether classes not seen yet are left out of loss and accuracy.")


@dataclass
class FirstPhasesSettings(ImageSettings):
    """A poorer version of a data set first, then all of it."""

    dataset: str = "cifar10"
    epochs_per_task: int = 350
    batch_size: int = 128
    kind: str = setting("subset", "``subset``, ``noisy_labels`` or ``wrong_labels``.")
    fraction: float = setting(0.5, "Part of the examples that is shown at first, or whose label is incorrect at first.")
    phases: int = setting(1, "Poorer tasks before the full one.")
    first_epochs: int | None = setting(None, "Passes over the examples of each poorer task; None for ``epochs_per_task``.")
    gradual: bool = setting(True, "Whether the good part grows by equal steps from phase to phase, or stays the same.")
    right_by_chance: bool = setting(False, "Whether a noisy or wrong label may be the right one by chance.")
    validation_fraction: float = setting(0.0, "Part of the training images held out for validation.")


@dataclass
class TargetOffsetsSettings(ImageSettings):
    """Regression onto random functions of images, with offsets."""

    dataset: str = "mnist"
    epochs_per_task: int = 500
    batch_size: int = 512
    offsets: list[float] = setting([32.0, 0.0], "Offset of the targets in each task; the last one is that of all further tasks.")
    examples: int | None = setting(10_000, "Images to fit; None for all.")
    frequency: float = setting(1e5, "Factor of the random function inside the sine.")
    targets: int = setting(1, "Numbers to predict for each image.")


@dataclass
class SlowRegressionSettings(ScheduleSettings):
    """Slowly-changing regression."""

    batch_size: int = 1
    announce_tasks: bool = False
    bits: int = setting(20, "Inputs.")
    slow_bits: int = setting(15, "The first ones, which are constant in a task.")
    examples_per_task: int = setting(10_000, "Examples between changes.")
    target_units: int = setting(100, "Hidden units of the target network.")
    beta: float = setting(0.7, "How rarely they are on.")
    redraw_all: bool = setting(
        False, "Whether all slow bits are drawn anew at a change, as in the published data, and not one flipped."
    )
    published_threshold: bool = setting(False, "Whether thresholds are those of the published code.")


@dataclass
class ShakespeareSettings(ScheduleSettings):
    """Permuted Shakespeare: next-token prediction, with a fresh permutation of the tokens' numbers in each task."""

    epochs_per_task: int = 100
    batch_size: int = 8
    data_folder: str | None = setting(
        None,
        "A text, a folder with a text ``input.txt``, or that of the data sets; None for ``$PLASTICITY_DATA`` "
        "or ``~/.cache/plasticity``.",
    )
    unit: str = setting("word", "What a token is, ``word`` or ``character``.")
    sequence_tokens: int = setting(128, "Tokens in a sequence.")
    examples_per_task: int | None = setting(256, "Sequences in a task, the first of the text; None for all.")


@dataclass
class CameraLocationsSettings(ImageSettings):
    """Camera-trap images of iWildCam, a place in each task.

    Attributes:
        data_folder: Folder with ``metadata.csv`` and ``train/``, or with ``iwildcam_v2.0/``; None for ``$PLASTICITY_DATA`` or
            ``~/.cache/plasticity``.
    """

    dataset: str = setting("iwildcam", "``iwildcam``.")
    side: int = setting(64, "Side in pixels to which images are resized.")
    images_at_least: int = setting(100, "Training images that a place must have.")
    places: int | None = setting(None, "How many of these places take part; None for all.")
    order: str = setting(
        "periodic", "``periodic``, one order of the places again and again, or ``fresh``, a place at random in each task."
    )
