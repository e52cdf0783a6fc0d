"""The logs of updates, joined and named."""

from collections.abc import Sequence

import torch

from plasticity.interventions.base import Logs


def samples(logs: Sequence[Logs]) -> Logs:
    """Joins the logs of several updates: a number from each, as one tensor of samples per name."""
    if len(logs) <= 1:
        return logs[0] if logs else {}
    names = dict.fromkeys(name for entry in logs for name in entry)
    return {name: torch.stack([torch.as_tensor(entry[name]).float() for entry in logs if name in entry]) for name in names}


def by_part(logs: Logs, part: str) -> Logs:
    """Appends the part's name to what interventions log, for agents of several parts: ``redo/units_reset/actor``."""
    return {name if name.startswith("train/") else f"{name}/{part}": value for name, value in logs.items()}
