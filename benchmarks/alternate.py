"""Timing several programs in turn, so that a machine whose speed drifts slows all of them equally."""

import time
from collections.abc import Callable, Mapping
from statistics import median


def alternate(
    programs: Mapping[str, Callable[[], object]], rounds: int, clocks: Mapping[str, Callable[[], float]] | None = None
) -> dict[str, list[float]]:
    """Runs every program once a round, in turn, after one round of warm-up.

    Args:
        programs: What to time, by name; each call does the same amount of work.
        rounds: Rounds that count.
        clocks: Clock of each program in seconds; None for that on the wall.

    Returns:
        Seconds of each round by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for round_ in range(rounds + 1):
        for name, program in programs.items():
            clock = time.perf_counter if clocks is None else clocks[name]
            started = clock()
            program()
            if round_ > 0:
                seconds[name].append(clock() - started)
    return seconds


def table(title: str, seconds: Mapping[str, list[float]], work: int, unit: str, references: Mapping[str, str]) -> str:
    """Returns lines with the median speed of each program and its time relative to another's in the same rounds.

    Args:
        title: First line.
        seconds: Seconds of each round by name.
        work: Units done in one call.
        unit: What they are, such as ``updates``.
        references: Headings of columns, each with the name of the program that is 1.
    """
    lines = [title, f"{'':<36}{unit + '/s':>12}" + "".join(f"{'time / ' + heading:>26}" for heading in references)]
    for name, times in seconds.items():
        ratios = [median(a / b for a, b in zip(times, seconds[other], strict=True)) for other in references.values()]
        lines.append(f"{name:<36}{work / median(times):>12.0f}" + "".join(f"{ratio:>26.2f}" for ratio in ratios))
    return "\n".join(lines)
