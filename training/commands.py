"""Does what a command line asks for: one run, a grid, an evaluation, or a text."""

import os
import shlex
import sys
from dataclasses import replace

from hydra.errors import HydraException

from plasticity.training.assembly import assemble
from plasticity.training.branching.grid import BranchRun
from plasticity.training.config.grid import GridRun, launch, run_grid
from plasticity.training.config.parsing import Command, Evaluate, Grid, Report, Show, Train, parse
from plasticity.training.entry import program
from plasticity.training.evaluation.checkpoint_evaluation import evaluate_run
from plasticity.training.run import Outcome, run
from plasticity.training.saving.run_folder import create_grid_folder, default_run_dir
from plasticity.training.stopping import EXIT_CODE, unmasked
from plasticity.training.studies.asking import Study

_SHOW_TRACEBACKS = bool(os.environ.get("HYDRA_FULL_ERROR"))


def dispatch(arguments: list[str]) -> int:
    """Does what the command line asks; returns the exit code."""
    try:
        with unmasked():
            return perform(parse(arguments))
    except (ValueError, HydraException) as error:
        if _SHOW_TRACEBACKS:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (FloatingPointError, OSError) as error:
        if _SHOW_TRACEBACKS:
            raise
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_CODE


def perform(command: Command) -> int:
    """Does it; returns the exit code: 0, 1 if a run of a grid failed, 130 if the user stopped it."""
    match command:
        case Show(text):
            print(text)
            return 0
        case Evaluate(plan, folder):
            print("\n".join(evaluate_run(plan, folder)))
            return 0
        case Report(folders, out, bundle, baseline):
            from plasticity.training.reports.report import report  # draws and tabulates: no other command needs its libraries

            print(f"The report is {report(folders, out, bundle, baseline)}")
            return 0
        case Train(plan, words, given, resume, settings, origin):
            outcome = run(plan, given, words, resume, settings, origin)
            _report(outcome)
            return 0 if outcome.finished else EXIT_CODE
        case Grid(runs, said, notes, launcher, plans, given, own, branches):
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
            for plan in (
                () if branches else plans
            ):  # built once, on this machine's CPU, so that what does not fit is refused before any run starts
                assemble(replace(plan, run=replace(plan.run, device="cpu"))).stream.close()
            default = default_run_dir(plans[0].config, grid=True)
            absent = [path for path in default.parents if not path.exists()]
            folder = given or create_grid_folder(default)
            task = BranchRun(said, own) if branches else GridRun(said, own)
            return run_grid(folder, lambda: launch(runs, task, folder, launcher), made=[] if given else [folder, *absent])
        case Study():
            from plasticity.training.studies.running import run_study

            return run_study(command)


def _report(outcome: Outcome) -> None:
    folder = outcome.folder
    if outcome.finished:
        print(f"\nDone, {outcome.step} steps.", *outcome.summary, sep="\n")
    else:
        print(f"\nStopped at step {outcome.step} and saved. Continue with:\n  {program()} {shlex.quote(f'resume={folder}')}")
    print(
        f"  {'run folder':<30}{folder}\n  {'watch it':<30}tensorboard --logdir {folder.parent}, "
        "then open http://localhost:6006/#custom_scalars"
    )
