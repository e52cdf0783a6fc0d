"""How long each stage of a step takes, by clocks around the functions that do it."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final
from unittest.mock import patch

from plasticity.agents.dqn.agent import DQN
from plasticity.agents.ppo.agent import PPO
from plasticity.agents.replay.buffer import Replay
from plasticity.agents.sac.agent import SAC
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.optimizers.unit_adam import UnitAdam
from plasticity.training.tracking.tracker import Tracker
from plasticity.updates import updater
from plasticity.updates.update_function import UpdateFunction
from plasticity.updates.updater import Updater

# What a stage calls inside counts for the inner stage alone.
STAGES: Final[Mapping[str, tuple[tuple[Any, str], ...]]] = {
    "act": ((DQN, "act"), (PPO, "act"), (SAC, "act")),
    "environment": ((SyncVector, "step"),),
    "add": ((Replay, "add"),),
    "sample": ((Replay, "sample"),),
    "forward": ((Updater, "forward"), (Updater, "infer"), (Updater, "infer_with_graph")),
    "backward": ((updater, "backward"),),
    "step": ((UnitAdam, "step"),),
    "function": ((UpdateFunction, "__call__"),),
    "log": ((Tracker, "write"),),
}


def microseconds(program: Callable[[], object], steps: int, rounds: int = 5) -> dict[str, float]:
    """Returns microseconds of processor time of a step by stage, with ``rest`` and ``all``: those of the fastest of some rounds.

    Args:
        program: Makes ``steps`` steps.
        steps: How many.
        rounds: How often it is called; the first call does not count.
    """
    best: dict[str, float] = {}
    for round_ in range(rounds):
        spent = dict.fromkeys(STAGES, 0.0)
        with ExitStack() as stack:
            running: list[float] = []  # seconds of inner stages, for each stage that runs
            for stage, places in STAGES.items():
                for owner, name in places:
                    stack.enter_context(patch.object(owner, name, _timed(getattr(owner, name), stage, spent, running)))
            started = time.process_time()
            program()
            whole = time.process_time() - started
        numbers = {stage: seconds / steps * 1e6 for stage, seconds in spent.items()} | {"all": whole / steps * 1e6}
        numbers["rest"] = numbers["all"] - sum(spent.values()) / steps * 1e6
        if round_ and (not best or numbers["all"] < best["all"]):
            best = numbers
    return best


def _timed(function: Callable[..., Any], stage: str, spent: dict[str, float], running: list[float]) -> Callable[..., Any]:
    def timed(*values: Any, **named: Any) -> Any:
        running.append(0.0)
        started = time.process_time()
        try:
            return function(*values, **named)
        finally:
            whole = time.process_time() - started
            spent[stage] += whole - running.pop()
            if running:
                running[-1] += whole

    return timed
