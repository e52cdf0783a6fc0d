"""Folders of runs to compare: two methods, two conditions, tasks, two layers, heatmaps and matrices."""

import csv
from pathlib import Path

import torch
from run_folders import config_of, finished, write_run

from plasticity.metrics.log_values import Array, Matrix
from plasticity.training.tracking.array_writer import ArrayWriter

SEEDS = (0, 1, 2)
SCORES = {"none": (0.80, 0.82, 0.84), "redo": (0.83, 0.84, 0.88)}  # differences .03 .02 .04
LAYERS = ("learner/block_1", "learner/block_1_sum", "learner/stem")
BINS = ("0 exactly", "0-50 %", "50-100 %", "100 % exactly")


def write_comparison(folder: Path) -> Path:
    """Writes 12 finished runs of 100 steps in four tasks; tanh is lower by .1 and has no heatmaps."""
    for activation in ("relu", "tanh"):
        for method, scores in SCORES.items():
            for seed, score in zip(SEEDS, scores, strict=True):
                config = config_of(
                    seed,
                    interventions={} if method == "none" else {method: {"threshold": 0.1}},
                    network={"torso": "mlp", "activations": [activation]},
                )
                level = score - (0.1 if activation == "tanh" else 0.0)
                place = write_run(
                    folder / f"{activation}_{method}_{seed}", config, rows(level, seed), [f"seed={seed}"], finished()
                )
                if activation == "relu":
                    write_heatmap(place, 0.25 * seed)
                write_matrix(place, seed)
    return folder


def rows(level: float, seed: int) -> list[tuple[int, str, float]]:
    """Rows of a run: four tasks of 25 steps, around a level, and two metrics."""
    found = []
    for task, offset in enumerate((-0.02, 0.02, -0.01, 0.01)):
        step = 25 * (task + 1)
        found += [(step, "task/number", float(task)), (step, "task/online_accuracy", level + offset)]
        found += [(step, "plasticity/dormant_fraction", 0.1 * task + 0.01 * seed), (step, "time/steps_per_second", 50.0)]
        found += [(step, f"plasticity/dormant_fraction/{layer}", 0.1 * task) for layer in LAYERS]
    return found


def write_heatmap(folder: Path, dead: float) -> None:
    """Writes firing rates of all units and of each layer at two steps: so many units never fire, all others always."""
    with (folder / "heatmap.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "name", "task", "units", "bin", "share"))
        for step in (50, 100):
            for name in ("", *(f"/{layer}" for layer in LAYERS)):
                for label, share in zip(BINS, (dead, 0.0, 0.0, 1 - dead), strict=True):
                    writer.writerow((step, f"plasticity/firing_rate_heatmap{name}", 0, 8, label, share))


def write_matrix(folder: Path, seed: int) -> None:
    """Writes a matrix at two steps."""
    writer = ArrayWriter(folder / "arrays")
    for step in (50, 100):
        values = torch.eye(4, dtype=torch.float64) * step + seed
        matrix = Matrix(values, -1.0, 1.0, "example", ["0", "1", "3", "4"], [3, 0, 1, 2])
        writer.write(step, {}, {"plasticity/gradient_cosine_matrix/learner": matrix, "a/row": Array(torch.arange(4))})
