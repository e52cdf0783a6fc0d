"""The metrics that a run can log, each with its description; ``plasticity.metrics.metric`` registers one.

A name gives a pooled value, ``plasticity/<name>``, and one for each layer, ``plasticity/<name>/<part>/<layer>``, or each part.
How a pooled value is made depends on the kind of metric: unit metrics pool all units of all parts; rank metrics take the layers
that each part's head reads (of a convolution: before its pooling), and average over parts, since ranks of layers of different
widths have no meaningful mean; norms are joint norms over all parts; metrics of whole parts are averaged over those that have a
value. All units behind a non-linearity count, also those that cannot be reset one by one: the first convolution of a ResNet and
the ones behind its sums. A residual stream without a non-linearity (SimBa, transformers) is shown as a layer of its own and is
not pooled, unless it is what the head reads.
"""

from plasticity.metrics.metric import CATALOGUE, GROUP_NAMES, Metric
from plasticity.settings.naming import did_you_mean

__all__ = ["CATALOGUE", "chosen", "groups"]


def groups() -> dict[str, tuple[str, ...]]:
    """Returns the names of the metrics that ``default`` and ``all`` stand for."""
    default = tuple(name for name, metric in CATALOGUE.items() if metric.default)
    return dict(zip(GROUP_NAMES, (default, tuple(CATALOGUE)), strict=True))


def chosen(names: list[str], where: str = "metrics.names") -> dict[str, Metric]:
    """Returns the metrics of these names, in their order; ``default`` and ``all`` stand for groups, and so does no name at all.

    Args:
        names: Of metrics and groups.
        where: They stand, for the message.

    Raises:
        ValueError: If a name is unknown.
    """
    every: dict[str, Metric] = {}
    known = groups()
    for name in names or ["default"]:
        if name not in known and name not in CATALOGUE:
            hint = did_you_mean(name, [*known, *CATALOGUE])
            raise ValueError(f"{where}={name} is unknown{hint}; choose from {', '.join([*known, *CATALOGUE])}")
        every |= {entry: CATALOGUE[entry] for entry in known.get(name, (name,))}
    return every
