"""Impossible sizes: the least memory that a run needs, compared with the machine's, before anything of the run is made.

Every need is a lower bound, and all of the machine's memory counts, used or not: nothing is refused that could run.
"""

import os
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Final

import torch

from plasticity.networks.spec import NetworkSpec
from plasticity.settings.fields import require_range
from plasticity.training.config.settings import Plan

_MOST_COPIES: Final = 65_536
_BYTES: Final = 4  # of a float32
_BYTES_OF_A_LAYER: Final = 4096  # of its Python objects
_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_COPIES: Final = {"sgd": 2, "rmsprop": 3, "muon": 3}  # of a weight in training: itself, its gradient, the optimizer's averages
_COPIES_OF_OTHERS: Final = 4
_CATEGORICAL: Final = ("two_hot", "hl_gauss", "categorical")


def refuse_impossible_counts(plan: Plan) -> None:
    """Refuses numbers of copies, and replays too small for what they must give, before a stream is built.

    Raises:
        ValueError: In one line that names the setting and what is allowed.
    """
    copies = getattr(plan.env, "num_envs", 1)
    require_range("env.num_envs", copies, 1, _MOST_COPIES)
    require_range("evaluation.num_envs", plan.evaluation.copies, 1, _MOST_COPIES)
    rows = getattr(plan.agent, "buffer_transitions", None)
    if rows is None:
        return
    drawn = {f"agent.{name}": getattr(plan.agent, name) for name in ("batch_size", "n_step")}
    for name, least in ({"env.num_envs": copies} | drawn).items():
        if rows < least:
            raise ValueError(f"agent.buffer_transitions={rows} must be at least {name}={least}")


def refuse_impossible_memory(plan: Plan, shape: tuple[int, ...], dtype: torch.dtype, frames: int, device: torch.device) -> None:
    """Refuses settings of which one alone needs more memory than the machine has.

    Args:
        plan: The run.
        shape: Of one input.
        dtype: Of the inputs.
        frames: Frames along an input's first axis, each of which is stored once; 1 for no stack.
        device: The learner's.

    Raises:
        ValueError: In one line that names the setting, its need, and what there is.
    """
    there = memory_there_is(device)
    for setting, need in {**_needs_of_data(plan, prod(shape) * dtype.itemsize, frames), **_needs_of_weights(plan, shape)}.items():
        if need > there:
            sizes = f"{need / 1e9:,.1f} GB of memory, and this machine has {there / 1e9:,.1f} GB"
            raise ValueError(f"{setting} needs at least {sizes}")


def _needs_of_data(plan: Plan, one: int, frames: int) -> dict[str, int]:
    """Returns bytes by setting; ``one`` is the size of an input, of which a replay stores one of ``frames`` parts."""
    rows = {
        "metrics.inputs": plan.metrics.inputs if plan.metrics.every_steps or plan.metrics.at_task_switch else 0,
        "probe.inputs": plan.probe.inputs if plan.probe.every_steps else 0,
    }
    needs = {f"{name}={count}": count * one for name, count in rows.items()}
    kept = {"batch_size": one, "rollout_steps": getattr(plan.env, "num_envs", 1) * (one + 2 * _BYTES)}
    for name, size in kept.items():
        count = getattr(plan.agent, name, 0)
        needs[f"agent.{name}={count}"] = count * size
    count = getattr(plan.agent, "buffer_transitions", 0)
    if getattr(plan.agent, "replay_folder", None) is None:
        needs[f"agent.buffer_transitions={count}"] = _replay_bytes(count, plan.run.steps, one // frames + 2 * _BYTES)
    return needs


def _replay_bytes(rows: int, steps: int, row: int) -> int:
    """Returns what a replay takes up: the system gives memory as it is written, but promises no more than its total."""
    everything = rows * row
    return everything if everything > physical_memory() else min(rows, steps) * row


def _needs_of_weights(plan: Plan, shape: tuple[int, ...]) -> dict[str, int]:
    """Returns bytes by setting; ``shape`` is that of an input."""
    agent = plan.agent
    needs: dict[str, int] = {}
    copies = _COPIES.get(plan.optimizer.name, _COPIES_OF_OTHERS)
    bins = getattr(agent, "bins", 0) if getattr(agent, "loss", getattr(agent, "value_loss", "")) in _CATEGORICAL else 0
    for where, spec in {"network": plan.network, **{f"network.parts.{n}": s for n, s in plan.network_parts.items()}}.items():
        said = {name: getattr(spec, name) for name in spec.sizes}
        told = " with ".join(f"{name}={value}" for name, value in said.items() if value) or f"torso={spec.torso}"
        needs[f"{where}.{told}"] = least_network_bytes(spec, shape, copies)
        needs[f"agent.bins={bins}"] = (bins or 0) * (spec.widths[-1] if spec.widths else 1) * _BYTES * copies
    streams = list(getattr(agent, "stream_widths", []))
    needs[f"agent.stream_widths={streams}"] = sum(map(prod, pairwise(streams))) * _BYTES * copies
    return needs


def least_network_bytes(spec: NetworkSpec, shape: tuple[int, ...], copies: int) -> int:
    """Returns a lower bound of the memory that a torso's weights take up in training.

    Args:
        spec: The torso.
        shape: Of one input.
        copies: Of each weight.
    """
    weights, layers = spec.least_weights(shape)
    return weights * _BYTES * copies + layers * _BYTES_OF_A_LAYER


def memory_there_is(device: torch.device) -> int:
    """Returns the bytes of a device, or of this machine, as far as this process may use them."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [physical_memory()]
    for path in map(Path, _LIMITS):
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            limits.append(int(text))
    return min(limits)


def physical_memory() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
