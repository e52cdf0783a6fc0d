"""The metrics that a run can log, each with what it is worth knowing about it.

A name gives a pooled value, ``plasticity/<name>``, and one for each layer, ``plasticity/<name>/<part>/<layer>``, or each part.
How a pooled value is made depends on the kind of metric: unit metrics pool all units of all parts; rank metrics take the layers
that each part's head reads (of a convolution: before its pooling), and average over parts, since ranks of layers of different
widths have no meaningful mean; norms are joint norms over all parts; metrics of whole parts are averaged over those that have a
value. All units behind a non-linearity count, also those that cannot be reset one by one: the first convolution of a ResNet and
the ones behind its sums. A residual stream without a non-linearity (SimBa, transformers) is shown as a layer of its own and is
not pooled, unless it is what the head reads.
"""

from collections.abc import Mapping
from typing import Final

from plasticity.metrics.groups.activity_metrics import ACTIVITY
from plasticity.metrics.groups.feature_metrics import FEATURES
from plasticity.metrics.groups.loss_metrics import LOSS
from plasticity.metrics.groups.parameter_metrics import PARAMETERS
from plasticity.metrics.groups.update_metrics import UPDATES
from plasticity.metrics.metric import Metric
from plasticity.settings.naming import did_you_mean

CATALOGUE: Final[Mapping[str, Metric]] = {**ACTIVITY, **FEATURES, **PARAMETERS, **UPDATES, **LOSS}
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": tuple(name for name, metric in CATALOGUE.items() if metric.default),
    "all": tuple(CATALOGUE),
}


def chosen(names: list[str]) -> dict[str, Metric]:
    """Returns the metrics of these names, in their order; ``default`` and ``all`` stand for groups, and so does no name at all.

    Raises:
        ValueError: If a name is unknown.
    """
    every: dict[str, Metric] = {}
    for name in names or ["default"]:
        if name not in GROUPS and name not in CATALOGUE:
            hint = did_you_mean(name, [*GROUPS, *CATALOGUE])
            raise ValueError(f"metrics.names={name} is unknown{hint}; choose from {', '.join([*GROUPS, *CATALOGUE])}")
        every |= {entry: CATALOGUE[entry] for entry in GROUPS.get(name, (name,))}
    return every
