"""Regression onto random functions of images with an offset, then without: targets of growing size as a cause."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_data import TaskData
from plasticity.settings.seeding import torch_generator

HIDDEN_UNITS = 128


class TargetOffsets:
    """Each task has targets sin(M f(x)) + b with a random network f of its own and a given offset b; a source of tasks.

    See "Towards perpetually trainable neural networks", section 3.4 and D.1: train with b in {0, 8, 16, 32}, then go on with a
    new f and b = 0, on the same images. The text prints sin(M f(x) + b); its prose and figures add b to the targets, as here.
    What network f is, the paper does not say; here it has one layer of 128 relu units with weights of variance 2 / fan-in and
    no biases, on pixels in [0, 1], in float64, since float32 would leave M f(x) with rounding errors of the size of a period. At
    M = 100,000 the targets are noise either way.

    Args:
        dataset: the images, the same ones in every task, on the device where tasks are wanted.
        seed: the run's seed.
        offsets: b of the tasks; the last one is that of all further tasks.
        frequency: M.
        targets: numbers to predict for each image.

    Raises:
        ValueError: a setting outside its range.
    """

    classification = False
    has_validation = False

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        offsets: Sequence[float] = (32.0, 0.0),
        frequency: float = 1e5,
        targets: int = 1,
    ) -> None:
        if not offsets or targets < 1:
            raise ValueError(f"offsets must not be empty and targets be at least 1, got {list(offsets)!r} and {targets!r}")
        self.input_shape, self.input_dtype = tuple(dataset.inputs.shape[1:]), dataset.inputs.dtype
        self.outputs = targets
        self._seed, self._offsets, self._frequency = seed, tuple(offsets), frequency
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
