"""Learning-rate schedules: the factor of the learning rate at each moment of a run, the same for every agent."""

from bisect import bisect_left
from collections.abc import Sequence
from math import cos, pi
from typing import Final, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

SCHEDULES: Final = ("constant", "linear", "cosine", "steps")


class Moment(NamedTuple):
    """When an update is made; the step that it is made in counts.

    Attributes:
        step: Steps of the stream so far: environment steps over all environments, or minibatches.
        task_step: Minibatches of the present task so far; 0 where tasks are not of examples.
        task_steps: Minibatches that the present task has; 0 where tasks are not of examples.
    """

    step: int
    task_step: int = 0
    task_steps: int = 0


class Schedule(NamedTuple):
    """How a learning rate changes during a run.

    Attributes:
        kind: A member of ``SCHEDULES``.
        steps: Steps of the stream over which it changes, and then stays; not read where tasks set the length or the rate is
            constant.
        per_task: Whether it starts again with each task of examples and lasts as long as that.
        warmup_steps: Steps over which it rises linearly from 0, before ``linear`` and ``cosine`` begin to fall.
        end: Multiplier that ``linear`` and ``cosine`` end at.
        milestones: Parts of the length, including the warm-up, after each of which ``steps`` falls; increasing, in [0, 1].
        factor: Factor by which ``steps`` multiplies the rate at each of them.
    """

    kind: str = "constant"
    steps: int = 0
    per_task: bool = False
    warmup_steps: int = 0
    end: float = 0.0
    milestones: Sequence[float] = ()
    factor: float = 1.0

    @property
    def varies(self) -> bool:
        """Whether the multiplier ever differs from 1."""
        return self.kind != "constant" or self.warmup_steps > 0

    def multiplier(self, moment: Moment) -> float:
        """Returns the factor of the learning rate: a function of schedule and moment alone.

        Raises:
            ValueError: If it follows tasks, and the moment belongs to none.
        """
        if self.per_task and not moment.task_steps:
            raise ValueError("optimizer.schedule_per_task=true follows tasks of examples, and this stream has none; choose false")
        step, steps = moment[1:] if self.per_task else (moment.step, self.steps)
        risen = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return risen * self._fallen(step, steps)

    def _fallen(self, step: int, steps: int) -> float:
        """Returns the part of the rate that is left at a step of a number of steps, apart from the warm-up."""
        if self.kind == "constant":
            return 1.0
        if self.kind == "steps":
            return float(self.factor ** bisect_left(self.milestones, step / steps))
        begun, falling = step - self.warmup_steps, steps - self.warmup_steps
        if begun <= 0 or falling <= 0:
            return 1.0
        part = min(1.0, begun / falling)
        if self.kind == "linear":
            return 1.0 + (self.end - 1.0) * part
        return self.end + (1.0 - self.end) * (1.0 + cos(pi * part)) / 2


CONSTANT: Final = Schedule()


class ScheduledRates:
    """The learning rates of an optimizer's parameter groups, set as their schedule requires.

    They follow from the moment alone, so that they need not be saved.

    Args:
        optimizer: Its rates are multiplied.
        schedule: The schedule of all its groups.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self._optimizer, self._schedule = optimizer, schedule
        self._rates = [float(group["lr"]) for group in optimizer.param_groups] if schedule.varies else []

    def apply(self, moment: Moment | None) -> None:
        """Sets the rates of a moment; a rate that is a tensor keeps its place in memory.

        Raises:
            RuntimeError: If they vary and there is no moment.
            ValueError: See ``Schedule.multiplier``.
        """
        if not self._schedule.varies:
            return
        if moment is None:
            raise RuntimeError("a learning rate that varies needs the moment: call plasticity.agents.agent.learn_from")
        multiplier = self._schedule.multiplier(moment)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * multiplier)
            else:
                group["lr"] = rate * multiplier
