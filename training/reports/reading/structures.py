"""Which runs have networks of the same layers: only those are compared in pairs of equal seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from plasticity.training.reports.reading.groups import flat
from plasticity.training.reports.reading.records import Record


def structures(records: Sequence[Record]) -> list[str]:
    """Returns a text for each run, equal for those whose networks are built of the same layers.

    It is the hash that runs write into ``provenance.json`` when they start. If a run among them has none, as of an older version
    of this program, the texts are the settings of those interventions that change how a network is built, for all of them.
    """
    read = [record for record in records if record.config]
    if all(isinstance(record.known.get("structure"), str) for record in read):
        return [str(record.known.get("structure") or "") for record in records]
    return [_building(record) for record in records]


def _building(record: Record) -> str:
    from plasticity.interventions.base import Intervention
    from plasticity.interventions.registry import INTERVENTIONS

    chosen: Mapping[str, Any] = record.config.get("interventions") or {}
    known = [name for name in chosen if name in INTERVENTIONS]
    own = {name: chosen[name] or {} for name in known if INTERVENTIONS[name].build is not Intervention.build}
    return " ".join(f"{key}={value}" for key, value in flat(own).items())
