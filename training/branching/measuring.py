"""``branch.measure``: measures the network where a branch starts, before any of its methods acts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from plasticity.metrics.catalogue import chosen
from plasticity.metrics.log_values import Measurements
from plasticity.metrics.observer import MetricsObserver, observe
from plasticity.metrics.probe import ProbeObserver
from plasticity.metrics.view import View
from plasticity.training.assembly import Assembly
from plasticity.training.config.settings import Plan

AT_BRANCH: Final = "at_branch"  # first word of the names of these values
PROBE: Final = "probe"


def require_measures(names: Sequence[str], where: str) -> None:
    """Raises ValueError for a name that is no metric, group of metrics, or ``probe``.

    Args:
        names: Of what is to be measured.
        where: Their place, for the message.
    """
    try:
        chosen([name for name in names if name != PROBE], where)
    except ValueError as error:
        raise ValueError(f"{error}, {PROBE}") from error


def measured(plan: Plan, names: Sequence[str], assembly: Assembly) -> Measurements:
    """Returns ``at_branch/<metric>``, as ``MetricsObserver`` names it, and ``at_branch/probe/<key>``.

    The values depend only on the parent's state, so that all branches of one checkpoint have the same.

    Args:
        plan: The branch's; its sections ``metrics`` and ``probe`` set how it is measured.
        names: Metrics of the catalogue, its groups, and ``probe``.
        assembly: As the parent had it, new methods attached that have not acted yet.
    """
    view = View(assembly.stream.step, assembly.stream.task, assembly.agent)
    logs: Measurements = {}
    metrics = [name for name in names if name != PROBE]
    if metrics:
        settings = replace(plan.metrics, names=metrics, histograms=False, heatmaps=False)
        logs |= observe(MetricsObserver(settings, plan.run.seed, prefix=AT_BRANCH), view)
    if PROBE in names:
        probed = observe(ProbeObserver(plan.probe, plan.run.seed), view)
        logs |= {f"{AT_BRANCH}/{name}": value for name, value in probed.items()}
    return logs
