"""One run from its plan to its summary."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from plasticity.agents.agent import Agent
from plasticity.envs.simulation.failure import EnvironmentFailure
from plasticity.metrics.log_values import Measurements
from plasticity.training.assembly import Assembly, assemble, without_updates
from plasticity.training.branching.point import BranchPoint
from plasticity.training.branching.starting import begin
from plasticity.training.config.settings import Plan
from plasticity.training.evaluation.episodes import protocol
from plasticity.training.loop import train
from plasticity.training.observation import Observers
from plasticity.training.saving.checkpoint import discard_after, latest_checkpoint, load_checkpoint, require_match, require_run
from plasticity.training.saving.provenance import differences, provenance
from plasticity.training.saving.resuming import MAY_CHANGE
from plasticity.training.saving.run_folder import (
    can_start_again,
    config_remark,
    create_run_folder,
    default_run_dir,
    known_of,
    occupied,
    remove_run_folder,
    start_again,
    update_run_folder,
)
from plasticity.training.saving.saver import PARTS, RunSaver, device_of, restore
from plasticity.training.saving.status import FINISHED, STOPPED, StatusFile
from plasticity.training.saving.structure import structure_hash
from plasticity.training.step import Step
from plasticity.training.stopping import STOP
from plasticity.training.tracking.array_writer import ARRAYS, ArrayWriter
from plasticity.training.tracking.csv_writer import CsvWriter, table_remarks
from plasticity.training.tracking.progress import ProgressWriter, summary_lines
from plasticity.training.tracking.tensorboard_writer import TensorBoardWriter
from plasticity.training.tracking.tracker import Tracker, Writer

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
class Beginning:
    """With what a run starts, or continues.

    Attributes:
        state: Checkpoint that agent, stream and observers have been restored from, or None.
        unfinished: Its step that was not completed.
        remarks: Lines for the notes.
        removable: Whether this process made the folder.
        branch: What was measured where the run branched, and values of methods that acted there; None for a run that does not
            start as a branch.
    """

    state: Mapping[str, Any] | None = None
    unfinished: Step | None = None
    remarks: Sequence[str] = ()
    removable: bool = False
    branch: Measurements | None = None

    @property
    def written(self) -> Mapping[str, Any] | None:
        """The state from which the folder's files continue; None for a new folder."""
        return self.state if self.branch is None else None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: The run folder.
        step: The stream's last step.
        finished: Whether it reached the planned steps.
        score: The last return per episode, or online accuracy; NaN before the first.
        summary: Lines for the user.
    """

    folder: Path
    step: int
    finished: bool
    score: float
    summary: Sequence[str]


def run(
    plan: Plan,
    folder: Path | None,
    overrides: Sequence[str],
    resume: bool = False,
    settings: Sequence[Path] = (),
    origin: BranchPoint | None = None,
) -> Outcome:
    """Trains, from the start, from the newest checkpoint of ``folder``, or from that of another run.

    Args:
        plan: What to run.
        folder: The run folder: created when starting, existing when resuming; None for one with a name of its own in ``runs``.
        overrides: Words of the command line, kept in the folder.
        resume: Whether to continue the run in the folder; from the start if it holds no checkpoint yet.
        settings: The user's YAML files that the plan came from; their hashes are kept in the folder.
        origin: Where another run is branched from; None for a run that is no branch.

    Raises:
        ValueError: If the plan cannot be run, the folder holds another run or is in use, or there is nothing to resume.
        FloatingPointError: If a loss or gradient is not finite; the last checkpoint is as it was.
        OSError: If a file cannot be written, as on a full disk; the last checkpoint is as it was.
        RuntimeError: If a ValueError is raised in training.
        KeyboardInterrupt: If the user stops it before there is anything to continue from.
    """
    with STOP.installed():
        if folder is not None and origin is not None and not resume and can_start_again(folder, overrides):
            with occupied(folder):  # by no other process, which may be about to save it
                remove_run_folder(folder)  # a branch is saved when it starts: this one had not started
        elif folder is not None and (resume or can_start_again(folder, overrides)):
            return _resume(plan, folder, overrides, settings)
        return _start(plan, folder, overrides, settings, origin)


def _start(
    plan: Plan, folder: Path | None, overrides: Sequence[str], settings: Sequence[Path], origin: BranchPoint | None
) -> Outcome:
    with STOP.reading():
        branch = None if origin is None else begin(plan, origin)
        assembly = assemble(plan) if branch is None else branch.assembly
    beginning = Beginning(removable=True)
    if branch is not None:
        beginning = Beginning(branch.state, branch.unfinished, removable=True, branch=branch.logs)
    with STOP.stepping():
        name = folder or default_run_dir(plan.config, grid=False)
        built = structure_hash(assembly.agent)
        folder, config = create_run_folder(
            name, plan.config, overrides, free_name=folder is None, settings=settings, structure=built
        )
        with occupied(folder), _saying_where(folder):
            return _train(replace(plan, config=config), folder, assembly, beginning)


def _resume(plan: Plan, folder: Path, overrides: Sequence[str], settings: Sequence[Path]) -> Outcome:
    with occupied(folder), _saying_where(folder):
        with STOP.reading():
            state = _load(plan, folder)
            assembly = assemble(plan)
            if state is not None:
                with _fitting(folder):
                    Tracker((), 1).load_state_dict(state["tracker"])  # before anything is written
                    unfinished = restore(state, folder, *assembly)
                    remarks = _remarks(state, folder, plan, assembly.agent)
        with STOP.stepping():
            if state is None:
                print(f"note: {folder} holds no checkpoint yet; the run starts from step 0", file=sys.stderr)
                start_again(folder, plan.config, overrides, settings, structure_hash(assembly.agent))
                return _train(plan, folder, assembly, Beginning())
            for line in remarks:
                print(f"warning: {line}", file=sys.stderr)
            discard_after(folder, state["step"])
            update_run_folder(folder, plan.config, overrides, state["step"], settings)
            return _train(plan, folder, assembly, Beginning(state, unfinished, remarks))


def _train(plan: Plan, folder: Path, assembly: Assembly, beginning: Beginning) -> Outcome:
    stream = assembly.stream
    resumed = len(known_of(folder).get("resumed", ()))
    status = StatusFile(folder, lambda: stream.step, plan.run.steps, resumed)
    with status.kept():
        outcome = _tracked(plan, folder, assembly, beginning, status)
        status.end(FINISHED if outcome.finished else STOPPED)
    return outcome


def _tracked(plan: Plan, folder: Path, assembly: Assembly, beginning: Beginning, status: StatusFile) -> Outcome:
    agent, stream, observers = assembly
    state, written = beginning.state, beginning.written
    step = None if written is None else int(written["step"])
    board = TensorBoardWriter(folder, step, written["tracker"]["latest"] if written else ())
    tables = CsvWriter(folder / "metrics.csv", step, written["files"] if written else {})
    writers: list[Writer] = [tables, ArrayWriter(folder / ARRAYS, step), board, status]
    bar = ProgressWriter(plan.run.steps, stream.step) if plan.run.progress else None
    writers += [] if bar is None else [bar]
    moved = None if bar is None else bar.move
    tracker = Tracker(writers, plan.run.log_every_steps, notes=folder / "notes.log", text=board.text, moved=moved)
    if written is None:
        board.hparams({**_choices(plan), **dict(_flatten(plan.config))}, _SHOWN_WITH_HPARAMS)
    watching = Observers(observers, tracker)
    saver = RunSaver(folder, plan.checkpoint, plan.config, agent, stream, tracker, observers, tables, beginning.removable, status)
    with saver, tracker:
        if state is not None:
            tracker.load_state_dict(state["tracker"])
        for line in beginning.remarks:
            tracker.remark("resume", line)
        for line in getattr(stream, "notes", ()):
            tracker.note("env", line)
        if written is None and (line := without_updates(plan)):
            print(f"note: {line}", file=sys.stderr)
            tracker.note("agent", line)
        if "evaluation" in observers:
            tracker.note("evaluation", protocol(plan.evaluation, plan.env, stream))
        if written is None:
            STOP.raise_if_asked()
        if beginning.branch is not None:  # from here on it has its own files: its parent may be moved or deleted
            if beginning.branch:
                tracker.write_measured(stream.step, beginning.branch)
            saver.save(beginning.unfinished)
        try:
            finished = train(agent, stream, watching, tracker, saver, plan.run.steps, beginning.unfinished)
        except ValueError as error:  # no longer an error of the command line: the traceback is needed
            raise RuntimeError(f"at step {stream.step} of {folder}: {error}") from error
        if finished:
            saver.save()
            tracker.finish()
    stream.close()
    score = tracker.latest.get("rollout/return", tracker.latest.get("online/accuracy", float("nan")))
    return Outcome(folder, stream.step, finished, score, summary_lines(folder, watching.seconds))


@contextmanager
def _saying_where(folder: Path) -> Iterator[None]:
    """Adds the run folder to the message of an error that ends a run and is not a mistake of the user."""
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


def _load(plan: Plan, folder: Path) -> dict[str, Any] | None:
    """Returns the state to continue from, or None without a checkpoint."""
    path = latest_checkpoint(folder)
    if path is None and "branch" in plan.config:
        raise ValueError(f"resume={folder}: the branch was ended before it was saved; start it again with branch.run=")
    if path is None:
        return None
    state = load_checkpoint(path)
    require_run(state, PARTS, f"resume={folder}")
    require_same_run(state["config"], plan.config)
    with _fitting(folder):
        complete = _is_complete(state, folder, plan.run.steps)
    if complete:
        raise ValueError(f"resume={folder} is at step {state['step']} of steps={plan.run.steps} already; give a larger steps=")
    return state


def _is_complete(state: Mapping[str, Any], folder: Path, steps: int) -> bool:
    """Returns whether a run is over: its last step, and the means of its last interval, written after the checkpoint."""
    if state["step"] != steps:
        return bool(state["step"] > steps)
    means = state["tracker"]["means"]
    left = any(means[name] for name in ("pending", "counts", "undefined", "rich"))
    table = folder / "metrics.csv"
    written = not left or (table.exists() and table.stat().st_size > state["files"]["metrics.csv"][0])
    return written and state["unfinished"] is None


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Raises, in one line, for what a checkpoint lacks, or for its form being another than this run's."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"resume={folder}: the checkpoint has no {error}; another version of this program made it") from error
    except (TypeError, RuntimeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"resume={folder}: the checkpoint does not fit this run: {reason}") from error


def _remarks(state: Mapping[str, Any], folder: Path, plan: Plan, agent: Agent) -> list[str]:
    """Returns what is no longer as it was when the run was left: files that were lost or edited, and the machine."""
    config, notes = config_remark(folder), folder / "notes.log"
    lines = [] if config is None else [config]
    lines += table_remarks(folder, state["files"])
    if state["tracker"]["noted"] and not notes.exists():
        lines.append(f"{notes} is missing: what the run noted before is lost")
    device, known = device_of(agent).type, known_of(folder)
    changes = differences((known.get("resumed") or [known])[-1], provenance(plan.run.plugins))
    if device != state["device"]:
        changes.insert(0, f"device was {state['device']}, is {device}, and its generators start from derived seeds")
    if changes:
        lines.append(f"from here on the run is not the same bit for bit: {'; '.join(changes)}")
    return lines


def require_same_run(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raises ValueError, with both sides named, unless two configs differ only in what may change when a run is resumed.

    Names and order of the interventions come first, because they are clearer than their settings one by one.
    """
    before, now = (",".join(config["interventions"]) for config in (saved, requested))
    if before != now:
        raise ValueError(f"checkpoint has intervention=[{before}], command line has intervention=[{now}]")
    require_match(saved, requested, MAY_CHANGE)


def _choices(plan: Plan) -> dict[str, str | int]:
    """Names what distinguishes runs so that it comes first in TensorBoard's table, which is in alphabetical order."""
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
