"""Settings of the data streams."""

from dataclasses import dataclass, field

from plasticity.envs.datasets.data_place import PLACES


@dataclass
class ScheduleSettings:
    """How the examples of a task are shown.

    Attributes:
        epochs_per_task: Passes over a task's examples.
        batches_per_task: Minibatches of a task in their place; None to count passes.
        batch_size: Examples in a minibatch.
        announce_tasks: Whether the learner and the interventions are told when a task begins.
        keep_on: Where the data are kept: ``device``, that of the learner; ``cpu``; or ``auto``, the device if they fit there
            (what is read task by task, from folders of images and from texts, is taken to fit).
    """

    epochs_per_task: int = 1
    batches_per_task: int | None = None
    batch_size: int = 16
    announce_tasks: bool = True
    keep_on: str = "auto"

    def __post_init__(self) -> None:
        """Raises ValueError if a place is unknown."""
        if self.keep_on not in PLACES:
            raise ValueError(f"env.keep_on={self.keep_on} is unknown; choose from {', '.join(PLACES)}")


@dataclass
class ImageSettings(ScheduleSettings):
    """Tasks over images.

    Attributes:
        dataset: ``digits``, ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100`` or ``quick_draw``.
        data_folder: Where data sets are kept; None for ``$PLASTICITY_DATA`` or ``~/.cache/plasticity``.
        flip_probability: Chance that a training image is mirrored, left to right.
        crop_padding: Pixels of the reflected border from which training images are cropped at random.
        rotation_degrees: Largest rotation of training images; angles are uniform from 0 to it.
        pixel_mean: Subtracted from each channel of images in [0, 1]; empty for no standardisation.
        pixel_std: What each channel is then divided by.
    """

    dataset: str = "digits"
    data_folder: str | None = None
    flip_probability: float = 0.0
    crop_padding: int = 0
    rotation_degrees: float = 0.0
    pixel_mean: list[float] = field(default_factory=list)
    pixel_std: list[float] = field(default_factory=list)


@dataclass
class TaskStreamSettings(ImageSettings):
    """A sequence of supervised tasks over one data set, which transformations tell apart.

    Attributes:
        transformation: ``permuted_pixels``, ``random_labels``, ``permuted_labels`` or ``none``.
        examples: Examples of the data set that the run has, drawn once; None for all.
        examples_per_task: Examples of these drawn for each task; None for all of them.
        mode: ``continual``, ``composite`` (the same examples are transformed each time) or ``growing`` (a class more each time).
        fraction: Part of a task's examples that is transformed.
        test: Whether images are kept for tests; None where there is an official test set, which digits and quick_draw lack.
    """

    transformation: str = "permuted_pixels"
    examples: int | None = None
    examples_per_task: int | None = None
    mode: str = "continual"
    fraction: float = 1.0
    test: bool | None = None


@dataclass
class ClassPairsSettings(ImageSettings):
    """Tasks between a few of many classes, the protocol of Continual ImageNet.

    Attributes:
        dataset: ``folder``, one ``<class>.npy`` for each class in ``data_folder`` itself, or the name of a data set.
        classes_per_task: Classes in a task.
        train_per_class: Images of each class to train on, its first ones.
        test_per_class: Images to test on, its last ones.
        validation_per_class: Images to choose by, those after the first.
        order: ``periodic``, one permutation of the classes again and again, or ``fresh``, new classes for each task.
    """

    dataset: str = "folder"
    epochs_per_task: int = 250
    batch_size: int = 100
    classes_per_task: int = 2
    train_per_class: int = 600
    test_per_class: int = 100
    validation_per_class: int = 0
    order: str = "periodic"


@dataclass
class ClassIncrementalSettings(ImageSettings):
    """Tasks over a growing set of classes.

    Attributes:
        classes_per_task: Classes that each task adds.
        first_classes: Classes of the first task; None for ``classes_per_task``.
        validation_per_class: Images of each class, its first ones, held out for validation.
        masked: Whether classes not seen yet are left out of loss and accuracy.
    """

    dataset: str = "cifar100"
    epochs_per_task: int = 200
    batch_size: int = 90
    classes_per_task: int = 5
    first_classes: int | None = None
    validation_per_class: int = 50
    masked: bool = True


