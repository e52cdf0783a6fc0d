"""Calls the observers of a run, and counts their time separately from the run's."""

import time
from collections.abc import Mapping

from plasticity.metrics.log_values import Measurements
from plasticity.metrics.observer import AwaitsUpdate, FollowsTasks, Observer, Remarking, Remembering, observe
from plasticity.metrics.view import View
from plasticity.training.stopping import STOP, Stopped
from plasticity.training.tracking.tracker import Tracker


class Abandoned(Exception):
    """Raised when the user stops a run that is measuring; the run is as it was before, and can be saved."""


class Observers:
    """The observers of a run, by name.

    Args:
        observers: The observers.
        tracker: Its clock stands still while an observer measures.

    Attributes:
        seconds: Time that each observer has taken in this process.
    """

    def __init__(self, observers: Mapping[str, Observer], tracker: Tracker) -> None:
        self._observers = dict(observers)
        self._following = {name: each for name, each in observers.items() if isinstance(each, FollowsTasks)}
        self._awaiting = {name: each for name, each in observers.items() if isinstance(each, AwaitsUpdate)}  # asked at each step
        self._tracker = tracker
        self.seconds = dict.fromkeys(observers, 0.0)

    def begin_task(self, step: int) -> list[str]:
        """Informs those that follow tasks that one starts; returns the names of those that measure before it is learned from."""
        for observer in self._following.values():
            observer.task_begins(step)
        return [name for name, observer in self._following.items() if observer.at_task_start]

    def after_first_update(self) -> list[str]:
        """Returns the names of those that measure because a part made its first update in this step."""
        return [name for name, observer in self._awaiting.items() if observer.first_update_made()]

    def select(self, before: int, after: int, switched: bool) -> list[str]:
        """Returns the names of those that measure in this step."""
        return [
            name
            for name, observer in self._observers.items()
            if observer.due(before, after) or (switched and observer.at_task_switch)
        ]

    def before_learning(self, names: list[str]) -> list[str]:
        """Returns those of the named observers that measure the end of the old task when a new one starts."""
        return [name for name in names if not getattr(self._observers[name], "after_learning", False)]

    def measure(self, names: list[str], view: View) -> Measurements:
        """Returns the measurements of the named observers, with ``time/<name>_seconds`` for each.

        Raises:
            Abandoned: If the user stops the run during it. The state of the observers is then as it was.
        """
        remembering = {name: seer for name in names if isinstance(seer := self._observers[name], Remembering)}
        memories = {name: observer.state_dict() for name, observer in remembering.items()}
        try:
            with STOP.reading():
                return self._measure(names, view)
        except Stopped as stopped:
            for name, observer in remembering.items():
                observer.load_state_dict(memories[name])
            raise Abandoned from stopped

    def _measure(self, names: list[str], view: View) -> Measurements:
        logs: Measurements = {}
        for name in names:
            started = time.perf_counter()
            with self._tracker.paused():
                logs |= observe(self._observers[name], view)
            seconds = time.perf_counter() - started
            self.seconds[name] += seconds
            logs[f"time/{name}_seconds"] = seconds
            observer = self._observers[name]
            for about, line in observer.remarks().items() if isinstance(observer, Remarking) else ():
                self._tracker.remark(about, line)
        return logs
