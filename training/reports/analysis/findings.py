"""The answer of a comparison: a sentence for each condition, the main table, differences from the baseline, costs, relations."""

import math
from dataclasses import dataclass, field

import pandas as pd

from plasticity.training.reports.analysis.alongside import RELATION_COLUMNS, what_goes_with
from plasticity.training.reports.analysis.branch_findings import BranchFindings, find_of_branches
from plasticity.training.reports.analysis.costs import costs_of, loss_of
from plasticity.training.reports.analysis.gains import difference_by_parent
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import Cell, cell_of, run_outcome
from plasticity.training.reports.analysis.published import next_to_papers
from plasticity.training.reports.analysis.statistics import (
    FEWEST,
    Difference,
    best_methods,
    detectable_difference,
    difference,
    holm,
    probability_of_improvement,
    summary,
)
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.specification import Outcome


@dataclass(frozen=True)
class Findings:
    """What is found in a comparison; every number in it is in ``Numbers``.

    Attributes:
        answers: One sentence or two for each condition, in the order of the conditions.
        main: One row for each condition and method: condition, method, n, N, and a text for each outcome by its label.
        bold: As ``main``, one row each, with whether an outcome's text is bold, by label.
        differences: condition, method, baseline, outcome, n, difference (text with the adjusted interval), value, low, high, p
            (adjusted, NaN without an interval), correlation, paired, welch (text), improvement (text), formula.
        costs: condition, method, n, seconds (processor, mean of a run, NaN if not known), relative (to the baseline, NaN if not
            known), steps_per_second, megabytes.
        relations: condition, metric, n, groups, within, p, between: texts and numbers of what correlates with the outcome.
        loss: condition, method, and texts of level, trend and, where it was measured, relative to fresh.
        branches: Those of a study of branches, None for any other comparison.
        published: A sentence for each number of a paper: it, that of the runs, and their difference.
    """

    answers: list[str]
    main: pd.DataFrame
    bold: pd.DataFrame
    differences: pd.DataFrame
    costs: pd.DataFrame
    relations: pd.DataFrame
    loss: pd.DataFrame
    branches: BranchFindings | None = None
    published: list[str] = field(default_factory=list)


def find(comparison: Comparison, numbers: Numbers) -> Findings:
    """Finds the answer, and writes down its numbers."""
    outcomes = [comparison.outcome, *comparison.spec.also]
    cells = {outcome.name: cells_of(comparison, outcome) for outcome in outcomes}
    main_cells = cells[comparison.outcome.name]
    branches = find_of_branches(comparison, main_cells, numbers)
    ranked = comparison.conditions if branches is None else branches.ranked
    main, bold = _main(comparison, outcomes, cells, numbers, ranked)
    found = {
        condition: differences_of(comparison, condition, cells[comparison.outcome.name]) for condition in comparison.conditions
    }
    rows = [row for place in found for row in _difference_rows(comparison, place, found[place], main_cells, numbers)]
    return Findings(
        [
            *([] if branches is None else branches.needs),
            *(_answer(comparison, condition, found[condition], main_cells, numbers) for condition in ranked),
            *([] if branches is None else branches.predicted),
        ],
        main,
        bold,
        pd.DataFrame(rows, columns=_DIFFERENCE_COLUMNS),
        costs_of(comparison, numbers),
        what_goes_with(comparison, numbers) if branches is None else pd.DataFrame(columns=RELATION_COLUMNS),
        loss_of(comparison, numbers),
        branches,
        next_to_papers(comparison, main_cells, numbers),
    )


_DIFFERENCE_COLUMNS = ["condition", "method", "baseline", "outcome", "n", "difference", "value", "low", "high", "p"]
_DIFFERENCE_COLUMNS += ["correlation", "paired", "welch", "improvement", "formula"]


def cells_of(comparison: Comparison, outcome: Outcome) -> dict[tuple[str, str], Cell]:
    """Returns the cells that have runs, by condition and method."""
    values = run_outcome(comparison, outcome)
    cells = {
        (condition, method): cell_of(comparison, values, condition, method)
        for condition in comparison.conditions
        for method in comparison.methods
    }
    return {key: cell for key, cell in cells.items() if cell.started}


def differences_of(comparison: Comparison, condition: str, cells: dict[tuple[str, str], Cell]) -> dict[str, Difference]:
    """Returns the difference of each method from the baseline in a condition, adjusted by Holm over the methods."""
    baseline = cells.get((condition, comparison.baseline))
    if baseline is None or baseline.n == 0:
        return {}
    plain = structure_of(comparison, baseline)
    found: dict[str, Difference] = {}
    for method in comparison.methods:
        cell = cells.get((condition, method))
        if method != comparison.baseline and cell is not None and cell.n:
            if comparison.branches is not None:
                gain = difference_by_parent(cell.values, baseline.values)
                found |= {method: gain} if gain.interval.n else {}
                continue
            same = structure_of(comparison, cell) == plain
            found[method] = difference(cell.values, baseline.values, same_structure=same)
    return holm(found)


