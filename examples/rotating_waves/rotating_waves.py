"""A task source of one's own, in one file: regression onto waves whose direction changes from task to task.

A supervised benchmark is two things: the settings, which a user changes by ``env.<name>=<value>``, and what makes its tasks.
Passes, minibatches, announcements, saving and resuming are those of all benchmarks and come with ``TaskSettings``.
"""

from dataclasses import dataclass

import torch

from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_settings import TaskSettings
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator


@stream("rotating_waves")
@dataclass
class RotatingWavesSettings(TaskSettings):
    """Regression onto sin(frequency x . d), with a direction d of its own in each task."""

    inputs: int = setting(2, "Numbers in an input.", low=1)
    examples_per_task: int = setting(200, "Examples in the training set of a task, and in its test set.", low=1)
    frequency: float = setting(3.0, "How many radians the wave goes on per unit of length.", above=0)

    def source(self, seed: int, device: torch.device) -> "RotatingWaves":
        """Makes the tasks."""
        return RotatingWaves(self, seed, device)


class RotatingWaves:
    """Each task is a function of the seed and its number alone: so a resumed run meets the same tasks."""

    classification = False  # targets are numbers (n, outputs); of labels (n,) int64 it would be True
    has_validation = False
    outputs = 1
    input_dtype = torch.float32

    def __init__(self, settings: RotatingWavesSettings, seed: int, device: torch.device) -> None:
        self.input_shape: tuple[int, ...] = (settings.inputs,)
        self._settings, self._seed, self._device = settings, seed, device

    def examples_in(self, number: int) -> int:
        """Returns the size of the training set of task ``number``."""
        return self._settings.examples_per_task

    def task(self, number: int) -> TaskData:
        """Draws the direction and the examples of task ``number`` = 0, 1, ..."""
        generator = torch_generator(self._seed, "task", number, "waves")
        direction = torch.nn.functional.normalize(torch.randn(self._settings.inputs, generator=generator), dim=0)
        train, test = torch.randn(2, self._settings.examples_per_task, self._settings.inputs, generator=generator)
        return TaskData(self._labelled(train, direction), test=self._labelled(test, direction))

    def _labelled(self, inputs: torch.Tensor, direction: torch.Tensor) -> Examples:
        targets = torch.sin(self._settings.frequency * (inputs @ direction)).unsqueeze(1)
        return Examples(inputs.to(self._device), targets.to(self._device))
