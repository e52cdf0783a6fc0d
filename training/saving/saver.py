"""Saving a run when it is due, and when the user stops it."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from plasticity.agents.agent import Agent
from plasticity.envs.stream import Stream
from plasticity.metrics.observer import Observer, Remembering, passes
from plasticity.training.config.settings import CheckpointSettings
from plasticity.training.saving.checkpoint import FOLDER, REPLAY, checkpoint_path, latest_checkpoint, prune, save_checkpoint
from plasticity.training.saving.run_folder import remove_run_folder
from plasticity.training.saving.status import STOPPED, StatusFile
from plasticity.training.step import Step
from plasticity.training.stopping import STOP, Stopped
from plasticity.training.tracking.csv_writer import CsvWriter
from plasticity.training.tracking.tracker import Tracker

PARTS: Final = ("config", "device", "agent", "stream", "tracker", "observers", "files", "unfinished")
_SLOW_STEP_SECONDS: Final = 0.5
_SHARE_FOR_COPIES: Final = 0.02
_CLOSING_SECONDS: Final = 0.6
_LONGEST_LOSS_SECONDS: Final = 60.0


class RunSaver:
    """Saves everything that the rest of a run depends on.

    As a context manager it decides what becomes of a run that the user stops. A stop takes effect after the current step, which
    is then saved, or in a measurement, which is abandoned, and made again when the run continues. A step that takes longer than a
    user waits is abandoned together with the process. So that little is lost, a copy of the state in memory, which is then saved,
    is made from time to time in runs that have steps of more than half a second, at a cost of at most 2 % of the time; not of
    agents with a replay, whose copies would be files. Without a copy the run returns to its last checkpoint, or to its start,
    if that loses at most a minute; otherwise the step is still finished, and a second Ctrl-C ends it.

    Args:
        folder: The run folder.
        settings: When to save and how many to keep.
        config: The run's config, kept in every checkpoint.
        agent: The agent.
        stream: Its stream.
        tracker: Flushed before every save, so that the files hold what precedes the checkpoint.
        observers: By name; their state is saved.
        tables: Its files; how far they are written is saved.
        removable: Whether this process made the folder, and may remove it while there is no checkpoint in it.
        status: Its status file, which is informed of a stop that ends the process.

    Attributes:
        stopped: Whether the run was saved because of a stop.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        config: Mapping[str, Any],
        agent: Agent,
        stream: Stream,
        tracker: Tracker,
        observers: Mapping[str, Observer] | None = None,
        tables: CsvWriter | None = None,
        removable: bool = False,
        status: StatusFile | None = None,
    ) -> None:
        self.folder, self.settings, self.config = folder, settings, dict(config)
        self.replay_folder = folder / FOLDER / REPLAY
        self.agent, self.stream, self.tracker, self.tables = agent, stream, tracker, tables
        self.remembering = {name: seer for name, seer in (observers or {}).items() if isinstance(seer, Remembering)}
        self.removable, self.stopped, self.status = removable, False, status
        self._saved_at = time.monotonic()
        self._slow_steps = False
        self._copy: dict[str, Any] | None = None
        self._copied_at = self._copy_seconds = 0.0

    def __enter__(self) -> "RunSaver":
        """Takes over what a stop does at last."""
        STOP.last_resort = self._give_up
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Removes the folder of a run that was stopped before it had anything to go on from."""
        STOP.last_resort = lambda: True
        if kind is not None and issubclass(kind, Stopped):
            self._remove_without_checkpoint()

    def before_step(self) -> None:
        """Copies the state in memory, if steps are slow and the last copy is old enough."""
        if not self._slow_steps or hasattr(self.agent, "replay"):
            return
        started = time.monotonic()
        if started - self._copied_at >= self._copy_seconds / _SHARE_FOR_COPIES:
            self._copy = _copied(self._state())
            self._copied_at = time.monotonic()
            self._copy_seconds = self._copied_at - started

    def after_step(self, step: Step) -> bool:
        """Saves if the period is over or the run is to stop; returns whether it is to stop."""
        self._slow_steps = self._slow_steps or step.seconds > _SLOW_STEP_SECONDS
        asked = STOP.asked  # once: a signal after this line is for the next step
        reached = any(step.before < at <= step.after for at in self.settings.at_steps)
        if asked or reached or passes(step.before, step.after, self.settings.every_steps):
            self.save()
        return asked

    def save(self, unfinished: Step | None = None) -> None:
        """Saves now, and deletes what only older checkpoints than the newest few need.

        The replay's new transitions are on disk before the checkpoint that names their files, and nothing is deleted before that
        is: a kill at any moment leaves a checkpoint with all its files.

        Args:
            unfinished: The present step, if it could not be completed.

        Raises:
            FloatingPointError: If a part met a loss or gradient that is not finite; earlier checkpoints are as they were.
        """
        for part in self.agent.parts.values():
            part.raise_if_not_finite()
        with STOP.writing(), self.tracker.paused():
            self.tracker.flush()
            save_checkpoint(self.folder, self.stream.step, self._state(unfinished))
            prune(self.folder, self.settings.keep, self.settings.at_steps)
            self.stopped = STOP.asked
            self._saved_at, self._copy = time.monotonic(), None

    def _state(self, unfinished: Step | None = None) -> dict[str, Any]:
        return {
            "step": self.stream.step,
            "config": self.config,
            "device": device_of(self.agent).type,
            "agent": self.agent.state_dict(self.replay_folder),
            "stream": self.stream.state_dict(),
            "tracker": self.tracker.state_dict(),
            "observers": {name: observer.state_dict() for name, observer in self.remembering.items()},
            "files": {} if self.tables is None else self.tables.state_dict(),
            "unfinished": None if unfinished is None else unfinished.state_dict(),
        }

    def _give_up(self) -> bool:
        """Ensures that the run can be continued from disk; returns whether the process may be ended. Runs in another thread."""
        if self.stopped:
            time.sleep(_CLOSING_SECONDS)  # and the process ends by itself in this time
            self._say_stopped(None)
            _say(f"stopped and saved; continue with resume={self.folder}")
            return True
        if self._copy is not None:
            step = self._copy["step"]
            if not checkpoint_path(self.folder, step).exists():
                save_checkpoint(self.folder, step, self._copy)
            self._say_stopped(step)
            _say(f"stopped in a long step; {self.folder} is saved as it was at step {step}")
            return True
        newest = latest_checkpoint(self.folder)
        there = f"step {int(newest.stem.partition('_')[2])}" if newest else "its start"
        if time.monotonic() - self._saved_at > _LONGEST_LOSS_SECONDS:
            _say(f"stopping after this step, which takes long; Ctrl-C again ends it, and the run returns to {there}")
            return False
        self._say_stopped(int(newest.stem.partition("_")[2]) if newest else 0)
        self._remove_without_checkpoint()
        _say(f"stopped in a long step; the run returns to {there}")
        return True

    def _say_stopped(self, step: int | None) -> None:
        if self.status is not None:
            self.status.end(STOPPED, step=step)

    def _remove_without_checkpoint(self) -> None:
        if self.removable and latest_checkpoint(self.folder) is None:
            remove_run_folder(self.folder)


def restore(
    state: Mapping[str, Any], folder: Path, agent: Agent, stream: Stream, observers: Mapping[str, Observer]
) -> Step | None:
    """Puts agent, stream and observers back as a checkpoint has them.

    Args:
        state: The checkpoint's.
        folder: The run folder.
        agent: Changed.
        stream: Changed.
        observers: Changed, if they have a state; they may be others than those of the run before.

    Returns:
        The step that was not completed, if there is one.
    """
    agent.load_state_dict(state["agent"], folder / FOLDER / REPLAY)
    stream.load_state_dict(state["stream"])
    for name, observer in observers.items():
        if isinstance(observer, Remembering) and name in state["observers"]:
            observer.load_state_dict(state["observers"][name])
    unfinished = state["unfinished"]
    return None if unfinished is None else Step.restored(unfinished, observers, device_of(agent))


def device_of(agent: Agent) -> torch.device:
    """Returns the device of an agent's parts."""
    return next(iter(agent.parts.values())).device


def _copied(value: Any) -> Any:
    """Returns a nested state with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return type(value)({key: _copied(each) for key, each in value.items()})  # type: ignore[call-arg]
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _say(line: str) -> None:
    os.write(2, f"\n{line}\n".encode())
