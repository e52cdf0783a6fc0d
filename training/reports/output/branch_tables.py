"""The tables of a study of branches: gains by remedy and moment, recovery, and what predicts the gains."""

from typing import Final

from plasticity.training.reports.analysis.findings import Findings
from plasticity.training.reports.analysis.predicting import PERMUTATIONS
from plasticity.training.reports.analysis.predictors import OTHERS, Predictors, Ranked
from plasticity.training.reports.analysis.recovery import BINS
from plasticity.training.reports.comparison import Comparison
from plasticity.training.reports.output.tables import Table
from plasticity.training.reports.reading.branches import FRESH

BRANCH_TABLES: Final = ("gains", "recovery", "predictors")


def branch_tables(comparison: Comparison, found: Findings) -> list[Table]:
    """Returns the tables of a study of branches; none of another comparison."""
    if found.branches is None:
        return []
    return [_gains(comparison, found), _recovery(comparison, found), _predictors(comparison, found.branches.predictors)]


def _gains(comparison: Comparison, found: Findings) -> Table:
    """Returns outcome and gain of every remedy, moments next to each other."""
    assert comparison.branches is not None
    outcome = comparison.outcome.name
    main = {(row["condition"], row["method"]): str(row[outcome]) for _, row in found.main.iterrows()}
    strong = {(row["condition"], row["method"]) for _, row in found.bold.iterrows() if row[outcome]}
    gains = {(row["condition"], row["method"]): str(row["difference"]) for _, row in found.differences.iterrows()}
    groups, moments = comparison.branches.groups, comparison.branches.moments
    steps = sorted({moment.step for moment in moments.values()})
    several = len(groups) > 1
    rows, bold = list[list[str]](), set[tuple[int, int]]()
    for group, names in groups.items():
        by_step = {moments[name].step: name for name in names}
        for remedy in comparison.methods:
            row = [*([group] if several else []), remedy]
            for step in steps:
                key = by_step.get(step, ""), remedy
                bold |= {(len(rows), len(row))} if key in strong else set()
                row += [main.get(key, "–"), "" if remedy == comparison.baseline else gains.get(key, "–")]
            rows.append(row)
    columns = [*(["trunk"] if several else []), "remedy"]
    columns += [name for step in steps for name in (f"step {step:,}", f"gain at {step:,}")]
    note = (
        f"{outcome}, and gain: remedy minus {comparison.baseline} of the same parent and moment; {comparison.outcome.better} is "
        "better. Repeats of a branch are averaged within the parent first; a parent counts if all its repeats finished. "
        "Intervals are over parents: of the outcome as in the table above, of gains Student's t, adjusted by Holm for all "
        "remedies of a moment."
    )
    return Table("gains", "Outcome and gain by remedy and moment", columns, rows, frozenset(bold), note, names=1 + several)


def _recovery(comparison: Comparison, found: Findings) -> Table:
    """Returns which remedies caught up with a fresh network, and when."""
    assert found.branches is not None
    rows = [
        [str(row["condition"]), str(row["method"]), f"{row['n']} of {row['N']}", _share(row["recovered"], row["n"]), row["text"]]
        for _, row in found.branches.recovery.iterrows()
    ]
    note = (
        f"The steps after the branch are cut into {BINS} bins. A branch has recovered at the end of the first bin from "
        f"which on, in every bin, its mean {comparison.outcome.value} is at least as good as that of {FRESH} on the same "
        "parent and moment (bins in which one of the two has no rows are not used). Median: steps after the branch until "
        "recovery, by Kaplan and Meier over parents, censored at the end of the branch."
    )
    return Table(
        "recovery", f"Recovery to {FRESH}", ["moment", "remedy", "parents", "recovered", "median"], rows, note=note, names=2
    )


def _share(recovered: int, n: int) -> str:
    return f"{recovered} of {n}" if n else "–"


def _predictors(comparison: Comparison, groups: list[Predictors]) -> Table:
    """Returns all metrics at the branch, under the rules that need none."""
    several = len(groups) > 1
    remedies = [name for name in comparison.methods if any(name in each.remedies for each in groups)]
    rows = [
        [*([each.group] if several else []), *_row(ranked, remedies)] for each in groups for ranked in (*each.rules, *each.ranked)
    ]
    columns = [*(["trunk"] if several else []), "metric at the branch", "regret", "p", "reliability"]
    columns += [f"ρ {name}" for name in remedies]
    note = (
        "ρ: Spearman's rank correlation over parents, within a moment, of the metric with the gain over "
        f"{comparison.baseline} in the direction of better, averaged over the moments in which both vary. p: family-wise, share "
        f"of {PERMUTATIONS:,} permutations of parents whose largest |ρ| of all metrics and remedies is as large as the row's. "
        "Regret: outcome of the best remedy minus that of the chosen one, in the direction of better, the mean over moments and "
        "then over parents with Student's t interval; 0 is an oracle. For each parent left out a metric chooses the remedy with "
        "the largest gain that a least-squares line, fitted to the other parents within the moment, predicts "
        f"({comparison.baseline} has 0). The rule to beat: {OTHERS}, the remedy best on the other parents within the moment. "
        "Reliability: ICC(1,1) over networks, where a measurement was repeated."
    )
    remarks = [_told(each) for each in groups]
    return Table(
        "predictors", "What predicts the gains", columns, rows, note=" ".join(filter(None, [note, *remarks])), names=1 + several
    )


def _row(ranked: Ranked, remedies: list[str]) -> list[str]:
    rho = [ranked.rho_texts.get(name, "") for name in remedies]
    return [ranked.name, ranked.regret_text, ranked.p_text, ranked.reliability, *rho]


def _told(found: Predictors) -> str:
    """Returns what a reader must know about a group of trunks, in sentences."""
    reasons = list(dict.fromkeys(found.left_out.values()))
    left_out = [f"{', '.join(name for name, why in found.left_out.items() if why == reason)} ({reason})" for reason in reasons]
    told = [*found.remarks, *([f"Not ranked: {'; '.join(left_out)}."] if left_out else [])]
    return f"{found.group}: {' '.join(told)}" if found.group and told else " ".join(told)
