"""Regression onto random functions of images with an offset, then without: targets of growing size as a cause."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_settings import ImageTaskSettings, drawn
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator

HIDDEN_UNITS = 128


@stream("target_offsets")
@dataclass
class TargetOffsetsSettings(ImageTaskSettings):
    """Regression onto random functions of images, with offsets."""

    dataset: str = "mnist"
    epochs_per_task: int = 500
    batch_size: int = 512
    offsets: list[float] = setting([32.0, 0.0], "Offset of the targets in each task; the last one is that of all further tasks.")
    examples: int | None = setting(10_000, "Images to fit; None for all.")
    frequency: float = setting(1e5, "Factor of the random function inside the sine.")
    targets: int = setting(1, "Numbers to predict for each image.", low=1)

    def source(self, seed: int, device: torch.device) -> "TargetOffsets":
        """Makes the tasks."""
        (images,) = self.placed(device, drawn(self.load("train"), self.examples, seed))
        return TargetOffsets(images, self, seed)


class TargetOffsets:
    """Each task has targets sin(M f(x)) + b with a random network f of its own and a given offset b; a source of tasks.

    See "Towards perpetually trainable neural networks", section 3.4 and D.1: train with b in {0, 8, 16, 32}, then continue with a
    new f and b = 0, on the same images. The text prints sin(M f(x) + b); its prose and figures add b to the targets, as here. The
    paper does not state which network f is; here it has one layer of 128 relu units with weights of variance 2 / fan-in and no
    biases, on pixels in [0, 1], in float64, since float32 would leave M f(x) with rounding errors of the size of a period. At M =
    100,000 the targets are noise either way.

    Args:
        dataset: The images, the same in every task, on the device where tasks are wanted.
        settings: The settings; ``frequency`` is M.
        seed: The run's seed.

    Raises:
        ValueError: There are no offsets.
    """

    classification = False
    has_validation = False

    def __init__(self, dataset: Dataset, settings: TargetOffsetsSettings, seed: int) -> None:
        if not settings.offsets:
            raise ValueError("offsets must not be empty")
        self.input_shape, self.input_dtype = tuple(dataset.inputs.shape[1:]), dataset.inputs.dtype
        self.outputs = settings.targets
        self._seed, self._offsets, self._frequency = seed, tuple(settings.offsets), settings.frequency
        self._images = dataset.inputs

    def examples_in(self, number: int) -> int:
        """Returns the number of images."""
        return len(self._images)

    def offset(self, number: int) -> float:
        """Returns b of a task."""
        return self._offsets[min(number, len(self._offsets) - 1)]

    def task(self, number: int) -> TaskData:
        """Draws a function and evaluates it on the images."""
        values = torch.sin(self._frequency * self._function(number)) + self.offset(number)
        return TaskData(Examples(self._images, values.to(torch.float32).to(self._images.device)))

    def _function(self, number: int) -> Tensor:
        pixels = self._images.flatten(1).cpu().double()  # in double precision, which some devices lack
        if self._images.dtype == torch.uint8:
            pixels = pixels / 255
        generator = torch_generator(self._seed, "task", number, "function")
        hidden = self._map(pixels.shape[1], HIDDEN_UNITS, generator)
        outward = self._map(HIDDEN_UNITS, self.outputs, generator)
        return (pixels @ hidden).relu() @ outward

    @staticmethod
    def _map(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
        return torch.randn(inputs, outputs, generator=generator, dtype=torch.float64) * math.sqrt(2 / inputs)
