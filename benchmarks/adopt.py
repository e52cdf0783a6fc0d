"""Times a DQN loop whose network is adopted relative to the same loop without: ``python -m benchmarks.adopt``.

The loop is CleanRL's: 4-120-84-2 with ReLU, Adam, batches of 128, an action every step. Its observations are random ones of the
size of CartPole's, so that no time of an environment makes the difference look smaller. The adopted one has ReDo every 1,000
updates, and measures the dormant fraction every 1,000 steps on a batch.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from statistics import median
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from plasticity.adopt import adopt, measure
from plasticity.interventions.methods.redo import ReDo

_OBSERVATION, _ACTIONS, _BATCH, _CAPACITY, _DISCOUNT = 4, 2, 128, 10_000, 0.99
_TARGET_EVERY, _MEASURE_EVERY, _RESET_EVERY = 500, 1000, 1000
_TURN: Final = 50
PLAIN, AGAIN, HOOKED, ADOPTED = "plain", "plain again", "adopted, ReDo", "adopted, ReDo and dormant_fraction"
TARGET: Final = 1.03


def loop(train_every: int, adopted: bool, measured: bool) -> Iterator[None]:
    """Goes on for ever, a step of the environment at a time.

    Args:
        train_every: Steps between updates; 10 in CleanRL.
        adopted: Whether the network is adopted with ReDo.
        measured: Whether the dormant fraction is measured.
    """
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    online, target = _network(), _network()
    target.load_state_dict(online.state_dict())
    optimizer: torch.optim.Optimizer = torch.optim.Adam(online.parameters(), lr=2.5e-4)
    if adopted:
        optimizer = adopt(online, optimizer, [ReDo(every_updates=_RESET_EVERY)], torch.zeros(2, _OBSERVATION))
    observations = draw.standard_normal((_CAPACITY + 1, _OBSERVATION)).astype(np.float32)
    actions = draw.integers(0, _ACTIONS, (_CAPACITY, 1))
    rewards = np.ones(_CAPACITY, np.float32)
    step = 0
    while True:
        step += 1
        with torch.no_grad():
            actions[step % _CAPACITY] = int(online(torch.as_tensor(observations[step % _CAPACITY][None])).argmax())
        if step % train_every == 0:
            rows = draw.integers(0, _CAPACITY, _BATCH)
            with torch.no_grad():
                goal = torch.as_tensor(rewards[rows]) + _DISCOUNT * target(torch.as_tensor(observations[rows + 1])).amax(1)
            values = online(torch.as_tensor(observations[rows])).gather(1, torch.as_tensor(actions[rows])).squeeze(1)
            loss = functional.mse_loss(values, goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step % _TARGET_EVERY == 0:
            target.load_state_dict(online.state_dict())
        if measured and step % _MEASURE_EVERY == 0:
            measure(online, torch.as_tensor(observations[:_BATCH]), ["dormant_fraction"], optimizer=optimizer)
        yield


def ratios(train_every: int, steps: int, rounds: int) -> dict[str, float]:
    """Returns the median over rounds of processor time relative to the plain loop's in the same round, by name.

    Within a round the loops take turns of few steps, so that what else the machine does slows all of them alike.
    """
    loops = {
        PLAIN: loop(train_every, adopted=False, measured=False),
        AGAIN: loop(train_every, adopted=False, measured=False),  # how far apart two measurements of the same are
        HOOKED: loop(train_every, adopted=True, measured=False),
        ADOPTED: loop(train_every, adopted=True, measured=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds + 1):
        spent = dict.fromkeys(loops, 0.0)
        for _ in range(steps // _TURN):
            for name, steps_of_loop in loops.items():
                started = time.process_time()
                for _ in islice(steps_of_loop, _TURN):
                    pass
                spent[name] += time.process_time() - started
        for name, times in seconds.items():
            times.append(spent[name])
    return {name: median(a / b for a, b in zip(times[1:], seconds[PLAIN][1:], strict=True)) for name, times in seconds.items()}


def _network() -> nn.Sequential:
    hidden = [nn.Linear(_OBSERVATION, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(84, _ACTIONS))


def main(words: list[str] | None = None) -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4000, help="steps a round")
    parser.add_argument("--train-every", default="10,1", help="steps between updates, separated by commas; 10 in CleanRL")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    print(f"processor time relative to the plain loop, median of {given.rounds} rounds in turn; the target is at most {TARGET}")
    for train_every in map(int, given.train_every.split(",")):
        for name, ratio in ratios(train_every, given.steps, given.rounds).items():
            print(f"an update every {train_every} steps, {name}: {ratio:.3f}")


if __name__ == "__main__":
    main()
