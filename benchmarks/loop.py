"""What each thing in the loop costs: ``python -m benchmarks.loop``.

Runs the default agent on the bandit, plain and with one addition at a time, in turn, and prints steps per second and the time
relative to the plain loop. The probe is left out: a run reports its time apart.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.alternate import alternate, ratio
from interventions.registry import registered
from training.assembly import assemble
from training.command_line import compose_config
from training.csv_writer import CsvWriter
from training.loop import train
from training.observation import Observers
from training.settings import plan_from
from training.tensorboard_writer import TensorBoardWriter
from training.tracking import Tracker

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class _Never:
    """Saves nothing."""

    def after_step(self, before: int, step: int) -> bool:
        return False


def looping(words: list[str], observe: bool, steps: int, folder: Path) -> Callable[[], None]:
    """Assembles a run and returns a function that advances it by ``steps``."""
    agent, stream, observers = assemble(plan_from(compose_config(words, CONFIGS)))
    tracker = Tracker([CsvWriter(folder / "metrics.csv"), TensorBoardWriter(folder)], 500)
    watching = Observers({"metrics": observers["metrics"]} if observe else {}, tracker)
    train(agent, stream, watching, tracker, _Never(), 1200)  # past the warm-up of the replay
    return lambda: train(agent, stream, watching, tracker, _Never(), stream.step + steps)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count")
    parser.add_argument("overrides", nargs="*", help="settings for every run, such as env.environments=4")
    given = parser.parse_args()
    with TemporaryDirectory() as place:
        programs = {"plain": looping(given.overrides, False, given.steps, _folder(place, "plain"))}
        programs["metrics"] = looping(given.overrides, True, given.steps, _folder(place, "metrics"))
        for name in registered():
            words = [*given.overrides, f"intervention=[{name}]"]
            programs[name] = looping(words, False, given.steps, _folder(place, name))
        seconds = alternate(programs, given.rounds)
    print(f"{'addition':<22}{'steps/s':>9}{'time relative to plain':>25}")
    for name, times in seconds.items():
        print(f"{name:<22}{given.steps / median(times):>9.0f}{ratio(times, seconds['plain']):>25.3f}")


def _folder(place: str, name: str) -> Path:
    folder = Path(place) / name
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
