"""One step of a run, which may be stopped in the middle and completed by another process."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

import torch
from torch import Tensor

from plasticity.agents.agent import Agent, learn_from
from plasticity.envs.experience import Examples, Experience, Place, Transitions
from plasticity.envs.stream import Stream
from plasticity.interventions.base import Logs
from plasticity.metrics.log_values import RICH, Measurements
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import View

_KINDS: Final[Mapping[str, Any]] = {
    **{kind.__name__: kind for kind in (Transitions, Examples, Place)},
    **RICH,
}
_ON_DEVICE: Final = (Examples.__name__, Place.__name__)


class Observing(Protocol):
    """What a step needs of the observers."""

    def begin_task(self, step: int) -> list[str]:
        """Notes that a task starts; returns the names of those that measure before anything of it is learned."""
        ...

    def select(self, before: int, after: int, switched: bool) -> list[str]:
        """Returns the names of those that measure in this step."""
        ...

    def before_learning(self, names: list[str]) -> list[str]:
        """Returns those of the named observers that measure the end of the old task when a new one starts."""
        ...

    def after_first_update(self) -> list[str]:
        """Returns the names of those that measure because a part made its first update in this step."""
        ...

    def measure(self, names: list[str], view: View) -> Measurements:
        """Returns the measurements of the named observers; raises ``Abandoned`` if the user stops during them."""
        ...


@dataclass
class Step:
    """What was observed in a step, and what is still to be done with it.

    At a task switch the observers that ask for it measure the end of the old task, before anything is reset for the new one, and
    others its start, once that is done. Their values of the start belong to the stream's step before this one.

    Attributes:
        before: The stream's step before it.
        after: The stream's step after it.
        task: The task before it.
        experience: What was observed.
        early: Observers that measure before anything is learned.
        late: Observers that measure after learning.
        first: Observers that measure the start of a task, after the switch and before anything of it is learned.
        switched: Whether the agent knows of the switch, if there is one.
        learned: Whether the agent has learned from it.
        logs: Of stream and agent.
        measurements: Of the observers.
        at_start: Those of observers that measure the state before the step: the start of a task, or a network without an update.
        seconds: Time of acting and learning, without measurements.
    """

    before: int
    after: int
    task: int
    experience: Experience
    early: list[str]
    late: list[str]
    first: list[str] = field(default_factory=list)
    switched: bool = False
    learned: bool = False
    logs: Logs = field(default_factory=dict)
    measurements: Measurements = field(default_factory=dict)
    at_start: Measurements = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def begun(cls, agent: Agent, stream: Stream, observers: Observing) -> Self:
        """Advances the stream by one step."""
        started = time.perf_counter()
        before, task = stream.step, stream.task
        experience = stream.advance(agent.act)
        switched = experience.task != task
        first = observers.begin_task(before) if _begins_task(experience, before, switched) else []
        selected = observers.select(before, stream.step, switched)
        early = observers.before_learning(selected) if switched else []
        late = [name for name in selected if name not in early]
        step = cls(before, stream.step, task, experience, early, late, first, logs=dict(experience.stats))
        step.seconds = time.perf_counter() - started
        return step

    def complete(self, agent: Agent, observers: Observing) -> None:
        """Does what is still to be done in the step."""
        if not self.learned:
            if not self.switched:
                if self.early:
                    self.measurements |= observers.measure(self.early, View(self.after, self.task, agent))
                started = time.perf_counter()
                if self.experience.task != self.task:
                    self.logs |= agent.switch_task(self.experience.task)
                self.switched = True
                self.seconds += time.perf_counter() - started
            if self.first:
                self.at_start |= observers.measure(self.first, View(self.before, self.experience.task, agent))
            started = time.perf_counter()
            self.logs |= learn_from(agent, self.experience, self.after)
            self.learned = True
            self.seconds += time.perf_counter() - started
        if waiting := observers.after_first_update():
            self.at_start |= observers.measure(waiting, View(self.before, self.experience.task, agent))
        if self.late:
            self.measurements |= observers.measure(self.late, View(self.after, self.experience.task, agent))

    def state_dict(self) -> dict[str, Any]:
        """Returns everything in plain containers."""
        batch, task, stats, place = (getattr(self.experience, name) for name in ("batch", "task", "stats", "place"))
        return {
            "places": [self.before, self.after, self.task],
            "experience": [None, task, {}, None] if self.learned else [_plain(each) for each in (batch, task, stats, place)],
            "observers": [self.early, self.late, self.first],
            "switched": self.switched,
            "learned": self.learned,
            "logs": _plain(self.logs),
            "measurements": _plain(self.measurements),
            "at_start": _plain(self.at_start),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], observers: Mapping[str, object], device: torch.device) -> Self:
        """Returns the step of a ``state_dict``.

        Args:
            state: The state.
            observers: Those of the continued run; it may have others than before.
            device: Where the stream's examples are.
        """
        experience = Experience(*(_restored(each, device) for each in state["experience"]))
        early, late, first = ([name for name in names if name in observers] for names in state["observers"])
        logs, measurements, at_start = (_restored(state[key], device) for key in ("logs", "measurements", "at_start"))
        switched, learned = state["switched"], state["learned"]
        before, after, task = state["places"]
        return cls(before, after, task, experience, early, late, first, switched, learned, logs, measurements, at_start)


def _begins_task(experience: Experience, before: int, switched: bool) -> bool:
    """Returns whether a task starts, announced or not; an environment's are those that it announces, and the first."""
    return before == 0 or (switched if experience.place is None else experience.place.minibatch == 0)


def _plain(value: Any) -> Any:
    """Returns a value as a checkpoint can hold it; tensors are copied: a view would be saved with its whole base tensor."""
    if isinstance(value, Undefined):
        return {"kind": "Undefined", "reason": value.reason}
    if type(value).__name__ in _KINDS:
        return {"kind": type(value).__name__, "fields": [_plain(each) for each in value]}
    if isinstance(value, Mapping):
        return {"kind": "Mapping", "names": list(value), "values": [_plain(each) for each in value.values()]}
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.item() if hasattr(value, "item") else value


def _restored(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Mapping) or "kind" not in value:
        return value
    kind = value["kind"]
    if kind == "Undefined":
        return Undefined(value["reason"])
    if kind == "Mapping":
        return dict(zip(value["names"], (_restored(each, device) for each in value["values"]), strict=True))
    fields = [_restored(each, device) for each in value["fields"]]
    if kind in _ON_DEVICE:
        fields = [each.to(device) if isinstance(each, Tensor) else each for each in fields]
    return _KINDS[kind](*fields)
