"""The networks where branches start: ``at_branch/<metric>``, measured before anything acts."""

import re
from typing import Final

import numpy as np
import pandas as pd

from plasticity.training.reports.comparison import Comparison

AT_BRANCH: Final = "at_branch/"
_PROBE: Final = "probe/"
_REPEAT: Final = re.compile(r"(.+)_repeat_(\d+)")
_SHOWN: Final = 5


def at_branch(comparison: Comparison) -> pd.DataFrame:
    """Returns the values of all branches that have some, runs by names without ``at_branch/``; NaN where one is missing.

    A metric is the mean of its repeats if only these, ``<metric>_repeat_<k>``, were written.
    """
    categories = comparison.values["name"].cat.categories
    wanted = [name for name in categories if str(name).startswith(AT_BRANCH)]
    rows = comparison.values[comparison.values["name"].isin(wanted)]
    moments = comparison.runs["moment"].reindex(rows["run"]).to_numpy(float, na_value=np.nan)
    rows = rows[rows["step"].to_numpy() == moments]
    names = rows["name"].astype(str).str.removeprefix(AT_BRANCH)
    table = rows["value"].groupby([rows["run"], names]).last().unstack("name")
    for name in dict.fromkeys(found[1] for name in table if (found := _REPEAT.fullmatch(str(name))) is not None):
        if name not in table:
            table[name] = table[repeats_of(name, table)].mean(axis=1, skipna=False)
    return table


def of_networks(comparison: Comparison, values: pd.DataFrame, conditions: list[str]) -> pd.DataFrame:
    """Returns the values of each network, indexed by condition and parent: those of its first branch, as all have the same.

    Args:
        comparison: The runs.
        values: What ``at_branch`` returned.
        conditions: The moments.
    """
    runs = comparison.runs.loc[values.index]
    runs = runs[runs["condition"].isin(conditions) & runs["seed"].notna()]
    first = runs.assign(plain=runs["remedy"] != comparison.baseline).sort_values(["plain", "repeat"], kind="stable")
    first = first.drop_duplicates(["condition", "seed"])
    return values.loc[first.index].set_index([first["condition"], first["seed"].astype(int)])


def scalars(values: pd.DataFrame) -> list[str]:
    """Returns the names of metrics of whole networks: no single layer's or part's, and none of the repeats of a measurement."""
    names = [str(name) for name in values]
    return [name for name in names if "/" not in name.removeprefix(_PROBE) and _REPEAT.fullmatch(name) is None]


def repeats_of(name: str, values: pd.DataFrame) -> list[str]:
    """Returns the names of the repeats of a measurement, in their order."""
    found = {str(each): known for each in values if (known := _REPEAT.fullmatch(str(each))) is not None and known[1] == name}
    return sorted(found, key=lambda each: int(found[each][2]))


def unequal_at_branch(comparison: Comparison) -> list[str]:
    """Returns a warning that names what differs between the remedies of one parent and moment, which start with one network."""
    if comparison.branches is None:
        return []
    values = at_branch(comparison)
    runs = comparison.runs.loc[values.index]
    runs = runs[runs["condition"].isin(comparison.conditions)]
    told = []
    for (condition, seed, repeat), mine in runs.groupby(["condition", "seed", "repeat"], sort=False):
        rows = values.loc[mine.index]
        other = [str(name) for name in rows if rows[name].nunique(dropna=False) > 1]
        if other:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            told.append(f"{condition} parent {seed}{f' repeat {repeat}' if repeat else ''} ({other[0]}{more})")
    if not told:
        return []
    rest = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return [
        "Remedies of one parent and moment did not start with the same network, because values measured at the branch differ: "
        f"{', '.join(told[:_SHOWN])}{rest}."
    ]
