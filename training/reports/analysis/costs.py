"""What a method costs, and whether it keeps plasticity or only starts higher."""

import math

import pandas as pd

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import cell_of, run_outcome
from plasticity.training.reports.analysis.statistics import summary
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.specification import Outcome


def costs_of(comparison: Comparison, numbers: Numbers) -> pd.DataFrame:
    """Returns processor time, speed and memory of each cell, and its time relative to the baseline's."""
    speeds = run_outcome(comparison, Outcome(value="time/steps_per_second"))
    rows = []
    for condition in comparison.conditions:
        base = comparison.cell(condition, comparison.baseline)["cpu_seconds"].mean()
        for method in comparison.methods:
            runs = comparison.cell(condition, method)
            if not len(runs):
                continue
            row: dict[str, object] = {"condition": condition, "method": method, "n": len(runs)}
            seconds = runs["cpu_seconds"].mean()
            found = {
                "seconds": (seconds, "mean processor seconds of a run"),
                "relative": (seconds / base if base and math.isfinite(base) else math.nan, "processor seconds / the baseline's"),
                "steps_per_second": (speeds[runs.index].mean(), "mean of time/steps_per_second"),
                "megabytes": (runs["peak_memory_bytes"].max() / 2**20, "largest peak memory of a run, MiB"),
            }
            for key, (value, formula) in found.items():
                row[key] = float(value)
                seeds = [int(seed) for seed in runs["seed"].dropna()]
                groups = {"condition": condition, "method": method}
                numbers.add(f"cost/{key}/{condition}/{method}", groups, len(runs), len(runs), float(value), None, formula, seeds)
            rows.append(row)
    return pd.DataFrame(rows, columns=["condition", "method", "n", "seconds", "relative", "steps_per_second", "megabytes"])


def loss_of(comparison: Comparison, numbers: Numbers) -> pd.DataFrame:
    """Returns level, trend and relative to fresh: a method that only starts higher is not one that keeps plasticity.

    The trend is the last tenth of the run minus its best tenth, in the direction of better: 0 or below.
    """
    outcome, scale = comparison.outcome, comparison.outcome.scale
    windows = pd.DataFrame({k: run_outcome(comparison, _tenth(outcome, k)) for k in range(10)})
    trend = outcome.sign * windows[9] - (outcome.sign * windows).max(axis=1)
    relative = "relative/" + outcome.value.partition("/")[2]
    columns = {"level": run_outcome(comparison, outcome), "trend": trend.where(windows[9].notna())}
    if relative in comparison.values["name"].cat.categories:
        columns["relative"] = run_outcome(comparison, Outcome(value=relative, by=outcome.by, scale=scale))
    formulas = {"level": "the outcome", "trend": "last tenth minus best tenth", "relative": f"mean of {relative}"}
    rows = []
    for condition in comparison.conditions:
        for method in comparison.methods:
            row = {"condition": condition, "method": method}
            for key, values in columns.items():
                cell = cell_of(comparison, values, condition, method)
                if cell.started:
                    id = f"loss/{key}/{condition}/{method}"
                    groups = {"condition": condition, "method": method, "outcome": f"{outcome.name}: {formulas[key]}"}
                    interval = summary(cell.values, name=comparison.name)
                    row[key] = numbers.add_interval(id, groups, interval, cell.started, cell.seeds)
            if "level" in row:
                rows.append(row)
    return pd.DataFrame(rows, columns=["condition", "method", *columns])


def _tenth(outcome: Outcome, k: int) -> Outcome:
    first, last = outcome.part
    ends = [first + (last - first) * k / 10, first + (last - first) * (k + 1) / 10]
    return Outcome(outcome.value, ends, "mean", outcome.by, outcome.better, "", outcome.scale, outcome.normalise)