@dataclass
class FirstPhasesSettings(ImageSettings):
    """A poorer version of a data set first, then all of it.

    Attributes:
        kind: ``subset``, ``noisy_labels`` or ``wrong_labels``.
        fraction: Part of the examples that is shown at first, or whose label is incorrect at first.
        phases: Poorer tasks before the full one.
        first_epochs: Passes over the examples of each poorer task; None for ``epochs_per_task``.
        gradual: Whether the good part grows by equal steps from phase to phase, or stays the same.
        right_by_chance: Whether a noisy or wrong label may be the right one by chance.
        validation_fraction: Part of the training images held out for validation.
    """

    dataset: str = "cifar10"
    epochs_per_task: int = 350
    batch_size: int = 128
    kind: str = "subset"
    fraction: float = 0.5
    phases: int = 1
    first_epochs: int | None = None
    gradual: bool = True
    right_by_chance: bool = False
    validation_fraction: float = 0.0


@dataclass
class TargetOffsetsSettings(ImageSettings):
    """Regression onto random functions of images, with offsets.

    Attributes:
        offsets: Offset of the targets in each task; the last one is that of all further tasks.
        examples: Images to fit; None for all.
        frequency: Factor of the random function inside the sine.
        targets: Numbers to predict for each image.
    """

    dataset: str = "mnist"
    epochs_per_task: int = 500
    batch_size: int = 512
    offsets: list[float] = field(default_factory=lambda: [32.0, 0.0])
    examples: int | None = 10_000
    frequency: float = 1e5
    targets: int = 1


@dataclass
class SlowRegressionSettings(ScheduleSettings):
    """Slowly-changing regression.

    Attributes:
        bits: Inputs.
        slow_bits: The first ones, which are constant in a task.
        examples_per_task: Examples between changes.
        target_units: Hidden units of the target network.
        beta: How rarely they are on.
        redraw_all: Whether all slow bits are drawn anew at a change, as in the published data, and not one flipped.
        published_threshold: Whether thresholds are those of the published code.
    """

    batch_size: int = 1
    announce_tasks: bool = False
    bits: int = 20
    slow_bits: int = 15
    examples_per_task: int = 10_000
    target_units: int = 100
    beta: float = 0.7
    redraw_all: bool = False
    published_threshold: bool = False


@dataclass
class ShakespeareSettings(ScheduleSettings):
    """Permuted Shakespeare: next-token prediction, with a fresh permutation of the tokens' numbers in each task.

    Attributes:
        data_folder: A text, a folder with a text ``input.txt``, or that of the data sets; None for ``$PLASTICITY_DATA`` or
            ``~/.cache/plasticity``.
        unit: What a token is, ``word`` or ``character``.
        sequence_tokens: Tokens in a sequence.
        examples_per_task: Sequences in a task, the first of the text; None for all.
    """

    epochs_per_task: int = 100
    batch_size: int = 8
    data_folder: str | None = None
    unit: str = "word"
    sequence_tokens: int = 128
    examples_per_task: int | None = 256


@dataclass
class CameraLocationsSettings(ImageSettings):
    """Camera-trap images of iWildCam, a place in each task.

    Attributes:
        dataset: ``iwildcam``.
        data_folder: Folder with ``metadata.csv`` and ``train/``, or with ``iwildcam_v2.0/``; None for ``$PLASTICITY_DATA`` or
            ``~/.cache/plasticity``.
        side: Side in pixels to which images are resized.
        images_at_least: Training images that a place must have.
        places: How many of these places take part; None for all.
        order: ``periodic``, one order of the places again and again, or ``fresh``, a place at random in each task.
    """

    dataset: str = "iwildcam"
    side: int = 64
    images_at_least: int = 100
    places: int | None = None
    order: str = "periodic"
