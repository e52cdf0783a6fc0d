"""Measurements at the start of a task and in its first steps, on the task's own examples where there are any before it starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.agents.supervised.agent import SupervisedLearner
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.metrics.log_values import Measurements
from plasticity.metrics.observer import TASK_START, MetricsObserver, MetricsSettings
from plasticity.metrics.view import KeptExamples, Measurable, Part, Trace, View
from plasticity.networks.network import Network
from plasticity.networks.objective import Batch, Objective

FEWEST_EXAMPLES: Final = 64  # as many as a part keeps for the metrics of the loss


@dataclass(frozen=True)
class GivenExamples:
    """Examples in place of the latest ones that a part learned from; see ``plasticity.metrics.view.KeptExamples``."""

    objective: Objective[Any] | None
    batch: Batch

    def latest(self, count: int) -> Batch:
        """Returns the first examples, at most ``count``."""
        columns: tuple[Tensor, ...] = tuple(self.batch)
        made: Batch = type(self.batch)(*(column[:count] for column in columns))
        return made


class GivenPart:
    """A part with the given examples and network in place of its own; see ``plasticity.metrics.view.Part``.

    Args:
        part: The part.
        examples: What its loss is measured on.
        network: The network to measure; the part's own, or another.
    """

    def __init__(self, part: Part, examples: KeptExamples, network: Network) -> None:
        self.network, self.initial, self.optimizer = network, part.initial, part.optimizer
        self.value_errors, self.steps, self.max_gradient_norm = part.value_errors, part.steps, part.max_gradient_norm
        self.trace: Trace = part.trace
        self.examples: KeptExamples = examples


@dataclass(frozen=True)
class AgentAsGiven:
    """Parts and inputs in place of those of an agent; see ``plasticity.metrics.view.Measurable``.

    Attributes:
        parts: By name.
        sample: Called as ``sample_inputs``.
    """

    parts: Mapping[str, Part]
    sample: Callable[[str, int, torch.Generator], Tensor | None]

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns inputs, at most ``count``."""
        return self.sample(part, count, generator)


@dataclass
class OwnExamples:
    """The first examples of the current task of a data stream, as the stream gives them.

    They depend on the seed and the number of the task alone, so that a resumed run finds the same.

    Attributes:
        stream: The stream; only read.
        learner: The learner; only read.
        count: How many examples are taken, fewer where an epoch has fewer.
    """

    stream: TaskStream
    learner: SupervisedLearner
    count: int
    _task: int = -1
    _batch: Batch | None = None

    def agent(self) -> Measurable:
        """Returns the learner as it is, to be measured on these examples."""
        task = self.stream.true_task
        if self._batch is None or self._task != task:
            examples = self.stream.beginning(task).peek(self.count)
            self._task, self._batch = task, self.learner.batch_of(examples, self.stream.active())
        batch = self._batch
        parts: dict[str, Part] = {
            name: GivenPart(part, GivenExamples(part.examples.objective, batch), part.network)
            for name, part in self.learner.parts.items()
        }
        return AgentAsGiven(parts, lambda name, count, generator: batch.inputs[:count])


class TaskStartObserver(MetricsObserver):
    """Measures the metrics at the start of every task and some steps after it, as ``task_start/<metric>``.

    It is separate from the periodic observer, some of whose values compare with the measurement before: these are the same with
    it and without. The start of the run is that of its first task. Where tasks are not announced, those of a data stream still
    count, and an environment has one.

    Args:
        settings: Which metrics, and when.
        seed: The run's seed.
        own: The examples of the current task; None in an environment, where the latest inputs are taken.
    """

    after_learning = True

    def __init__(self, settings: MetricsSettings, seed: int, own: OwnExamples | None) -> None:
        super().__init__(settings, seed, prefix=TASK_START)
        self.at_task_switch = False
        self.at_task_start = TASK_START in settings.at
        self._own = own
        self._began: int | None = None

    def task_begins(self, step: int) -> None:
        """Notes that a task starts, of which nothing is learned yet.

        Args:
            step: The stream's step before its first examples.
        """
        self._began = step

    def due(self, before: int, after: int) -> bool:
        """Returns whether this step reaches or passes one of the requested numbers of steps since the start of the task."""
        began = self._began
        return began is not None and any(before < began + steps <= after for steps in self.settings.after_switch)

    def measure(self, view: View) -> Measurements:
        """Returns ``task_start/<metric>`` and the values of the layers, as ``MetricsObserver`` does with this prefix."""
        return super().measure(view if self._own is None else replace(view, agent=self._own.agent()))

    def remarks(self) -> dict[str, str]:
        """Returns what the first measurement after an update took, once in a run."""
        lines = super().remarks()
        return {TASK_START: lines["metrics"]} if lines else {}

    def state_dict(self) -> dict[str, Any]:
        """Returns its state."""
        return {**super().state_dict(), "began": self._began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned; the settings may be others by now."""
        super().load_state_dict(state)
        self._began = state["began"]
