"""Slowly-changing regression: inputs of bits, some of which change rarely, and a fixed random target network."""

import torch
from torch import Tensor

from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_data import TaskData
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


class SlowRegression:
    """Slowly-changing regression, a task for each setting of the slow bits; a source of tasks.

    See Dohare et al. (2024): 20 bits, of which 15 are the same for 10,000 examples, after which one of them, drawn uniformly,
    flips; the others are drawn for each example. The published data draw all slow bits anew (``redraw_all``), though a variant
    that flips one is there as well.

    Args:
        seed: the run's seed.
        bits: inputs.
        slow_bits: the first ones, which are constant in a task.
        examples_per_task: examples between changes.
        target_units: hidden units of the target network.
        beta: see ``ThresholdNetwork``.
        redraw_all: whether all slow bits are drawn anew, and not one flipped.
        published_threshold: see ``ThresholdNetwork``.
        device: where tasks are wanted.

    Raises:
        ValueError: a setting outside its range.
    """

    classification = False
    has_validation = False
    input_dtype = torch.float32
    outputs = 1

    def __init__(
        self,
        seed: int,
        bits: int = 20,
        slow_bits: int = 15,
        examples_per_task: int = 10_000,
        target_units: int = 100,
        beta: float = 0.7,
        redraw_all: bool = False,
        published_threshold: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= slow_bits <= bits:
            raise ValueError(f"slow_bits must lie in 1..{bits}, got {slow_bits!r}")
        if examples_per_task < 1 or target_units < 1:
            raise ValueError(
                f"examples_per_task and target_units must be at least 1, got {examples_per_task!r} and {target_units!r}"
            )
        self.input_shape: tuple[int, ...] = (bits,)
        self._seed, self._device = seed, device
        self._slow_bits, self._fast_bits, self._examples = slow_bits, bits - slow_bits, examples_per_task
        self._redraw_all = redraw_all
        self.target = ThresholdNetwork(bits, target_units, beta, published_threshold, torch_generator(seed, "target network"))
        self._slow: list[Tensor] = [self._drawn(0)]

    def examples_in(self, number: int) -> int:
        """Returns the examples between changes."""
        return self._examples

    def slow_values(self, number: int) -> Tensor:
        """Returns the slow bits (slow_bits,) of a task; those before it are made on the way."""
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
