"""What the user sees while a run is in progress, and when it ends."""

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from plasticity.metrics.log_values import Rich

_SHOWN: Final = {
    "return": "rollout/return",
    "accuracy": "online/accuracy",
    "mean": "task/mean_online_accuracy",
    "test": "task/test_accuracy",
    "loss": "task/online_loss",
    "dormant": "plasticity/dormant_fraction",
}
_SECONDS_BETWEEN_MOVES: Final = 1.0
_WHOLE_FROM: Final = 100  # steps a second from which on no digit after the point is shown
_SPEED: Final = "time/steps_per_second"


class ProgressWriter:
    """A progress bar on stderr; a writer of the tracker, which also reports every step to it.

    It moves once a second, or with each step that takes longer. It shows steps per second, return or accuracy (of a supervised
    learner also its mean over the tasks, that on the last task's test set, and the last task's online loss), and the dormant
    fraction.
    """

    def __init__(self, total_steps: int, step: int) -> None:
        # miniters=1: after fast steps tqdm would otherwise check the clock rarely, and stand still in slow ones.
        times = {"mininterval": _SECONDS_BETWEEN_MOVES, "miniters": 1}
        self._bar = tqdm(total=total_steps, initial=step, unit="step", file=sys.stderr, dynamic_ncols=True, **times)
        self._values: dict[str, str] = {}

    def move(self, step: int) -> None:
        """Moves the bar to ``step``; on the screen if a second has passed since it last moved there."""
        self._bar.update(step - self._bar.n)

    def write(self, step: int, scalars: Mapping[str, float], rich: Mapping[str, Rich]) -> None:
        """Takes the values to show from now on, and moves the bar to ``step``."""
        self._values |= {label: f"{scalars[name]:.3g}" for label, name in _SHOWN.items() if name in scalars}
        self._bar.set_postfix(self._values, refresh=False)
        self.move(step)

    def flush(self) -> None:
        """Redraws the bar."""
        self._bar.refresh()

    def close(self) -> None:
        """Leaves the bar on the screen."""
        self._bar.close()


def summary_lines(folder: Path, seconds: Mapping[str, float]) -> list[str]:
    """Returns the closing summary of a run, from its ``metrics.csv``.

    Args:
        folder: The run folder; a run that ended before its first line has no ``metrics.csv``.
        seconds: Time that each observer took in this process, by name.
    """
    path = folder / "metrics.csv"
    logged = _logged(path) if path.exists() else {}
    first, last = ({name: points[end][1] for name, points in logged.items()} for end in (0, -1))

    def change(name: str) -> str:
        if last[name] != last[name]:
            return f"none: {_reason(folder, name)}"
        earlier = f"at first {first[name]:.3g}" if len(logged[name]) > 1 else "measured once"
        return f"{last[name]:.3g} ({earlier})"

    def averaged(name: str) -> str:
        mean = last.get(name.replace("/", "/mean_"), math.nan)
        return change(name) if math.isnan(mean) else f"{change(name)}, mean of the tasks {mean:.3g}"

    rows = {
        "return per episode": ("rollout/return", change),
        "return in evaluation": ("eval/return", change),
        "online accuracy": ("online/accuracy", change),
        "online accuracy of a task": ("task/online_accuracy", averaged),
        "test accuracy of a task": ("task/test_accuracy", averaged),
        "  beyond a fresh network's": ("relative/test_accuracy", change),
        "forward transfer": ("task/forward_transfer", averaged),
        "online loss": ("online/loss", change),
        "online loss of a task": ("task/online_loss", averaged),
        "dormant fraction (tau 0.025)": ("plasticity/dormant_fraction", change),
        "effective rank, last layer": ("plasticity/effective_rank", change),
    }
    lines = [f"  {label:<30}{show(name)}" for label, (name, show) in rows.items() if name in last]
    if "probe/relative_loss" in last:
        loss, fresh, ratio = (last[f"probe/{key}"] for key in ("loss", "fresh_loss", "relative_loss"))
        lines.append(f"  {'probe loss':<30}{loss:.3g}, {ratio:.3g} times a fresh network's {fresh:.3g}")
        lines.append(f"  {'probe variance explained':<30}{change('probe/explained_variance')}")
    if not math.isnan(speed := _mean_speed(logged.get(_SPEED, []))):
        shown = f"{speed:.0f}" if speed >= _WHOLE_FROM else f"{speed:.3g}"
        lines.append(f"  {'steps per second':<30}{shown}, mean of the run, without measurements")
    apart = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return [*lines, f"  {'time of measurements':<30}{apart}"]


def _reason(folder: Path, name: str) -> str:
    """Returns why a name has no value, according to the run's notes."""
    notes = folder / "notes.log"
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
    found = [line.partition(f": {name}: ")[2] for line in lines if f": {name}: " in line]
    return found[-1] if found else "see notes.log"


def _mean_speed(points: Sequence[tuple[int, float]]) -> float:
    """Returns steps per second over all intervals together; NaN without one that was timed.

    Args:
        points: The last step of every interval, and the mean speed within it.
    """
    steps, seconds, before = 0, 0.0, 0
    for step, speed in points:
        if speed > 0:  # neither nan
            steps, seconds = steps + step - before, seconds + (step - before) / speed
        before = step
    return steps / seconds if seconds else math.nan


def _logged(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns steps and values by name, in the order of the file."""
    values: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                point = int(row["step"]), float(row["value"])
            except (TypeError, ValueError):  # a damaged line is no reason to end a finished run with an error
                continue
            values.setdefault(row["name"], []).append(point)
    return values
