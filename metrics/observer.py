"""Observers: they measure a run without changing it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from plasticity.metrics.catalogue import chosen
from plasticity.metrics.draws import Draws, DrawSettings
from plasticity.metrics.log_values import Histogram, Measurements
from plasticity.metrics.measures.firing_history import FiringHistory
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import Part, PartView, Remembered, View, averages_of, view_part
from plasticity.settings.fields import setting
from plasticity.settings.seeding import derive_seed, torch_generator

REMEMBERED_INPUTS: Final = 256
TASK_START: Final = "task_start"


class Observer(Protocol):
    """Measures a run. It leaves weights, buffers, modes, optimizer and generators exactly as they were.

    Attributes:
        at_task_switch: Whether it is also due when a task ends, before anything is reset for the next.
    """

    at_task_switch: bool

    def due(self, before: int, after: int) -> bool:
        """Tells whether a step from ``before`` to ``after`` reaches or passes a multiple of the period."""
        ...

    def measure(self, view: View) -> Measurements:
        """Returns the measurements."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An observer that compares with its earlier measurement, and must be saved with the run."""

    def state_dict(self) -> dict[str, Any]:
        """Returns its state, in plain containers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned, as far as its settings still need it."""
        ...


@runtime_checkable
class FollowsTasks(Protocol):
    """An observer that is informed where tasks start, announced or not, including the run's first.

    Attributes:
        at_task_start: Whether it measures there, before anything of the task is learned.
    """

    at_task_start: bool

    def task_begins(self, step: int) -> None:
        """Notes that a task starts at the stream's ``step``, before its first examples."""
        ...


@runtime_checkable
class AwaitsUpdate(Protocol):
    """An observer that measures in the step in which a part makes its first update."""

    def first_update_made(self) -> bool:
        """Returns whether that has happened in this step."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """An observer that writes notes in addition to its values."""

    def remarks(self) -> dict[str, str]:
        """Returns lines for the run's notes, by name, each once."""
        ...


def passes(before: int, after: int, every: int) -> bool:
    """Tells whether a multiple of ``every`` lies in (before, after]; never if ``every`` is 0."""
    return every > 0 and after // every > before // every


def observe(observer: Observer, view: View) -> Measurements:
    """Measures under a forked random state and without gradients, so that an observer cannot disturb the run."""
    devices = {part.initial[name].device for part in view.agent.parts.values() for name in part.initial}
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]), torch.no_grad():
        return observer.measure(view)


@dataclass
class MetricsSettings(DrawSettings):
    """Which metrics are logged, and when."""

    section: ClassVar[str] = "metrics"

    every_steps: int = setting(1000, "Period in steps of the stream, 0 for never.", low=0)
    at_task_switch: bool = setting(True, "Whether they are also taken at the end of every announced task.")
    at: list[str] = setting(
        [],
        "Further moments, logged as ``task_start/<metric>``. ``task_start``: before anything of a task is learned, its resets "
        "made, on its own first examples; data streams only.",
        choices=(TASK_START,),
    )
    after_switch: list[int] = setting(
        [],
        "Steps after the start of each task, also of the run's first, at which ``task_start/<metric>`` is logged too: on a data "
        "stream on the task's own first examples, in an environment on the latest inputs.",
        low=1,
    )
    names: list[str] = setting(
        [], "Metrics of the catalogue, or its groups ``default`` (the cheap ones) and ``all``; empty for ``default``."
    )
    inputs: int = setting(1000, "Inputs of the sample that activations are measured on.", low=2)
    pool_streams: bool = setting(
        False, "Whether units of residual streams without a non-linearity count in the values of all layers together."
    )
    histograms: bool = setting(True, "Whether the firing rates of every layer are logged as histograms.")
    heatmaps: bool = setting(True, "Whether the firing rates of every layer, and of all, are logged as heatmaps over the run.")

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen(self.names)


