"""Folders of runs as the testbed writes them, made without running anything."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

KNOWN = {
    "git_revision": "0123456789abcdef",
    "uncommitted_changes": False,
    "packages": {"torch": "2.13.0"},
    "machine": {"cpu": "AMD EPYC", "capability": "AVX2", "threads": 1, "python": "3.12.3", "os": "Linux"},
    "files": {},
}


def config_of(seed: int, steps: int = 100, interventions: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Settings of a run; more sections replace those here."""
    return {
        "steps": steps,
        "seed": seed,
        "plugins": [],
        "interventions": dict(interventions or {}),
        "agent": {"name": "dqn"},
        "env": {"name": "catch"},
        "network": {"torso": "mlp", "widths": [128, 128]},
        "optimizer": {"name": "adam", "learning_rate": 0.001},
        "metrics": {"every_steps": 10},
        "choices": {"agent": "dqn", "env": "catch"},
        **more,
    }


def write_run(
    folder: Path,
    config: Mapping[str, Any],
    rows: Iterable[tuple[int, str, float]],
    overrides: Sequence[str] = (),
    status: Mapping[str, Any] | None = None,
    known: Mapping[str, Any] | None = None,
) -> Path:
    """Writes config.yaml, provenance.json, metrics.csv, and status.json unless it is None."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "run_dir": str(folder)}, sort_keys=False))
    (folder / "provenance.json").write_text(json.dumps({"overrides": list(overrides), **KNOWN, **(known or {})}))
    lines = ["step,name,value", *(f"{step},{name},{float(value)!r}" for step, name, value in rows)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if status is not None:
        (folder / "status.json").write_text(json.dumps(status))
    return folder


def finished(steps: int = 100, **more: Any) -> dict[str, Any]:
    """status.json of a run that did all its steps."""
    return {
        "state": "finished",
        "step": steps,
        "steps": steps,
        "cpu_seconds": 2.0,
        "peak_memory_bytes": 2**20,
        "error": None,
        **more,
    }


def returns(value: float, steps: int = 100, every: int = 10) -> list[tuple[int, str, float]]:
    """Rows of a run whose return is the same all the time."""
    return [(step, "rollout/return", value) for step in range(every, steps + 1, every)]
