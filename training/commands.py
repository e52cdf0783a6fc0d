"""What a command line asks for: help, lists, one run, a grid, or an evaluation."""

import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from plasticity.settings.plugins import load_plugins
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import (
    Request,
    check_command_line,
    fail,
    forget_hydra,
    name_folders_by_sweep,
    plugin_places,
    quoted,
    with_absolute_plugins,
)
from plasticity.training.config.config_store import register_configs
from plasticity.training.config.grid import grid_run, run_grid
from plasticity.training.config.listing import help_text, list_lines
from plasticity.training.config.settings import plan_from
from plasticity.training.entry import program
from plasticity.training.evaluation.checkpoint_evaluation import evaluate_run
from plasticity.training.run import Outcome, run
from plasticity.training.saving.resuming import resumed_request
from plasticity.training.saving.run_folder import create_grid_folder, default_run_dir
from plasticity.training.stopping import EXIT_CODE, unmasked

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_FULL_ERROR = "HYDRA_FULL_ERROR"
_SHOW_TRACEBACKS = bool(os.environ.get(_FULL_ERROR))
_PRINTING_FLAGS = ("--cfg", "--info", "--resolve", "--package", "--hydra-help", "--version")


def dispatch(arguments: list[str]) -> int:
    """Does what the command line asks; returns the exit code."""
    try:
        with unmasked():
            return _do(arguments)
    except (ValueError, HydraException) as error:
        if _SHOW_TRACEBACKS:
            raise
        return fail(error)
    except (FloatingPointError, OSError) as error:
        if _SHOW_TRACEBACKS:
            raise
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_CODE


def _do(arguments: list[str]) -> int:
    listing = [word.partition("=")[2] for word in arguments if word.startswith("list=")]
    if listing or "--help" in arguments or "-h" in arguments:
        load_plugins(plugin_places(arguments))
        print("\n".join(list_lines(listing[0], CONFIGS)) if listing else help_text(CONFIGS))
        return 0
    if any(word.partition("=")[0] in _PRINTING_FLAGS for word in arguments):
        check_command_line([word for word in arguments if "=" in word and not word.startswith("-")], CONFIGS)
        return _hydra(arguments)
    resumed = [word.partition("=")[2] for word in arguments if word.startswith("resume=")]
    if resumed and resumed[0] != "null":
        words = [word for word in arguments if not word.startswith("resume=")]
        request, folder = resumed_request(Path(resumed[0]), words, CONFIGS), Path(resumed[0])
        if request.config["mode"] == "evaluate":
            print("\n".join(evaluate_run(plan_from(request.config), folder)))
            return 0
        return _single(request, folder, resume=True)
    request = check_command_line(arguments, CONFIGS)
    if any(config["mode"] == "evaluate" for config in request.configs):
        raise ValueError("mode=evaluate plays with a checkpoint of one run; give its folder, resume=<run folder>")
    given = request.config["run_dir"]
    if request.multirun:
        _refuse_impossible_runs(request)
        default = default_run_dir(request.config, grid=True)
        absent = [path for path in default.parents if not path.exists()]
        folder = Path(given) if given else create_grid_folder(default)
        words = [word for word in arguments if not word.startswith("run_dir=")]
        words = [*words, f"run_dir={quoted(str(folder))}", name_folders_by_sweep(request)]
        return run_grid(folder, lambda: _hydra(words), made=[] if given else [folder, *absent])
    return _single(request, Path(given) if given else None)


def _refuse_impossible_runs(request: Request) -> None:
    """Builds the runs of a grid once, on this machine's CPU, so that what does not fit together is refused before any starts."""
    for config in request.configs:
        assemble(plan_from(config | {"device": "cpu"})).stream.close()


def _single(request: Request, folder: Path | None, resume: bool = False) -> int:
    words = with_absolute_plugins(request.overrides)
    config = request.config if folder is None else request.config | {"run_dir": str(folder)}
    outcome = run(plan_from(config), folder, words, resume)
    _report(outcome)
    return 0 if outcome.finished else EXIT_CODE


def _report(outcome: Outcome) -> None:
    folder = outcome.folder
    if outcome.finished:
        print(f"\nDone, {outcome.step} steps.", *outcome.summary, sep="\n")
    else:
        print(f"\nStopped at step {outcome.step} and saved. Go on with:\n  {program()} {shlex.quote(f'resume={folder}')}")
    print(
        f"  {'run folder':<30}{folder}\n  {'watch it':<30}tensorboard --logdir {folder.parent}, "
        "then open http://localhost:6006/#custom_scalars"
    )


def _hydra(arguments: list[str]) -> int:
    """Hands over to Hydra: grids with its launchers, and its own flags."""
    register_configs()
    forget_hydra()
    before = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"  # Hydra then raises errors, and does not print them over many lines
    # Hydra wants its flags before the overrides; a user writes them anywhere.
    sys.argv = [sys.argv[0], *sorted(arguments, key=lambda word: not word.startswith("-") and ("=" in word or "~" in word))]
    try:
        _job()
    finally:
        os.environ.pop(_FULL_ERROR)
        if before is not None:
            os.environ[_FULL_ERROR] = before
    return 0


@hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
def _job(config: DictConfig) -> float:
    """One run of a grid; returns the last return or accuracy, which sweepers that optimise ask for."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return grid_run({str(key): value for key, value in values.items()})
