"""The figures of a report that names none: those that the runs allow."""

from typing import Final

from plasticity.training.reports.analysis.at_branch import AT_BRANCH
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.figures.layers import FIRING
from plasticity.training.reports.figures.matrix import matrix_names
from plasticity.training.reports.specification import Figure

_SIGNS: Final = ("dormant_fraction", "effective_rank", "weight_norm")  # of lost plasticity, drawn where they were measured
_MOST_SETTINGS: Final = 3
_FEWEST_DOSES: Final = 3


def default_figures(comparison: Comparison) -> list[Figure]:
    """Returns curves, differences, final values, dose responses, firing rates, matrices and metrics against the outcome.

    For a study of branches they are curves, gains, final values and what predicts the gains.
    """
    outcome = comparison.outcome
    names = [str(name) for name in comparison.values["name"].cat.categories]
    found = [Figure(id="outcome", kind="curves", title=outcome.value, values=[outcome.value], by=outcome.by)]
    if comparison.branches is not None:
        found += [Figure(id="gains", kind="gains", title=f"Gains over {comparison.baseline}")]
        found += [Figure(id="final", kind="final", title="Outcome of every parent")]
        measured = any(name.startswith(AT_BRANCH) for name in names)
        return found + ([Figure(id="predictors", kind="predictors", title="What predicts the gains")] if measured else [])
    signs = [f"plasticity/{name}" for name in _SIGNS if f"plasticity/{name}" in names]
    found += [Figure(id=name.rpartition("/")[2], kind="curves", title=name, values=[name]) for name in signs]
    if len(comparison.methods) > 1:
        found.append(Figure(id="differences", kind="differences", title=f"Paired differences from {comparison.baseline}"))
    found.append(Figure(id="final", kind="final", title="Outcome of every run"))
    for number, name in enumerate(_doses(comparison)):
        found.append(Figure(id=f"dose_{number}", kind="dose", setting=name, title=f"Outcome by {name}"))
    runs = comparison.runs.index[comparison.runs["counted"]]
    heatmaps = [run for run in runs if (comparison.folder_of(run) / "heatmap.csv").is_file()]
    if heatmaps:
        found.append(Figure(id="firing_rates", kind="heatmap", value=FIRING, title="Firing rates of all units"))
        found.append(Figure(id="firing_rates_by_layer", kind="mosaic", value=FIRING, title="Firing rates by layer and method"))
    matrices = {name: None for run in runs for name in matrix_names(comparison.folder_of(run))}
    for number, name in enumerate(matrices):
        found.append(Figure(id=f"matrix_{number}", kind="matrix", value=name, title=name))
    if any(name.startswith("plasticity/") for name in names) and comparison.runs["counted"].sum() > 2:
        found.append(Figure(id="relations", kind="scatter", title="Metric at half of the run, outcome after it"))
    return found


def _doses(comparison: Comparison) -> list[str]:
    """Returns settings that have three numbers or more among the runs that count."""
    counted = comparison.settings[comparison.runs["counted"]]
    found = []
    for name in counted:
        numbers = {value for value in counted[name] if _is_number(value)}
        if len(numbers) >= _FEWEST_DOSES and name != "seed":
            found.append(str(name))
    return found[:_MOST_SETTINGS]


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
