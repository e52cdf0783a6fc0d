"""Folders of a study of branches as the testbed writes them, made without running anything."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from run_folders import config_of, finished, write_run

REMEDIES: dict[str, list[str]] = {"unchanged": [], "redo": ["method=redo"], "fresh": ["method=reset_all"]}
STEPS = 100  # of a branch
Rows = list[tuple[int, str, float]]


def level_rows(step: int, value: float) -> Rows:
    """Rows of a branch whose return is the same in all its bins, from its second tenth on."""
    return [(step + 10 * k, "rollout/return", value) for k in range(1, 11)]


def write_study(
    folder: Path,
    outcome: Callable[[int, int, str, int], float | Rows],
    *,
    parents: int = 3,
    moments: Sequence[int] = (300,),
    remedies: Mapping[str, list[str]] = REMEDIES,
    repeats: int = 1,
    cells: Sequence[tuple[str, str]] = (("main", "none"),),
    at_branch: Callable[[int, int], Mapping[str, float]] = lambda parent, moment: {},
    report: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a study: trunks of as many steps as the last moment has, and branches of 100.

    Args:
        folder: Of the study.
        outcome: Return of all rows of a branch, or its rows, by parent, moment, remedy and repeat.
        parents: How many, from seed 0 on.
        moments: Steps.
        remedies: Words by name.
        repeats: Of each branch.
        cells: Conditions and methods of the trunks.
        at_branch: Values by name without ``at_branch/``, by parent and moment.
        report: The study's section; None for the mean return.
    """
    plan: list[tuple[object, ...]] = []
    for condition, method in cells:
        for parent in range(parents):
            config = config_of(parent, steps=max(moments), log_every_steps=10, interventions=_methods(method))
            trunk = folder / "runs" / condition / method / f"seed_{parent}"
            rows = [(step, "rollout/return", 0.5 + step / 10_000) for step in range(10, max(moments) + 1, 10)]
            write_run(trunk, config, rows, [f"method={method}", f"seed={parent}"], finished(max(moments)))
            plan.append((condition, method, parent, "", "", ""))
            keys = [(moment, name, k) for moment in moments for name in remedies for k in range(repeats)]
            for moment, name, k in keys:
                found = outcome(parent, moment, name, k)
                own = [(moment, f"at_branch/{key}", value) for key, value in at_branch(parent, moment).items()]
                own += level_rows(moment, found) if isinstance(found, int | float) else found
                place = folder / "branches" / condition / method / f"seed_{parent}" / f"step_{moment}" / name / f"repeat_{k}"
                write_branch(place, trunk, parent, moment, own, remedies[name], k)
                plan.append((condition, method, parent, moment, name, k))
    study: dict[str, Any] = {
        "name": "remedies", "title": "Which remedy helps", "seeds": list(range(parents)),
        "conditions": {condition: [] for condition, _ in cells}, "methods": {method: [] for _, method in cells},
        "leave_out": [], "baseline": "unchanged", "tune": None,
        "branch": {
            "at": list(moments), "steps": STEPS, "repeats": repeats, "common": [], "remedies": dict(remedies), "measure": [],
        },
        "report": dict(report or {"outcome": {"value": "rollout/return", "label": "return"}}),
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    with (folder / "plan.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("cell", "condition", "method", "seed", "moment", "remedy", "repeat", "words"))
        writer.writerows((number, *row, f"branch.run={folder}/runs" if row[3] else "") for number, row in enumerate(plan))
    return folder


def write_branch(
    place: Path, trunk: Path, parent: int, moment: int, rows: Iterable[tuple[int, str, float]], words: list[str], repeat: int = 0
) -> Path:
    """Writes a branch of a trunk."""
    branch = {
        "run": str(trunk),
        "step": moment,
        "checkpoint_sha256": f"{trunk.parent.name}-{parent}-{moment}",
        "repeat": repeat,
        "drop": [],
    }
    method = words[0].partition("=")[2] if words else "none"
    config = config_of(parent, steps=moment + STEPS, log_every_steps=10, interventions=_methods(method), branch=branch)
    typed = [f"branch.run={trunk}", f"branch.step={moment}", *words]
    return write_run(place, config, rows, typed, finished(moment + STEPS), {"branch": branch})


def _methods(method: str) -> dict[str, dict[str, float]]:
    return {} if method == "none" else {method: {"threshold": 0.1}}
