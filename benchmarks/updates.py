"""Times the hot paths in turn on one thread and prints tables of medians: ``python -m benchmarks.updates``."""

import argparse

import torch

from benchmarks.loop import loop
from benchmarks.nature_dqn import nature_dqn
from benchmarks.online_steps import RATES, online_steps


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--only", choices=["online", "dqn", "loop"], help="one table")
    parser.add_argument("--optimizer", choices=list(RATES), default="sgd", help="of the table online")
    parser.add_argument("--methods", default="continual_backprop", help="of the table online, separated by commas")
    parser.add_argument("overrides", nargs="*", help="settings of the default loop, such as env.num_envs=4")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only in (None, "online"):
        print(online_steps(given.rounds, given.optimizer, given.methods.split(",")), end="\n\n", flush=True)
    if given.only in (None, "dqn"):
        print(nature_dqn(given.rounds), end="\n\n", flush=True)
    if given.only in (None, "loop"):
        print(loop(given.rounds, given.overrides))


if __name__ == "__main__":
    main()