def structure_of(comparison: Comparison, cell: Cell) -> tuple[str, ...]:
    """Returns what a cell's network is built of, equal where equal seeds mean equal initial weights of the same layers."""
    names = [name for name in comparison.settings if str(name).startswith("network.")]
    if not cell.n:
        return ()
    run = cell.runs.iloc[0]
    return (*comparison.settings.loc[run, names], comparison.runs.loc[run, "structure"])


def _main(
    comparison: Comparison,
    outcomes: list[Outcome],
    cells: dict[str, dict[tuple[str, str], Cell]],
    numbers: Numbers,
    ranked: list[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    first = cells[outcomes[0].name]
    rows = [
        {"condition": condition, "method": method, "n": cell.n, "N": cell.started} for (condition, method), cell in first.items()
    ]
    bold = [{"condition": row["condition"], "method": row["method"]} for row in rows]
    best = {outcome.name: _best(comparison, outcome, cells[outcome.name], ranked) for outcome in outcomes}
    for row, strong in zip(rows, bold, strict=True):
        key = (str(row["condition"]), str(row["method"]))
        for place, outcome in enumerate(outcomes):
            cell = cells[outcome.name][key]
            groups = {"condition": key[0], "method": key[1], "outcome": outcome.name}
            id = f"main/{place}/{key[0]}/{key[1]}"
            row[outcome.name] = numbers.add_interval(
                id, groups, summary(cell.values, name=comparison.name), cell.started, cell.seeds
            )
            strong[outcome.name] = key in best[outcome.name]
    columns = ["condition", "method", "n", "N", *(outcome.name for outcome in outcomes)]
    return pd.DataFrame(rows, columns=columns), pd.DataFrame(bold, columns=[name for name in columns if name not in ("n", "N")])


def _best(
    comparison: Comparison, outcome: Outcome, cells: dict[tuple[str, str], Cell], ranked: list[str]
) -> set[tuple[str, str]]:
    found = set()
    for condition in ranked:
        there = {method: cell for (place, method), cell in cells.items() if place == condition}
        if len(there) > 1:  # with one method there is no best
            values = {method: cell.values for method, cell in there.items()}
            complete = {method: cell.complete for method, cell in there.items()}
            structures = {method: structure_of(comparison, cell) for method, cell in there.items()}
            found |= {(condition, method) for method in best_methods(values, complete, outcome.sign, structures)}
    return found


def _difference_rows(
    comparison: Comparison,
    condition: str,
    found: dict[str, Difference],
    cells: dict[tuple[str, str], Cell],
    numbers: Numbers,
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    base = cells.get((condition, comparison.baseline))
    for method, each in found.items():
        assert base is not None  # differences are from it
        cell = cells[condition, method]
        groups = {"condition": condition, "method": method, "baseline": comparison.baseline, "outcome": comparison.outcome.name}
        started, seeds = min(cell.started, base.started), _seeds_of(each, cell, base)
        sign = comparison.outcome.sign
        better = probability_of_improvement(
            {condition: sign * cell.values}, {condition: sign * base.values}, f"{comparison.name}/{condition}/{method}"
        )
        welch = difference(cell.values, base.values, same_structure=False).interval
        id = f"{condition}/{method}/{comparison.baseline}"
        shown = each.shown
        rows.append(
            {
                **groups,
                "n": shown.n,
                "difference": numbers.add_interval(f"difference/{id}", groups, shown, started, seeds),
                "value": shown.value,
                "low": shown.low,
                "high": shown.high,
                "p": each.p,
                "correlation": each.correlation,
                "paired": each.paired,
                "welch": numbers.add_interval(f"welch/{id}", groups, welch, started, seeds),
                "improvement": numbers.add_interval(f"improvement/{id}", groups, better, started, seeds),
                "formula": shown.formula,
            }
        )
        single = {"groups": groups, "n": shown.n, "N": started, "interval": None, "seeds": seeds}
        numbers.add(f"difference_p/{id}", value=each.p, formula="p of Student's t, adjusted by Holm", **single)  # type: ignore[arg-type]
        if each.paired:
            formula = "Pearson's correlation of the pairs"
            numbers.add(f"correlation/{id}", value=each.correlation, formula=formula, **single)  # type: ignore[arg-type]
    return rows


def _seeds_of(each: Difference, cell: Cell, base: Cell) -> list[int]:
    return sorted(set(cell.seeds) & set(base.seeds)) if each.paired else sorted(set(cell.seeds) | set(base.seeds))


def _answer(
    comparison: Comparison, condition: str, found: dict[str, Difference], cells: dict[tuple[str, str], Cell], numbers: Numbers
) -> str:
    """Returns the answer in a condition: which methods differ from the baseline, by how much, and how sure that is."""
    outcome, baseline = comparison.outcome, comparison.baseline
    there = {method: cell for (place, method), cell in cells.items() if place == condition}
    lead = "" if len(comparison.conditions) == 1 else f"{condition}: "
    lost = [
        f"{cell.started - cell.n} of {cell.started} unfinished ({method})" for method, cell in there.items() if not cell.complete
    ]
    end = f" {'; '.join(lost)}." if lost else ""
    if len(there) == 1 or not found:
        told = [f"{method} {_level(comparison, condition, method, cell, numbers)}" for method, cell in there.items() if cell.n]
        missing = "" if len(there) == 1 or baseline in there else f" There is no run of {baseline} to compare with."
        said = f"{outcome.name} is {', '.join(told)}." if told else "no run has an outcome."
        return f"{lead}{said}{missing}{end}"
    sure = [method for method, each in found.items() if each.shown.known and not each.shown.contains_zero]
    parts = []
    for method in sorted(sure, key=lambda method: -outcome.sign * found[method].shown.value):
        word = "better" if outcome.sign * found[method].shown.value > 0 else "worse"
        how = _told(comparison, condition, method, found[method], cells, numbers)
        parts.append(f"{method} is {word} than {baseline}: difference {how}")
    said = f"In {outcome.name}, {'; '.join(parts)}." if parts else _undecided(comparison, condition, found, cells, numbers)
    rest = [method for method in found if method not in sure]
    if parts and rest:
        said += f" For {', '.join(rest)} no difference from {baseline} is shown."
    return f"{lead}{said}{end}"


def _told(
    comparison: Comparison,
    condition: str,
    method: str,
    each: Difference,
    cells: dict[tuple[str, str], Cell],
    numbers: Numbers,
) -> str:
    base, cell = cells[condition, comparison.baseline], cells[condition, method]
    groups = {"condition": condition, "method": method, "baseline": comparison.baseline, "outcome": comparison.outcome.name}
    id = f"difference/{condition}/{method}/{comparison.baseline}"
    started = min(cell.started, base.started)
    text = numbers.add_interval(id, groups, each.shown, started, _seeds_of(each, cell, base))
    return f"{text} ({f'paired by {comparison.terms.seed}' if each.paired else 'not paired'}, n = {each.shown.n} of {started})"


def _undecided(
    comparison: Comparison, condition: str, found: dict[str, Difference], cells: dict[tuple[str, str], Cell], numbers: Numbers
) -> str:
    largest = max(found, key=lambda method: abs(found[method].interval.value))
    told = _told(comparison, condition, largest, found[largest], cells, numbers)
    n, error = found[largest].interval.n, found[largest].interval.error
    said = f"In {comparison.outcome.name}, no method is shown to differ from {comparison.baseline}"
    if all(each.interval.value == 0 and each.interval.error == 0 for each in found.values()):
        return f"{said}: all runs of a {comparison.terms.seed} have the same outcome."
    said += f"; the largest difference is that of {largest}, {told}."
    if n < FEWEST:
        return f"{said} Fewer than {FEWEST} runs have no interval."
    if math.isfinite(error) and error > 0 and found[largest].paired:
        needed = detectable_difference(error * math.sqrt(n), n, level=found[largest].shown.level)
        groups = {"condition": condition, "method": largest, "baseline": comparison.baseline, "outcome": comparison.outcome.name}
        id = f"detectable/{condition}/{largest}/{comparison.baseline}"
        formula = "difference that a paired t test of the interval's level finds with 80 % power, from the spread of these pairs"
        text = numbers.add(id, groups, n, n, needed, None, formula, cells[condition, largest].seeds, digits=2)
        said += f" With this spread and n = {n}, a difference of {text} is found with 80 % power."
    return said


def _level(comparison: Comparison, condition: str, method: str, cell: Cell, numbers: Numbers) -> str:
    groups = {"condition": condition, "method": method, "outcome": comparison.outcome.name}
    interval = summary(cell.values, name=comparison.name)
    text = numbers.add_interval(f"main/0/{condition}/{method}", groups, interval, cell.started, cell.seeds)
    return f"{text} (n = {cell.n} of {cell.started})"
