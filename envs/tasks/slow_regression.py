"""Slowly-changing regression: inputs of bits, some of which change rarely, and a fixed random target network."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_settings import TaskSettings
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator


class ThresholdNetwork:
    """A random network of linear threshold units, all weights and biases -1 or 1; (n, bits) -> (n, 1).

    A hidden unit is 1 if w x + b > beta (bits + 1) - S, else 0. In Dohare et al. (2024), "Loss of plasticity in deep continual
    learning", S is the number of its weights, the bias among them, that are -1; in the published code it is
    (bits - sum(w) + b) / 2, in which the bias counts with the wrong sign.

    Args:
        bits: Inputs.
        units: Hidden units.
        beta: How rarely units are on.
        published_threshold: Whether S is that of the published code.
        generator: Draws the weights.
    """

    def __init__(self, bits: int, units: int, beta: float, published_threshold: bool, generator: torch.Generator) -> None:
        def signs(*shape: int) -> Tensor:
            return 2.0 * torch.randint(2, shape, generator=generator) - 1.0

        self.weight, self.bias = signs(units, bits), signs(units)
        self.output_weight, self.output_bias = signs(units), signs(1)
        if published_threshold:
            negative = (bits - self.weight.sum(1) + self.bias) / 2
        else:
            negative = (self.weight < 0).sum(1) + (self.bias < 0).to(torch.float32)
        self.threshold = beta * (bits + 1) - negative

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns the targets (n, 1) of bits (n, bits) in float32."""
        hidden = (inputs @ self.weight.T + self.bias > self.threshold).to(torch.float32)
        return (hidden @ self.output_weight + self.output_bias).unsqueeze(1)


@stream("slow_regression")
@dataclass
class SlowRegressionSettings(TaskSettings):
    """Slowly-changing regression."""

    batch_size: int = 1
    announce_tasks: bool = False
    bits: int = setting(20, "Inputs.", low=1)
    slow_bits: int = setting(15, "The first ones, which are constant in a task.", low=1)
    examples_per_task: int = setting(10_000, "Examples between changes.", low=1)
    target_units: int = setting(100, "Hidden units of the target network.", low=1)
    beta: float = setting(0.7, "How rarely they are on.")
    redraw_all: bool = setting(
        False, "Whether all slow bits are drawn again at a change, as in the published data, and not one flipped."
    )
    published_threshold: bool = setting(False, "Whether thresholds are those of the published code.")

    def source(self, seed: int, device: torch.device) -> "SlowRegression":
        """Makes the tasks."""
        return SlowRegression(self, seed, device)


class SlowRegression:
    """Slowly-changing regression, a task for each setting of the slow bits; a source of tasks.

    See Dohare et al. (2024): 20 bits, of which 15 are the same for 10,000 examples, after which one of them, drawn uniformly,
    flips; the others are drawn for each example. The published data draw all slow bits again (``redraw_all``), though a variant
    that flips one is there as well.

    Args:
        settings: The settings.
        seed: The run's seed.
        device: Where tasks are wanted.

    Raises:
        ValueError: There are fewer bits than slow ones.
    """

    classification = False
    has_validation = False
    input_dtype = torch.float32
    outputs = 1

    def __init__(self, settings: SlowRegressionSettings, seed: int, device: torch.device | str = "cpu") -> None:
        bits, slow_bits = settings.bits, settings.slow_bits
        if slow_bits > bits:
            raise ValueError(f"slow_bits must lie in 1..{bits}, got {slow_bits!r}")
        self.input_shape: tuple[int, ...] = (bits,)
        self._seed, self._device = seed, device
        self._slow_bits, self._fast_bits, self._examples = slow_bits, bits - slow_bits, settings.examples_per_task
        self._redraw_all = settings.redraw_all
        self.target = ThresholdNetwork(
            bits, settings.target_units, settings.beta, settings.published_threshold, torch_generator(seed, "target network")
        )
        self._slow: list[Tensor] = [self._drawn(0)]

    def examples_in(self, number: int) -> int:
        """Returns the examples between changes."""
        return self._examples

    def slow_values(self, number: int) -> Tensor:
        """Returns the slow bits (slow_bits,) of a task; those of earlier tasks are made first."""
        while len(self._slow) <= number:
            self._slow.append(self._changed(len(self._slow)))
        return self._slow[number]

    def task(self, number: int) -> TaskData:
        """Draws the examples of a task."""
        generator = torch_generator(self._seed, "task", number, "fast bits")
        fast = torch.randint(2, (self._examples, self._fast_bits), generator=generator).to(torch.float32)
        inputs = torch.cat([self.slow_values(number).expand(self._examples, -1), fast], dim=1)
        return TaskData(Examples(inputs.to(self._device), self.target(inputs).to(self._device)))

    def _drawn(self, number: int) -> Tensor:
        generator = torch_generator(self._seed, "task", number, "slow bits")
        return torch.randint(2, (self._slow_bits,), generator=generator).to(torch.float32)

    def _changed(self, number: int) -> Tensor:
        if self._redraw_all:
            return self._drawn(number)
        generator = torch_generator(self._seed, "task", number, "flipped bit")
        place = int(torch.randint(self._slow_bits, (1,), generator=generator))
        bits = self._slow[number - 1].clone()
        bits[place] = 1 - bits[place]
        return bits
