"""The tables of a report, made from what was found; every number in them is among the numbers."""

import math

import pandas as pd

from plasticity.training.reports.analysis.findings import Findings
from plasticity.training.reports.analysis.numbers import Numbers, number_text
from plasticity.training.reports.analysis.outcomes import run_outcome
from plasticity.training.reports.analysis.statistics import summary
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.output.tables import Table
from plasticity.training.reports.specification import Published, TableSpec

_MOST_RELATIONS = 12  # rows a condition


def main_table(comparison: Comparison, found: Findings) -> Table:
    """Returns outcomes by condition and method, with the runs that finished of those that were started, and papers' numbers."""
    outcomes = [name for name in found.main.columns if name not in ("condition", "method", "n", "N")]
    several = len(comparison.conditions) > 1
    published = {(each.condition, each.method): each for each in comparison.spec.published}
    rows, bold = [], set()
    for number, (_, row) in enumerate(found.main.iterrows()):
        texts = [*([row["condition"]] if several else []), row["method"], f"{row['n']} of {row['N']}"]
        bold |= {(number, len(texts) + k) for k, name in enumerate(outcomes) if bool(found.bold.iloc[number][name])}
        texts += [row[name] for name in outcomes]
        if published:
            texts.append(_published(published.get((row["condition"], row["method"]))))
        rows.append([str(text) for text in texts])
    terms = comparison.terms
    columns = [
        *([terms.condition] if several else []),
        terms.method,
        terms.units,
        *outcomes,
        *(["published"] if published else []),
    ]
    formulas = "below 10 runs the mean with a 95 % Student's t interval, from 10 on the interquartile mean with a bootstrap"
    note = (
        f"In brackets: {formulas}; none below 3 {terms.units}. {terms.units.capitalize()}: those that finished and have an "
        f"outcome, of those that were started. Bold: no other {terms.method} is shown to be better (Holm-adjusted interval of "
        "the difference from the best contains 0, all runs finished)."
    )
    return Table("main", f"Outcome by {terms.method}", columns, rows, frozenset(bold), note, names=2 if several else 1)


def difference_table(comparison: Comparison, found: Findings) -> Table:
    """Returns differences from the baseline."""
    terms = comparison.terms
    rows = [
        [
            str(row["condition"]),
            str(row["method"]),
            str(row["difference"]),
            number(row["p"], 2),
            f"paired by {terms.seed}" if row["paired"] else "Welch",
            str(row["n"]),
            number(row["correlation"], 2),
            str(row["welch"]),
            str(row["improvement"]),
        ]
        for _, row in found.differences.iterrows()
    ]
    columns = [terms.condition, terms.method, "difference", "p", "kind", "n", "correlation", "Welch", "P(better)"]
    note = (
        f"Of {comparison.outcome.name}: {terms.method} minus {comparison.baseline}; {comparison.outcome.better} is better. "
        f"Interval and p of Student's t are adjusted by Holm for all {terms.methods} of a {terms.condition}. Correlation: of the "
        "pairs. Welch: the same difference as if runs were not paired, not adjusted. P(better): probability that a run of the "
        f"{terms.method} is better than one of the baseline."
    )
    return Table("differences", f"Differences from {comparison.baseline}", columns, rows, note=note, names=2)


def relation_table(found: Findings) -> Table:
    """Returns what correlates with the outcome: the relations of the smallest p in each condition."""
    part = found.relations.groupby("condition", sort=False).head(_MOST_RELATIONS)
    rows = [
        [
            str(row["condition"]),
            str(row["metric"]),
            number(row["within"], 2),
            number(row["p"], 2),
            str(row["n"]),
            number(row["between"], 2),
            str(row["groups"]),
        ]
        for _, row in part.iterrows()
    ]
    columns = ["condition", "metric at half of the run", "within methods", "p", "runs", "between methods", "methods"]
    left = len(found.relations) - len(part)
    note = (
        "Rank correlation with the outcome of the second half. Within: over seeds, ranks centred by method; p: family-wise over "
        "all metrics of a condition, by permuting outcomes over seeds within methods. Between: over the methods' means."
        + (f" {left} rows with larger p are in report.json." if left else "")
    )
    return Table("relations", "What correlates with the outcome", columns, rows, note=note, names=2)


def loss_table(comparison: Comparison, found: Findings) -> Table:
    """Returns level, trend and, where it was measured, the outcome relative to a fresh network."""
    keys = [name for name in found.loss.columns if name not in ("condition", "method")]
    rows = [[str(row["condition"]), str(row["method"]), *(str(row[key]) for key in keys)] for _, row in found.loss.iterrows()]
    names = {"level": "level", "trend": "last minus best tenth", "relative": "relative to fresh"}
    note = (
        f"Level: {comparison.outcome.name}. Last minus best tenth of the run, in the direction of better: 0 is no loss. A method "
        "that only starts higher is not one that keeps plasticity."
    )
    return Table(
        "loss",
        "Level and trend",
        [comparison.terms.condition, comparison.terms.method, *(names.get(key, key) for key in keys)],
        rows,
        note=note,
        names=2,
    )


