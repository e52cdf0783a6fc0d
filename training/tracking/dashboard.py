"""The custom-scalars page of TensorBoard: performance next to the signs of lost plasticity."""

import re
from collections import defaultdict
from collections.abc import Iterable

from plasticity.interventions.registry import INTERVENTIONS

Chart = tuple[str, list[str]]
Layout = dict[str, dict[str, Chart]]


def plasticity_layout(names: Iterable[str]) -> Layout:
    """Returns the dashboard for a run that logs these names; a chart that none of them would fill is left out.

    TensorBoard colours a line by its run and distinguishes the lines of one run by arbitrary markers, so a chart of the
    first category holds one quantity, pooled over layers, where it can. The second category shows the tasks of a supervised
    learner, the third the first's metrics by layer (``plasticity/<metric>/<part>/<layer>``), the fourth the training signals, the
    fifth what interventions report (``redo/units_reset``, ``redo/units_reset/<part>``), a chart for each key.

    Args:
        names: Names of scalars, e.g. ``plasticity/dormant_fraction/q/torso.0``.

    Returns:
        Category -> chart title -> (kind, regular expressions of tags), as ``SummaryWriter.add_custom_scalars`` takes it.
    """
    names = list(names)
    layout = {
        category: {title: chart for title, chart in charts.items() if _fills(chart, names)}
        for category, charts in _all_charts().items()
    }
    layout["Interventions"] = _reports(names)
    return {category: charts for category, charts in layout.items() if charts}


def _fills(chart: Chart, names: Iterable[str]) -> bool:
    return any(re.match(pattern, name) for pattern in chart[1] for name in names)


def _reports(names: Iterable[str]) -> dict[str, Chart]:
    """Returns a chart for each key that any registered intervention reports, a plugin's among them."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        method, _, rest = name.partition("/")
        if rest and method in INTERVENTIONS:
            found[rest.partition("/")[0]].add(method)
    return {
        "Term of the loss" if key == "loss" else key.replace("_", " ").capitalize(): _chart(
            rf"({'|'.join(map(re.escape, sorted(methods)))})/{re.escape(key)}(/.+)?"
        )
        for key, methods in sorted(found.items())
    }


def _all_charts() -> Layout:
    return {
        "Plasticity": {
            "Return per episode, or online accuracy": _chart(r"rollout/return|online/accuracy"),
            "Return in evaluation": _chart(r"eval/return"),
            "Online accuracy of each task": _chart(r"task/online_accuracy"),
            "Test accuracy at the end of each task": _chart(r"task/test_accuracy"),
            "Test accuracy beyond a fresh network's": _chart(r"relative/test_accuracy"),
            "Dormant units (fraction)": _pooled("dormant_fraction"),
            "Probe task, variance explained": _chart(r"probe/explained_variance"),
            "Effective rank": _pooled("effective_rank"),
            "srank": _pooled("srank"),
            "Firing-rate entropy (bits)": _pooled("firing_entropy"),
            "Weight norm": _pooled("weight_norm"),
            "Distance from initialisation": _pooled("distance_from_initialisation"),
            "Gradient norm": _pooled("gradient_norm"),
            "Update norm, optimizer": _pooled("update_norm"),
            "Update norm, interventions": _pooled("intervention_update_norm"),
            "Dead units (fraction)": _pooled("dead_fraction"),
            "Linearised units (fraction)": _pooled("linearised_fraction"),
            "Active units (fraction of activations)": _pooled("active_fraction"),
            "Feature norm": _pooled("feature_norm"),
            "Feature rank": _pooled("feature_rank"),
            "Update norm relative to the weights": _pooled("update_ratio"),
            "Gradient entries that are 0 (fraction)": _pooled("gradient_zero_fraction"),
            "Units with hardly any gradient, GraMa (fraction)": _pooled("grama_fraction"),
            "Sharpness": _pooled("sharpness"),
            "Trace of the Hessian": _pooled("hessian_trace"),
            "Effective rank of the Hessian": _pooled("hessian_effective_rank"),
            "Cosine between gradients of two examples": _pooled("gradient_cosine"),
            "Cosine between Adam's first moment and the gradient": _pooled("moment_gradient_cosine"),
            "Optimization readiness": _pooled("optimization_readiness"),
            "Gain of the next steps on examples held out": _pooled("k_step_gain"),
            "Effective rank of the tangent kernel": _pooled("ntk_effective_rank"),
            "Policy churn of one update (fraction)": _pooled("policy_churn"),
            "Value churn of one update": _pooled("value_churn"),
            "Probe loss, this network and a fresh one": _chart(r"probe/(fresh_)?loss"),
            "Probe loss relative to a fresh network": _chart(r"probe/relative_loss"),
            "Random-label accuracy, this network and a fresh one": _chart(r"probe/(fresh_)?random_label_accuracy"),
        },
        "Tasks": {
            "Online accuracy, mean of the tasks so far": _chart(r"task/mean_online_accuracy"),
            "Test accuracy, mean of the tasks so far": _chart(r"task/mean_test_accuracy"),
            "Training accuracy at the end of each task": _chart(r"task/train_accuracy"),
            "Validation accuracy at the end of each task": _chart(r"task/validation_accuracy"),
            "Test accuracy of each task's best epoch": _chart(r"task/best_test_accuracy"),
            "Online loss of each task": _chart(r"task/online_loss"),
            "Test loss at the end of each task": _chart(r"task/test_loss"),
            "Training loss at the end of each task": _chart(r"task/train_loss"),
            "Test accuracy after epochs": _chart(r"epoch/test_accuracy"),
            "Training accuracy after epochs": _chart(r"epoch/train_accuracy"),
            "Online accuracy beyond a fresh network's": _chart(r"relative/online_accuracy"),
            "Forward transfer to the next task": _chart(r"task/forward_transfer"),
            "Forward transfer by online accuracy": _chart(r"relative/online_transfer"),
        },
        "Plasticity by layer": {
            "Dormant units by layer (fraction)": _by_layer("dormant_fraction"),
            "Dead units by layer (fraction)": _by_layer("dead_fraction"),
            "Linearised units by layer (fraction)": _by_layer("linearised_fraction"),
            "Effective rank by layer": _by_layer("effective_rank"),
            "srank by layer": _by_layer("srank"),
            "Firing-rate entropy by layer (bits)": _by_layer("firing_entropy"),
            "Weight norm by layer": _by_layer("weight_norm"),
            "Distance from initialisation by layer": _by_layer("distance_from_initialisation"),
            "Gradient norm by layer": _by_layer("gradient_norm"),
            "Dormant units, other definitions (fraction)": _pooled("dormant_fraction_(tau_[^/]+|drm)"),
            "Probe loss relative to a fresh network by part": _chart(r"probe/relative_loss/.+"),
        },
        "Training": {
            "Loss": _chart(r"(train|online)/loss"),
            "Episode length (steps)": _chart(r"rollout/length"),
            "Speed (steps per second)": _chart(r"time/steps_per_second"),
        },
    }


def _chart(pattern: str) -> Chart:
    return "Multiline", [f"^({pattern})$"]


def _pooled(metric: str) -> Chart:
    return _chart(rf"plasticity/{metric}")


def _by_layer(metric: str) -> Chart:
    return _chart(rf"plasticity/{metric}/[^/]+/.+")
