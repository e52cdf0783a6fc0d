"""Building data streams from their settings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from plasticity.envs.datasets.augmentation import Augmentation
from plasticity.envs.datasets.class_images import ArrayFolder, ClassImages, DatasetClasses
from plasticity.envs.datasets.data_place import place_of_data
from plasticity.envs.datasets.datasets import IMAGE_SETS, Dataset, load_dataset
from plasticity.envs.datasets.image_set import Split
from plasticity.envs.datasets.iwildcam import CameraLocations, find_folder
from plasticity.envs.datasets.token_text import load_text, tokenize
from plasticity.envs.problem import Problem
from plasticity.envs.stream import Stream
from plasticity.envs.tasks.class_incremental import ClassIncremental
from plasticity.envs.tasks.class_pairs import ClassPairs
from plasticity.envs.tasks.data_settings import (
    CameraLocationsSettings,
    ClassIncrementalSettings,
    ClassPairsSettings,
    FirstPhasesSettings,
    ImageSettings,
    ScheduleSettings,
    ShakespeareSettings,
    SlowRegressionSettings,
    TargetOffsetsSettings,
    TaskStreamSettings,
)
from plasticity.envs.tasks.first_phases import FirstPhases
from plasticity.envs.tasks.permuted_text import PermutedText
from plasticity.envs.tasks.preparation import Preparation
from plasticity.envs.tasks.slow_regression import SlowRegression
from plasticity.envs.tasks.target_offsets import TargetOffsets
from plasticity.envs.tasks.task_data import TaskSource
from plasticity.envs.tasks.task_stream import Schedule, TaskStream
from plasticity.envs.tasks.transformed_tasks import TransformedTasks
from plasticity.settings.seeding import torch_generator

FOLDER: Final = "folder"
Built = tuple[Stream, Problem]


def build_transformed(settings: TaskStreamSettings, seed: int, device: torch.device) -> Built:
    """Builds tasks that are one data set under changing transformations."""
    apart = settings.test if settings.test is not None else settings.dataset in IMAGE_SETS
    parts = [_drawn(_load(settings, "train" if apart else None), settings.examples, seed)]
    train, *test = _placed(settings, device, *parts, *([_load(settings, "test")] if apart else []))
    source = TransformedTasks(
        train,
        settings.transformation,
        settings.examples_per_task,
        seed,
        settings.mode,
        settings.fraction,
        test[0] if test else None,
    )
    return _stream(source, settings, seed)


def build_pairs(settings: ClassPairsSettings, seed: int, device: torch.device) -> Built:
    """Builds tasks between a few of many classes.

    Raises:
        ValueError: the data are a folder, and it is not named.
    """
    images: ClassImages
    if settings.dataset == FOLDER:
        if settings.data_folder is None:
            raise ValueError(
                "data_folder is null: env.dataset=folder needs a folder with one <class>.npy for each class; "
                "env.dataset=quick_draw and env.dataset=cifar10 need none"
            )
        images = ArrayFolder(Path(settings.data_folder).expanduser())
    else:
        images = DatasetClasses(*_placed(settings, device, _load(settings, "all")))
    source = ClassPairs(
        images,
        seed,
        device,
        settings.classes_per_task,
        settings.train_per_class,
        settings.test_per_class,
        settings.validation_per_class,
        settings.order,
    )
    return _stream(source, settings, seed)


def build_incremental(settings: ClassIncrementalSettings, seed: int, device: torch.device) -> Built:
    """Builds tasks over a growing set of classes."""
    train, test = _placed(settings, device, _load(settings, "train"), _load(settings, "test"))
    source = ClassIncremental(
        train,
        test,
        seed,
        settings.classes_per_task,
        settings.first_classes,
        settings.validation_per_class,
        settings.masked,
    )
    return _stream(source, settings, seed)


def build_phases(settings: FirstPhasesSettings, seed: int, device: torch.device) -> Built:
    """Builds a poorer version of a data set, then all of it."""
    train, test = _placed(settings, device, _load(settings, "train"), _load(settings, "test"))
    source = FirstPhases(
        train,
        test,
        seed,
        settings.kind,
        settings.fraction,
        settings.phases,
        settings.validation_fraction,
        settings.gradual,
        settings.right_by_chance,
    )
    first = [] if settings.first_epochs is None else [settings.first_epochs] * settings.phases
    return _stream(source, settings, seed, first)


def build_offsets(settings: TargetOffsetsSettings, seed: int, device: torch.device) -> Built:
    """Builds regression onto random functions with offsets."""
    (images,) = _placed(settings, device, _drawn(_load(settings, "train"), settings.examples, seed))
    source = TargetOffsets(images, seed, settings.offsets, settings.frequency, settings.targets)
    return _stream(source, settings, seed)


def build_slow_regression(settings: SlowRegressionSettings, seed: int, device: torch.device) -> Built:
    """Builds slowly-changing regression."""
    source = SlowRegression(
        seed,
        settings.bits,
        settings.slow_bits,
        settings.examples_per_task,
        settings.target_units,
        settings.beta,
        settings.redraw_all,
        settings.published_threshold,
        device,
    )
    return _stream(source, settings, seed)


def build_shakespeare(settings: ShakespeareSettings, seed: int, device: torch.device) -> Built:
    """Builds next-token prediction under permutations of the tokens."""
    text = load_text(None if settings.data_folder is None else Path(settings.data_folder))
    source = PermutedText(tokenize(text, settings.unit), seed, settings.examples_per_task, settings.sequence_tokens, device)
    return _stream(source, settings, seed)


def build_camera_locations(settings: CameraLocationsSettings, seed: int, device: torch.device) -> Built:
    """Builds tasks that are each the images of one camera trap.

    Raises:
        ValueError: another data set is named.
    """
    if settings.dataset != "iwildcam":
        raise ValueError(f"dataset={settings.dataset} has no places; camera_locations knows iwildcam alone")
    folder = find_folder(None if settings.data_folder is None else Path(settings.data_folder))
    source = CameraLocations(folder, seed, device, settings.side, settings.images_at_least, settings.places, settings.order)
    return _stream(source, settings, seed)


def _load(settings: ImageSettings, split: Split | None) -> Dataset:
    return load_dataset(settings.dataset, split, None if settings.data_folder is None else Path(settings.data_folder))


def _placed(settings: ScheduleSettings, device: torch.device, *datasets: Dataset) -> list[Dataset]:
    """Returns data sets that belong together, all in one place."""
    place = place_of_data(settings.keep_on, device, sum(dataset.inputs.nbytes for dataset in datasets))
    return [replace(dataset, inputs=dataset.inputs.to(place), targets=dataset.targets.to(place)) for dataset in datasets]


def _drawn(dataset: Dataset, examples: int | None, seed: int) -> Dataset:
    """Returns so many examples of a data set, drawn without replacement, or all."""
    available = len(dataset.targets)
    if examples is None:
        return dataset
    if not 1 <= examples <= available:
        raise ValueError(f"examples must be null or 1..{available}, got {examples!r}")
    rows = torch.randperm(available, generator=torch_generator(seed, "images"))[:examples]
    return replace(dataset, inputs=dataset.inputs[rows], targets=dataset.targets[rows])


def _stream(source: TaskSource, settings: ScheduleSettings, seed: int, first_epochs: Sequence[int] = ()) -> Built:
    preparation = None
    if isinstance(settings, ImageSettings):
        augmentation = Augmentation(settings.flip_probability, settings.crop_padding, settings.rotation_degrees)
        preparation = Preparation(augmentation, settings.pixel_mean, settings.pixel_std)
    schedule = Schedule(
        settings.epochs_per_task, settings.batch_size, settings.announce_tasks, tuple(first_epochs), settings.batches_per_task
    )
    stream = TaskStream(source, schedule, seed, preparation)
    problem = Problem(
        "examples",
        source.outputs,
        discrete=source.classification,
        announces_tasks=settings.announce_tasks,
        validates=source.has_validation,
        masks=stream.active() is not None,
    )
    return stream, problem