class MetricsObserver:
    """Measures the metrics of the catalogue on every part.

    It remembers the distributions of firing rates, and, for the metrics that compare with the measurement before, some inputs and
    the features of these.

    Args:
        settings: Which, and when.
        seed: The run's seed.
        prefix: The first word of all names.

    Attributes:
        milliseconds: Time of each metric at the first measurement after an update; shared work counts for the first metric that
            needs it.
    """

    def __init__(self, settings: MetricsSettings, seed: int, prefix: str = "plasticity") -> None:
        self.settings, self.seed, self.prefix = settings, seed, prefix
        self.at_task_switch = settings.at_task_switch
        self.milliseconds: dict[str, float] = {}
        self._metrics = chosen(settings.names)
        self._remembers = any(metric.remembers for metric in self._metrics.values())
        self._history = FiringHistory()
        self._remembered: dict[str, Remembered] = {}
        self._remarked = False

    def due(self, before: int, after: int) -> bool:
        """Tells whether the period ends in this step."""
        return passes(before, after, self.settings.every_steps)

    def measure(self, view: View) -> Measurements:
        """Returns ``plasticity/<metric>`` and ``plasticity/<metric>/<part>/<layer>``, and the distributions of firing rates."""
        started = time.perf_counter()
        parts = [self._view_of(name, part, view) for name, part in view.agent.parts.items()]
        spent = {"forward": time.perf_counter() - started}
        logs: Measurements = {}
        for name, metric in self._metrics.items():
            started = time.perf_counter()
            logs |= {f"{self.prefix}/{name}{suffix}": value for suffix, value in metric.measure(parts).items()}
            spent[name] = time.perf_counter() - started
        logs |= self._distributions(parts, view)
        if self._remembers:
            self._remembered |= {part.name: kept for part in parts if (kept := _kept(part)) is not None}
        if not self.milliseconds and all(part.part.trace.norms for part in parts):  # before that, much cannot be measured
            self.milliseconds = {name: 1000 * seconds for name, seconds in spent.items()}
        return logs

    def remarks(self) -> dict[str, str]:
        """Returns the time of the first measurement after an update, once in a run."""
        if self._remarked or not self.milliseconds:
            return {}
        self._remarked = True
        times = sorted(self.milliseconds.items(), key=lambda item: -item[1])
        total = sum(self.milliseconds.values())
        each = ", ".join(f"{name} {spent:.3g}" for name, spent in times)
        return {"metrics": f"the first measurement after an update took {total:.3g} ms: {each}"}

    def state_dict(self) -> dict[str, Any]:
        """Returns its state."""
        return {
            "history": self._history.state_dict(),
            "remembered": {
                name: (kept.inputs, kept.features, kept.rates, kept.updates) for name, kept in self._remembered.items()
            },
            "remarked": self._remarked,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned; the settings may be others by now."""
        self._history.load_state_dict(state["history"] if self.settings.heatmaps else {})
        self._remarked = state["remarked"]
        self._remembered = {name: Remembered(*kept) for name, kept in state["remembered"].items() if self._remembers}

    def _view_of(self, name: str, part: Part, view: View) -> PartView:
        draws = Draws(self.settings, derive_seed(self.seed, "metrics draws", name, view.step))
        inputs, earlier = self._inputs(view, name), self._remembered.get(name)
        return view_part(name, part, inputs, earlier, self.settings.pool_streams, draws)

    def _distributions(self, parts: list[PartView], view: View) -> Measurements:
        """Returns histograms of the firing rates of every layer that has them, and heatmaps over the run of these and of all."""
        logs: Measurements = {}
        pool: list[Tensor] = []
        for part in parts:
            for layer in part.layers:
                rates = layer.rates
                if isinstance(rates, Undefined):
                    continue
                if self.settings.histograms:
                    logs[f"{self.prefix}/firing_rates/{part.name}/{layer.name}"] = Histogram(rates)
                if layer.pooled:
                    pool.append(rates)
                if self.settings.heatmaps and layer.finite:
                    name = f"{self.prefix}/firing_rate_heatmap/{part.name}/{layer.name}"
                    logs[name] = self._history.add(name, view.step, view.task, rates)
        if self.settings.heatmaps and pool and all(layer.finite for part in parts for layer in part.layers):
            name = f"{self.prefix}/firing_rate_heatmap"
            logs[name] = self._history.add(name, view.step, view.task, torch.cat(pool))
        return logs

    def _inputs(self, view: View, part: str) -> Tensor | None:
        device = next(view.agent.parts[part].network.parameters()).device
        generator = torch_generator(self.seed, "metrics", part, view.step, device=device)
        return view.agent.sample_inputs(part, self.settings.inputs, generator)


def _kept(part: PartView) -> Remembered | None:
    """Returns what to compare with at the next measurement; copies, because a view would be saved with its whole base tensor."""
    if part.inputs is None or not part.layers:
        return None
    inputs = part.inputs[:REMEMBERED_INPUTS].clone()
    features = {}
    for layer in part.feature_layers:
        rows = len(inputs) * (len(layer.post) // len(part.inputs))  # a network of tokens has a row for each of them
        features[layer.name] = layer.post[:rows].flatten(1).float().clone()
    return Remembered(inputs, features, part.once("averaged rates", averages_of), part.part.steps)
