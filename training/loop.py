"""The training loop, the same for reinforcement and supervised learners."""

from typing import Protocol

from plasticity.agents.agent import Agent
from plasticity.envs.stream import Stream
from plasticity.training.observation import Abandoned, Observers
from plasticity.training.step import Step
from plasticity.training.tracking.tracker import Tracker


class Saver(Protocol):
    """Saves the run when it is due."""

    def before_step(self) -> None:
        """Notes that a step starts."""
        ...

    def after_step(self, step: Step) -> bool:
        """Notes a step; returns whether the run should stop here."""
        ...

    def save(self, unfinished: Step | None = None) -> None:
        """Saves the run, with a step whose measurements were abandoned."""
        ...


def train(
    agent: Agent,
    stream: Stream,
    observers: Observers,
    tracker: Tracker,
    saver: Saver,
    total_steps: int,
    unfinished: Step | None = None,
) -> bool:
    """Runs until ``stream.step`` reaches ``total_steps`` or the saver asks to stop; returns whether it got there.

    ``unfinished`` is the step in which the run was stopped before; it is completed first.
    """
    while unfinished is not None or stream.step < total_steps:
        saver.before_step()
        step = unfinished or Step.begun(agent, stream, observers)
        try:
            step.complete(agent, observers)
        except Abandoned:
            saver.save(step)
            return False
        unfinished = None
        if step.at_start:
            tracker.write_measured(step.before, step.at_start)
        tracker.write(stream.step, step.logs, step.measurements)
        if saver.after_step(step):
            break
    return stream.step >= total_steps
