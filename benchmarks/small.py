"""Times DQN, PPO and SAC with networks of 2 x 128 next to bare PyTorch loops: ``python -m benchmarks.small``.

Each program is a process of its own on one thread; they take turns, and processor time is counted. With ``--stages`` it prints
how many microseconds of a step each stage takes instead.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Final

import torch

from benchmarks.alternate import alternate
from benchmarks.bare_cart_pole import bare_dqn_cart_pole
from benchmarks.bare_ppo import bare_ppo_cart_pole
from benchmarks.bare_sac import bare_sac
from benchmarks.loop import looping
from benchmarks.stages import STAGES, microseconds
from benchmarks.worker import Worker, serve

BARE: Final = "bare"
FORMS: Final[Mapping[str, tuple[str, ...]]] = {"eager": (), "compiled": ("compile=true",)}
BOUNDS: Final = {"eager": 0.9, "compiled": 0.5}
_NETWORK: Final = ("threads=1", "network.widths=[128,128]")


@dataclass(frozen=True)
class Row:
    """One agent.

    Attributes:
        words: Of the testbed's command line.
        bare: Returns the bare loop for a number of steps.
        file: Where that loop is.
        steps: Of the environment, in a round.
    """

    words: tuple[str, ...]
    bare: Callable[[int], Callable[[], None]]
    file: str
    steps: int


ROWS: Final[Mapping[str, Row]] = {
    "dqn": Row(
        (
            *_NETWORK,
            "env=gym",
            "env.id=CartPole-v1",
            "agent=dqn",
            "agent.batch_size=32",
            "agent.env_steps_per_update=1",
            "agent.warmup_env_steps=1000",
            "agent.buffer_transitions=20000",
            "agent.target_every_updates=500",
            "agent.epsilon_env_steps=1000",
            "agent.epsilon_end=0.05",
        ),
        bare_dqn_cart_pole,
        "bare_cart_pole.py",
        1000,
    ),
    "ppo": Row(
        (
            *_NETWORK,
            "env=gym",
            "env.id=CartPole-v1",
            "env.num_envs=4",
            "agent=ppo",
            "agent.rollout_steps=128",
            "agent.minibatch_size=128",
            "agent.epochs=4",
            "agent.entropy_coefficient=0.01",
            "network.activations=[tanh]",
            "optimizer.learning_rate=2.5e-4",
            "optimizer.epsilon=1e-5",
            "optimizer.max_gradient_norm=0.5",
        ),
        bare_ppo_cart_pole,
        "bare_ppo.py",
        2048,
    ),
    "sac": Row(
        (
            *_NETWORK,
            "env=gym",
            "env.id=Pendulum-v1",
            "agent=sac",
            "agent.batch_size=256",
            "agent.warmup_env_steps=1000",
            "agent.buffer_transitions=100000",
            "optimizer.learning_rate=3e-4",
        ),
        partial(bare_sac, env="Pendulum-v1", width=128),
        "bare_sac.py",
        300,
    ),
}


def main(words: Sequence[str] | None = None) -> int:
    """Prints the table, or is one of the programs; returns 1 if ``--check`` was given and a bound is exceeded."""
    given = _parser().parse_args(words)
    torch.set_num_threads(1)
    if given.program:
        return _work(given)
    if given.stages:
        for name in given.rows:
            print(_stage_table(name, given), end="\n\n", flush=True)
        return 0
    print(f"processor time / that of the bare loop: median [quartiles] of {given.rounds} rounds")
    print(f"{'2 x 128':<8}{BARE + ', us a step':>22}" + "".join(f"{form:>26}" for form in FORMS), flush=True)
    exceeded = [entry for name in given.rows for entry in _compare(name, given)]
    for line in exceeded:
        print(line, file=sys.stderr)
    return 1 if given.check and exceeded else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help=f"some of {','.join(ROWS)}; all by default")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--steps", type=int, help="environment steps of a round, instead of each row's own number")
    parser.add_argument("--stages", action="store_true", help="microseconds of each stage instead")
    parser.add_argument(
        "--check", action="store_true", help=f"exit 1 above {BOUNDS['eager']} eager or {BOUNDS['compiled']} compiled"
    )
    parser.add_argument("--program", help=argparse.SUPPRESS)
    return parser


def _rows(names: str) -> list[str]:
    unknown = [name for name in names.split(",") if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown} unknown; choose from {', '.join(ROWS)}")
    return names.split(",")


def _command(name: str, form: str, steps: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.small", "--rows", name, "--program", form, "--steps", str(steps), *more]


def _compare(name: str, given: argparse.Namespace) -> list[str]:
    """Prints a row, and returns a line for each bound that is exceeded."""
    row = ROWS[name]
    steps = given.steps or row.steps
    with ExitStack() as stack:
        workers = {form: stack.enter_context(Worker(_command(name, form, steps))) for form in (BARE, *FORMS)}
        clocks = {form: worker.processor_seconds for form, worker in workers.items()}
        seconds = alternate(workers, given.rounds, clocks)
    bare = seconds[BARE]
    cells, exceeded = [f"{sorted(bare)[len(bare) // 2] / steps * 1e6:.0f} ({row.file})"], []
    for form in FORMS:
        ratios = [own / other for own, other in zip(seconds[form], bare, strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
        if middle > BOUNDS[form]:
            exceeded.append(f"{name}: {form} takes {middle:.2f} of the bare loop's time, more than {BOUNDS[form]}")
    print(f"{name:<8}{cells[0]:>22}" + "".join(f"{cell:>26}" for cell in cells[1:]), flush=True)
    return exceeded


def _stage_table(name: str, given: argparse.Namespace) -> str:
    steps = given.steps or ROWS[name].steps
    measured = {
        form: json.loads(
            subprocess.run(_command(name, form, steps, "--stages"), capture_output=True, text=True, check=True).stdout
        )
        for form in FORMS
    }
    lines = [f"{name}, us a step", f"{'':<14}" + "".join(f"{form:>12}" for form in measured)]
    for stage in (*STAGES, "rest", "all"):
        lines.append(f"{stage:<14}" + "".join(f"{own.get(stage, 0.0):>12.1f}" for own in measured.values()))
    return "\n".join(lines)


def _work(given: argparse.Namespace) -> int:
    row = ROWS[given.rows[0]]
    if given.program == BARE:
        serve(row.bare(given.steps))
        return 0
    with TemporaryDirectory() as place:
        program = looping([*row.words, *FORMS[given.program]], False, given.steps, Path(place))
        if given.stages:
            print(json.dumps(microseconds(program, given.steps)))
        else:
            serve(program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
