"""Timing two or more programs in turn, so that a machine whose speed drifts slows all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median


def alternate(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Runs every program once a round, in turn, after one round of warm-up.

    Args:
        programs: What to time, by name; each call does the same amount of work.
        rounds: Rounds that count.

    Returns:
        Seconds of each round by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for round_ in range(rounds + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            program()
            if round_ > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: list[float], reference: list[float]) -> float:
    """Returns the median over rounds of a program's time relative to the reference's in the same round."""
    return median(ours / theirs for ours, theirs in zip(seconds, reference, strict=True))
