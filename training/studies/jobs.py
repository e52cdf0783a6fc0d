"""One run of a study, in the process in which a launcher starts it."""

import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from plasticity.settings.plugins import load_plugins
from plasticity.training.branching.planning import branch_plan
from plasticity.training.branching.point import BranchPoint
from plasticity.training.config.command_line import Composer, chosen_files, method_of
from plasticity.training.config.config_store import CHOICES
from plasticity.training.config.grid import sharing_the_machine
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.saving.checkpoint import latest_checkpoint
from plasticity.training.saving.identity import identity
from plasticity.training.saving.provenance import plugin_hashes
from plasticity.training.studies.branches import absolute
from plasticity.training.studies.cells import Cell
from plasticity.training.studies.folder import FAILED, FINISHED, SKIPPED, STARTED, STOPPED, StudyFolder
from plasticity.training.studies.states import BUSY, INTERRUPTED, state_of

_NAN = float("nan")


@dataclass(frozen=True)
class StudyJob:
    """Does one run of a study, here or in another process; the others continue even if it fails.

    Attributes:
        folder: The study's.
        cells: The runs, in the order in which the launcher numbers them.
        retry: Whether runs that failed are run again.
        own: Folder of the user's YAML files.
    """

    folder: Path
    cells: tuple[Cell, ...]
    retry: bool
    own: Path | None = None

    def __call__(self, config: DictConfig) -> float:
        """Plans and runs what Hydra composed; returns the last return or accuracy, NaN if there is none.

        Raises:
            KeyboardInterrupt: If it was stopped: to stop one run is to stop the study.
        """
        cell, study = self.cells[int(HydraConfig.get().job.num)], StudyFolder(self.folder)
        with study.taken(cell) as mine:
            if not mine:
                return _skipped(study, cell, BUSY)
            try:
                plan, point = self._planned(cell, config)
                _require_planned(cell, plan)
                state = state_of(cell, plan.config, study, study.last_events().get(cell.place, {}), mine=True)
                if not state.runs(self.retry):
                    return _skipped(study, cell, state.name)  # another process has done it in the meantime
                study.note(cell, STARTED, state.message if state.name == INTERRUPTED else "")
                return self._run(study, cell, plan, point)
            except (Exception, SystemExit) as error:  # plugins and other libraries run here too, and may raise anything
                if not isinstance(error, ValueError | FloatingPointError | OSError):
                    traceback.print_exc()
                message = " ".join(str(error).split()) or type(error).__name__
                print(f"stopped: {cell.label}: {message}", file=sys.stderr)
                study.note(cell, FAILED, message)
                return _NAN

    def _planned(self, cell: Cell, config: DictConfig) -> tuple[Plan, BranchPoint | None]:
        """Returns the plan of a run, and where it starts if it is a branch, of which Hydra has composed nothing."""
        place = {"run_dir": str(self.folder / cell.place)}
        if cell.origin is not None:
            plan, point = branch_plan(absolute(cell.words, self.folder), Composer(own=self.own))
            return replace(plan, config=plan.config | place), point
        values: Any = OmegaConf.to_container(config, resolve=True)
        values |= place | {CHOICES: chosen_files(HydraConfig.get().runtime.choices, method_of(cell.words))}
        load_plugins(values["plugins"])
        return plan_from(values), None

    def _run(self, study: StudyFolder, cell: Cell, plan: Plan, point: BranchPoint | None) -> float:
        from plasticity.training.run import run  # imported here, because the study's own process may not need it

        folder = study.path / cell.place
        there = folder.exists() and any(folder.iterdir())
        again = there and (point is None or latest_checkpoint(folder) is not None)  # a branch is saved when it starts
        try:
            outcome = run(sharing_the_machine(plan), folder, list(cell.words), resume=again, origin=point)
        except KeyboardInterrupt:
            study.note(cell, STOPPED)
            raise
        except ValueError:
            newest = latest_checkpoint(folder)
            if newest is None or newest.stem != f"step_{cell.steps:09d}":
                raise
            study.note(cell, FINISHED, "it was complete, but not recorded as finished")
            return _NAN
        if not outcome.finished:
            study.note(cell, STOPPED, f"at step {outcome.step}")
            raise KeyboardInterrupt
        study.note(cell, FINISHED)
        print(f"{cell.label}: {outcome.step} steps", flush=True)
        return outcome.score


def _require_planned(cell: Cell, plan: Plan) -> None:
    if identity(plan.config, plugin_hashes(plan.run.plugins)) != cell.identity:
        raise ValueError(
            "its settings are no longer those that were planned: a YAML file or a plugin was edited in the meantime, or one "
            "refers to ${seed}, which a word of the study may do and a file may not"
        )


def _skipped(study: StudyFolder, cell: Cell, why: str) -> float:
    study.note(cell, SKIPPED, why)
    return _NAN
