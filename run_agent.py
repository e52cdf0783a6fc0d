"""Trains an agent: ``python run_agent.py --help``."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from interventions.plugins import load_plugins
from training.command_line import Request, check_command_line, fail, forget_hydra, name_folders_by_sweep
from training.config_store import register_configs
from training.listing import help_text, list_lines
from training.resuming import resumed_request
from training.run import Outcome, run
from training.run_folder import default_run_dir
from training.settings import plan_from

CONFIGS = Path(__file__).resolve().parent / "configs"


def main(arguments: list[str]) -> int:
    """Does what the command line asks; returns the exit code."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text(CONFIGS))
        return 0
    try:
        listing = [word.partition("=")[2] for word in arguments if word.startswith("list=")]
        if listing:
            print("\n".join(list_lines(listing[0], CONFIGS)))
            return 0
        if any(word.startswith("--") and word != "--multirun" for word in arguments):
            return _hydra(arguments)
        resumed = [word.partition("=")[2] for word in arguments if word.startswith("resume=")]
        if resumed and resumed[0] != "null":
            words = [word for word in arguments if not word.startswith("resume=")]
            return _single(resumed_request(Path(resumed[0]), words, CONFIGS), Path(resumed[0]), resume=True)
        request = check_command_line(arguments, CONFIGS)
        folder = Path(request.config["run_dir"] or default_run_dir(request.config, request.multirun))
        if request.multirun:
            return _hydra([*arguments, f"run_dir={folder}", name_folders_by_sweep(request)])
        return _single(request, folder)
    except (ValueError, TypeError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        fail(error)
    return 2


def _single(request: Request, folder: Path, resume: bool = False) -> int:
    try:
        outcome = run(plan_from(request.config), folder, request.overrides, resume)
    except FloatingPointError as error:
        print(f"stopped: {error}. The run, up to its last checkpoint, is in {folder}", file=sys.stderr)
        return 1
    _report(outcome, folder)
    return 0 if outcome.finished else 130


def _report(outcome: Outcome, folder: Path) -> None:
    if outcome.finished:
        print(f"\nDone, {outcome.step} steps.", *outcome.summary, sep="\n")
    else:
        print(f"\nStopped at step {outcome.step} and saved. Go on with:\n  python run_agent.py resume={folder}")
    print(
        f"  {'run folder':<30}{folder}\n  {'watch it':<30}tensorboard --logdir {folder.parent}, "
        "then open http://localhost:6006/#custom_scalars"
    )


def _hydra(arguments: list[str]) -> int:
    """Hands over to Hydra: grids with its launchers, and its own flags."""
    register_configs()
    forget_hydra()
    sys.argv = [sys.argv[0], *arguments]
    _job()
    return 0


@hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
def _job(config: DictConfig) -> float:
    """One run of a grid; returns the last return or accuracy, which sweepers that optimise ask for."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    load_plugins(plain["plugins"])
    folder = Path(HydraConfig.get().runtime.output_dir)
    plain |= {"run_dir": str(folder), "progress": False}
    if plain["threads"] == "auto":
        plain["threads"] = "1"  # the runs of a grid share the machine
    outcome = run(plan_from(plain), folder, list(HydraConfig.get().overrides.task))
    print(f"{folder}: {outcome.step} steps")
    return outcome.score


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
