"""One run from its plan to its summary."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from envs.failure import EnvironmentFailure
from training.assembly import Assembly, assemble
from training.checkpoint import discard_after, latest_checkpoint, load_checkpoint, require_match
from training.csv_writer import CsvWriter
from training.evaluation import protocol
from training.loop import train
from training.observation import Observers
from training.progress import ProgressWriter, summary_lines
from training.run_folder import create_run_folder, occupied, update_run_folder
from training.saving import RunSaver
from training.settings import Plan
from training.tensorboard_writer import TensorBoardWriter
from training.tracking import Tracker, Writer

# What may change when a run goes on: how far, how fast, and what is watched; none of it changes what is learned.
MAY_CHANGE: Final = (
    "choices",
    "steps",
    "device",
    "threads",
    "log_every_steps",
    "progress",
    "run_dir",
    "resume",
    "plugins",
    "mode",
    "video",
    "metrics",
    "probe",
    "evaluation",
    "task_evaluation",
    "checkpoint",
    "agent.replay_folder",
    "env.keep_on",
)
_SHOWN_WITH_HPARAMS: Final = (
    "rollout/return",
    "online/accuracy",
    "task/mean_online_accuracy",
    "task/test_accuracy",
    "plasticity/dormant_fraction",
    "plasticity/effective_rank",
    "probe/relative_loss",
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: The stream's last step.
        finished: Whether it got as far as it was to go.
        score: The last return per episode, or online accuracy; NaN before the first.
        summary: Lines for the user.
    """

    step: int
    finished: bool
    score: float
    summary: Sequence[str]


def run(plan: Plan, folder: Path, overrides: Sequence[str], resume: bool = False) -> Outcome:
    """Trains, from the start or from the newest checkpoint of ``folder``.

    Args:
        plan: What to run.
        folder: The run folder: created when starting, existing when resuming.
        overrides: Words of the command line, kept in the folder.
        resume: Whether to go on with what the folder holds.

    Raises:
        ValueError: If the plan cannot be run, the folder holds another run or is in use, or there is nothing to resume.
        FloatingPointError: If a loss or gradient is not finite; the last checkpoint is as it was.
        OSError: If a file cannot be written (a full disk, say); the last checkpoint is as it was.
        RuntimeError: If a ValueError is raised in training.
    """
    if not resume:
        assembly = assemble(plan)
        create_run_folder(folder, plan.config, overrides)
        with occupied(folder), _saying_where(folder):
            return _train(plan, folder, assembly, None)
    with occupied(folder), _saying_where(folder):
        state = _load(plan, folder)
        assembly = assemble(plan)
        discard_after(folder, state["step"])
        update_run_folder(folder, plan.config, overrides, state["step"])
        return _train(plan, folder, assembly, state)


def _train(plan: Plan, folder: Path, assembly: Assembly, state: Mapping[str, Any] | None) -> Outcome:
    agent, stream, observers = assembly
    step = None if state is None else int(state["step"])
    board = TensorBoardWriter(folder, step, state["tracker"]["latest"] if state else ())
    writers: list[Writer] = [CsvWriter(folder / "metrics.csv", step), board]
    bar = ProgressWriter(plan.run.steps, step or 0) if plan.run.progress else None
    writers += [] if bar is None else [bar]
    moved = None if bar is None else bar.move
    tracker = Tracker(writers, plan.run.log_every_steps, notes=folder / "notes.log", text=board.text, moved=moved)
    if state is None:
        board.hparams({**_choices(plan), **dict(_flatten(plan.config))}, _SHOWN_WITH_HPARAMS)
    watching = Observers(observers, tracker)
    with RunSaver(folder, plan.checkpoint, plan.config, agent, stream, tracker, observers) as saver, tracker:
        if state is not None:
            try:
                saver.load(state)
            except KeyError as error:
                raise ValueError(
                    f"resume={folder}: the checkpoint has no {error}; another version of this program made it"
                ) from error
        for line in getattr(stream, "notes", ()):
            tracker.note("env", line)
        if "evaluation" in observers:
            tracker.note("evaluation", protocol(plan.evaluation, plan.env, stream))
        try:
            train(agent, stream, watching, tracker, saver, plan.run.steps)
        except ValueError as error:  # not a word of the command line any more: whoever wrote the code wants to see where
            raise RuntimeError(f"at step {stream.step} of {folder}: {error}") from error
        finished = stream.step >= plan.run.steps
        if finished:
            saver.save()
            tracker.finish()
    stream.close()
    score = tracker.latest.get("rollout/return", tracker.latest.get("online/accuracy", float("nan")))
    return Outcome(stream.step, finished, score, summary_lines(folder, watching.seconds))


@contextmanager
def _saying_where(folder: Path) -> Iterator[None]:
    """Adds the run folder to the message of an error that ends a run without being anybody's mistake."""
    where = f"The run, up to its last checkpoint, is in {folder}"
    try:
        yield
    except EnvironmentFailure as error:
        raise EnvironmentFailure(f"{error}. {where}") from error
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}. {where}") from error
    except OSError as error:
        reason = str(error) if error.strerror is None else error.strerror
        file = f": {error.filename}" if error.filename else ""
        raise OSError(error.errno, f"{reason}{file}. {where}") from error


def _load(plan: Plan, folder: Path) -> dict[str, Any]:
    path = latest_checkpoint(folder)
    if path is None:
        raise ValueError(f"resume={folder} holds no checkpoint yet; start the run anew")
    state = load_checkpoint(path)
    require_same_run(state["config"], plan.config)
    if state["step"] >= plan.run.steps:
        raise ValueError(f"resume={folder} is at step {state['step']} of steps={plan.run.steps} already; give a larger steps=")
    return state


def require_same_run(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raises ValueError, with both sides named, unless two configs differ only in what may change when a run goes on.

    Names and order of the interventions come first, since they say more than their settings one by one.
    """
    before, now = (",".join(config["interventions"]) for config in (saved, requested))
    if before != now:
        raise ValueError(f"checkpoint has intervention=[{before}], command line has intervention=[{now}]")
    require_match(saved, requested, MAY_CHANGE)


def _choices(plan: Plan) -> dict[str, str | int]:
    """Names what tells runs apart so that it comes first in TensorBoard's table, which is in alphabetical order."""
    return {
        "(agent)": plan.choices["agent"],
        "(env)": plan.choices["env"],
        "(intervention)": "+".join(plan.interventions) or "none",
        "(network)": plan.choices["network"],
        "(seed)": plan.run.seed,
    }


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float | int | bool]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str | float | int | bool) else str(value)
