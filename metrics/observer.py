"""Observers: whatever measures a run without touching it."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Protocol

import torch
from torch import Tensor

from metrics.catalogue import CATALOGUE, rates
from metrics.log_values import Histogram, Series
from metrics.undefined import Undefined
from metrics.view import View, view_part
from networks.spec import require_range
from seeding import torch_generator

Logs = dict[str, Tensor | float | Histogram | Series]


class Observer(Protocol):
    """Measures a run. It leaves weights, buffers, modes, optimizer and generators exactly as they were.

    Attributes:
        at_task_switch: Whether it is also due when a task ends, before anything is reset for the next.
    """

    at_task_switch: bool

    def due(self, before: int, after: int) -> bool:
        """Tells whether a step from ``before`` to ``after`` reaches or passes a multiple of the period."""
        ...

    def measure(self, view: View) -> Logs:
        """Returns the measurements."""
        ...


def passes(before: int, after: int, every: int) -> bool:
    """Tells whether a multiple of ``every`` lies in (before, after]; never if ``every`` is 0."""
    return every > 0 and after // every > before // every


def observe(observer: Observer, view: View) -> Logs:
    """Measures under a forked random state and without gradients, so that an observer cannot disturb the run."""
    devices = {part.initial[name].device for part in view.agent.parts.values() for name in part.initial}
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]), torch.no_grad():
        return observer.measure(view)


@dataclass
class MetricsSettings:
    """Which metrics are logged, and when.

    Attributes:
        every_steps: Period in steps of the stream, 0 for never.
        at_task_switch: Whether they are also taken at the end of every announced task.
        names: Metrics of the catalogue; empty for all of them.
        inputs: Inputs of the sample that activations are measured on.
        histograms: Whether the firing rates of every layer are logged as histograms.
    """

    every_steps: int = 1000
    at_task_switch: bool = True
    names: list[str] = field(default_factory=list)
    inputs: int = 1000
    histograms: bool = True

    def __post_init__(self) -> None:
        require_range("metrics.every_steps", self.every_steps, 0)
        require_range("metrics.inputs", self.inputs, 2)
        for name in self.names:
            if name not in CATALOGUE:
                close = get_close_matches(name, CATALOGUE, n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise ValueError(f"metrics.names={name} is unknown{hint}; choose from {', '.join(CATALOGUE)}")


class MetricsObserver:
    """Measures the metrics of the catalogue on every part."""

    def __init__(self, settings: MetricsSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.at_task_switch = settings.at_task_switch
        self._metrics = {name: CATALOGUE[name] for name in settings.names or CATALOGUE}

    def due(self, before: int, after: int) -> bool:
        """Tells whether the period ends in this step."""
        return passes(before, after, self.settings.every_steps)

    def measure(self, view: View) -> Logs:
        """Returns ``plasticity/<metric>`` and ``plasticity/<metric>/<part>/<layer>``."""
        parts = [view_part(name, part, self._inputs(view, name)) for name, part in view.agent.parts.items()]
        logs: Logs = {}
        for name, metric in self._metrics.items():
            logs |= {f"plasticity/{name}{suffix}": value for suffix, value in metric.measure(parts).items()}
        if self.settings.histograms:
            for part in parts:
                for layer in part.layers:
                    units = rates(layer)
                    if not isinstance(units, Undefined):
                        logs[f"plasticity/firing_rates/{part.name}/{layer.name}"] = Histogram(units)
        return logs

    def _inputs(self, view: View, part: str) -> Tensor | None:
        device = next(view.agent.parts[part].network.parameters()).device
        generator = torch_generator(self.seed, "metrics", part, view.step, device=device)
        return view.agent.sample_inputs(part, self.settings.inputs, generator)