def cost_table(comparison: Comparison, found: Findings) -> Table:
    """Returns processor time, speed and memory of each method."""
    keys = {
        "seconds": "processor s a run",
        "relative": f"relative to {comparison.baseline}",
        "steps_per_second": "steps/s",
        "megabytes": "peak memory, MiB",
    }
    rows = [
        [str(row["condition"]), str(row["method"]), str(row["n"]), *(number(row[key], 3) for key in keys)]
        for _, row in found.costs.iterrows()
    ]
    note = "Means over runs; of memory, the largest value. –: not known. Runs that shared a machine with others were slower."
    terms = comparison.terms
    columns = [terms.condition, terms.method, "runs", *keys.values()]
    return Table("cost", f"Cost by {terms.method}", columns, rows, note=note, names=2)


def tuning_table(comparison: Comparison, numbers: Numbers) -> Table:
    """Returns all settings that a study tried before its comparison, what it chose in bold; no rows if it tuned nothing."""
    tuning, rows, bold, places = comparison.tuning, [], set(), dict[tuple[str, str], int]()
    for number, each in enumerate(tuning.tried if tuning is not None else ()):
        place = places[each.condition, each.method] = places.get((each.condition, each.method), -1) + 1
        groups = {"condition": each.condition, "method": each.method, "settings": each.settings}
        id, formula = f"tuning/{each.condition}/{each.method}/{place}", "mean outcome over the seeds of the search"
        text = numbers.add(id, groups, each.finished, each.of, each.value, None, formula, digits=4)
        chosen = f"yes, at the edge: {each.edge}" if each.edge else "yes" if each.chosen else ""
        rows.append([each.condition, each.method, each.settings, f"{each.finished} of {each.of}", text, chosen])
        bold |= {(number, column) for column in (2, 4) if each.chosen}
    columns = ["condition", "method", "settings", "runs", "outcome", "chosen"]
    note = f"Every tuned method got the same number of settings to try. {tuning.about}" if tuning is not None else ""
    return Table("tuning", "Settings that were tried", columns, rows, frozenset(bold), note, names=3)


def chosen_table(comparison: Comparison, spec: TableSpec, numbers: Numbers) -> Table:
    """Returns a table that the report's settings ask for.

    Raises:
        ValueError: Rows or columns are neither method nor condition nor a setting that varies.
    """
    outcome = spec.value or comparison.outcome
    results = run_outcome(comparison, outcome)
    counted = comparison.runs[comparison.runs["counted"]]
    if comparison.branches is not None:
        counted, results = _of_parents(counted, results)
    rows, columns = (_labels(comparison, counted, name, spec.id) for name in (spec.rows, spec.columns))
    texts = []
    for row in _ordered(comparison, spec.rows, rows):
        line = [row]
        for column in _ordered(comparison, spec.columns, columns):
            runs = counted.index[(rows == row) & (columns == column)]
            known = results[runs][results[runs].map(math.isfinite)]
            groups = {spec.rows: row, spec.columns: column, "outcome": outcome.name}
            seeds = [int(seed) for seed in counted.loc[known.index, "seed"].dropna()]
            interval = summary(known, name=comparison.name)
            id = f"table/{spec.id}/{row}/{column}"
            text = numbers.add_interval(id, groups, interval, len(runs), seeds, spec.digits)
            line.append(f"{text} (n = {len(known)})" if len(runs) else "")
        texts.append(line)
    columns_shown = [spec.rows, *_ordered(comparison, spec.columns, columns)]
    return Table(spec.id, f"{outcome.name} by {spec.rows} and {spec.columns}", columns_shown, texts)


def _of_parents(counted: pd.DataFrame, results: pd.Series) -> tuple[pd.DataFrame, pd.Series]:
    """Returns one branch for each parent, moment and remedy, and the mean over its repeats; trunks are in no table."""
    branches = counted[counted["remedy"] != ""]
    keys = ["condition", "method", "seed"]
    means = results[branches.index].groupby([branches[key] for key in keys]).transform("mean")
    return branches.drop_duplicates(keys), means


def number(value: object, digits: int = 3) -> str:
    """Returns a number with this number of significant digits, – where there is none."""
    return number_text(float(value), None, digits) if isinstance(value, int | float) else "–"


def _published(each: Published | None) -> str:
    if each is None:
        return "–"
    spread = "" if each.spread is None else f" ± {each.spread:g} ({each.kind})"
    n = "" if each.n is None else f", n = {each.n}"
    where = f"; {each.where}" if each.where else ""
    return f"{each.value:g}{spread}{n}{where}"


def _labels(comparison: Comparison, runs: pd.DataFrame, name: str, id: str) -> pd.Series:
    column = _column(comparison, name)
    if column in ("method", "condition"):
        return runs[column].astype(str)
    if name in comparison.settings:
        return comparison.settings.loc[runs.index, name].astype(str)
    raise ValueError(f"report.tables.{id}: {name} is neither method nor condition nor a setting that varies")


def _column(comparison: Comparison, name: str) -> str:
    """Returns ``method`` or ``condition`` for what the page calls them, and any other name as it is."""
    return {comparison.terms.method: "method", comparison.terms.condition: "condition"}.get(name, name)


def _ordered(comparison: Comparison, name: str, labels: pd.Series) -> list[str]:
    order = {"method": comparison.methods, "condition": comparison.conditions}.get(_column(comparison, name))
    there = set(labels)
    return [label for label in order if label in there] if order else sorted(there, key=_by_value)


def _by_value(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
