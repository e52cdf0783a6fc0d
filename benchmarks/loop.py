"""The cost of each addition to the loop: the default agent, plain and with one addition at a time.

The probe is left out: a run reports its time separately.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.alternate import alternate, table
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from
from plasticity.training.loop import train
from plasticity.training.observation import Observers
from plasticity.training.step import Step
from plasticity.training.tracking.csv_writer import CsvWriter
from plasticity.training.tracking.tensorboard_writer import TensorBoardWriter
from plasticity.training.tracking.tracker import Tracker

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_ACT_OFTEN = {  # methods that would otherwise wait for a task switch
    "reset": "every_updates=1000",
    "shrink_and_perturb": "every_updates=100",
    "adam_state_reset": "every_updates=100",
}


class _Never:
    """Saves nothing."""

    def before_step(self) -> None:
        pass

    def after_step(self, step: Step) -> bool:
        return False

    def save(self, unfinished: Step | None = None) -> None:
        pass


def loop(rounds: int, overrides: Sequence[str], steps: int = 1000) -> str:
    """Times the loop, plain and with the metrics at their default period or one intervention."""
    with TemporaryDirectory() as place:
        programs = {"plain": looping(overrides, False, steps, _folder(place, "plain"))}
        programs["metrics"] = looping(overrides, True, steps, _folder(place, "metrics"))
        for name in INTERVENTIONS:
            words = [*overrides, f"intervention=[{name}]"]
            if name in _ACT_OFTEN:
                words.append(f"interventions.{name}.{_ACT_OFTEN[name]}")
            programs[name] = looping(words, False, steps, _folder(place, name))
        seconds = alternate(programs, rounds)
    return table("The default loop, with one addition at a time", seconds, steps, "steps", {"plain": "plain"})


def looping(words: Sequence[str], observe: bool, steps: int, folder: Path) -> Callable[[], object]:
    """Assembles a run and returns a function that advances it by ``steps``."""
    agent, stream, observers = assemble(plan_from(compose_config(words, CONFIGS)))
    tracker = Tracker([CsvWriter(folder / "metrics.csv"), TensorBoardWriter(folder)], 500)
    watching = Observers({"metrics": observers["metrics"]} if observe else {}, tracker)
    train(agent, stream, watching, tracker, _Never(), 1200)  # past the warm-up of the replay
    return lambda: train(agent, stream, watching, tracker, _Never(), stream.step + steps)


def _folder(place: str, name: str) -> Path:
    folder = Path(place) / name
    folder.mkdir()
    return folder
