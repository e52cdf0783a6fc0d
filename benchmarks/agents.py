"""Times whole training loops next to others in turn, each in its own process: ``python -m benchmarks.agents --rows dqn,sac``."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.agent_rows import ROWS
from benchmarks.alternate import alternate, table
from benchmarks.bare import BARE
from benchmarks.loop import looping
from benchmarks.stable_baselines import available, stable_baselines
from benchmarks.worker import Worker, serve

_BARE, _STABLE = "bare PyTorch loop", "Stable-Baselines3"


def main(words: Sequence[str] | None = None) -> None:
    """Prints a table for each row, or is one of the programs timed."""
    given = _parser().parse_args(words)
    torch.set_num_threads(1)
    if given.program:
        _serve(given.rows[0], given.program, given)
        return
    for name in given.rows:
        against = dict(entry.split("=", 1) for entry in given.against)
        print(_compare(name, given, against), end="\n\n", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help=f"some of {','.join(ROWS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--steps", type=int, help="environment steps of a round, instead of each row's own number")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="LABEL=COMMAND",
        help="one more program for every row; it prints ready, then for each line that it reads makes the steps and prints done",
    )
    parser.add_argument(
        "--clock", choices=["wall", "processor"], default="wall", help="processor: time on a processor, for a busy machine"
    )
    parser.add_argument("--program", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="settings of the testbed's runs, such as device=cuda")
    return parser


def _rows(names: str) -> list[str]:
    unknown = [name for name in names.split(",") if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown} unknown; choose from {', '.join(ROWS)}")
    return names.split(",")


def _compare(name: str, given: argparse.Namespace, against: dict[str, str]) -> str:
    row, steps = ROWS[name], given.steps
    labels = [_BARE] * (row.reference in BARE) + [_STABLE] * available(row.reference) + list(row.variants)
    commands = {label: [sys.executable, "-m", "benchmarks.agents", "--rows", name, "--program", label] for label in labels}
    commands = {label: [*command, *given.overrides] for label, command in commands.items()}
    if steps:
        commands = {label: [*command, "--steps", str(steps)] for label, command in commands.items()}
    commands |= {label: command.split() for label, command in against.items()}
    with ExitStack() as stack:
        workers = {label: stack.enter_context(Worker(command)) for label, command in commands.items()}
        clocks = {label: worker.processor_seconds for label, worker in workers.items()}
        seconds = alternate(workers, given.rounds, clocks if given.clock == "processor" else None)
    references = {label: label for label in (_BARE, _STABLE, *against) if label in seconds}
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    return table(f"{row.title} ({given.clock} time, {load})", seconds, steps or row.steps, "steps", references)


def _serve(name: str, label: str, given: argparse.Namespace) -> None:
    row = ROWS[name]
    count = given.steps or row.steps
    if label == _BARE:
        serve(BARE[row.reference](count))
    elif label == _STABLE:
        serve(stable_baselines(row.reference, count))
    else:
        with TemporaryDirectory() as place:
            serve(looping([*row.variants[label], *given.overrides], False, count, Path(place)))


if __name__ == "__main__":
    main()
