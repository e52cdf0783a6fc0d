"""The report as a measuring instrument: it finds nothing where there is nothing, and what there is as often as it promises."""

from pathlib import Path

import numpy as np
import pandas as pd
from run_folders import config_of, finished, returns, write_run

from plasticity.training.reports.analysis.findings import cells_of, differences_of, find
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.statistics import best_methods, detectable_difference
from plasticity.training.reports.comparison import Comparison, read_comparison
from plasticity.training.reports.specification import Outcome, ReportSettings

REPEATS = 200


def comparison_of(studies: list[dict[str, dict[int, float]]]) -> Comparison:
    """One condition for each study, one row a run, as if they had been read."""
    rows = [
        (str(number), method, seed, value)
        for number, study in enumerate(studies)
        for method, runs in study.items()
        for seed, value in runs.items()
    ]
    runs = pd.DataFrame(rows, columns=["condition", "method", "seed", "value"]).astype({"seed": "Int64"})
    runs = runs.assign(steps=1, step=1, moment=pd.NA, why_not="", structure="", counted=True)
    runs = runs.astype(dict.fromkeys(("steps", "step", "moment"), "Int64"))
    values = pd.DataFrame(
        {"run": np.arange(len(rows), dtype=np.int32), "step": 1, "task": pd.array([pd.NA] * len(rows), "Int32"),
         "name": pd.Categorical(["x"] * len(rows)), "value": runs.pop("value")},
    )  # fmt: skip
    methods, spec = list(studies[0]), ReportSettings(Outcome(value="x"))
    conditions, settings = list(map(str, range(len(studies)))), pd.DataFrame(index=runs.index)
    return Comparison("", "", "test", runs, values, settings, conditions, methods, methods[0], spec, [])


def test_none_against_none_on_disjoint_seeds() -> None:
    """In 200 repeats the interval of the difference contains 0 in about 95 % (binomial sd 1.5 %), and then both are bold."""
    x = np.random.default_rng(0).normal(0.8, 0.05, (REPEATS, 10))
    studies = [{"none": dict(enumerate(row[:5])), "again": dict(zip(range(5, 10), row[5:], strict=True))} for row in x]
    comparison = comparison_of(studies)
    cells = cells_of(comparison, comparison.outcome)
    contained = bold = 0
    for condition in comparison.conditions:
        found = differences_of(comparison, condition, cells)["again"]
        assert not found.paired
        both = best_methods({name: cells[condition, name].values for name in ("none", "again")}, {"none": True, "again": True})
        contained += found.shown.contains_zero
        bold += len(both) == 2
    assert 0.91 <= contained / REPEATS <= 0.99
    assert bold == contained


def test_a_known_difference_is_found_as_often_as_promised() -> None:
    """A difference that 5 pairs find with 80 % power, among seeds that differ far more than the methods do."""
    generator, spread = np.random.default_rng(1), 0.02
    true = detectable_difference(spread, 5)
    seeds = generator.normal(0.8, 0.2, (REPEATS, 5))
    noise = generator.normal(0, spread / np.sqrt(2), (2, REPEATS, 5))
    plain, better = seeds + noise[0], seeds + noise[1] + true
    comparison = comparison_of(
        [{"none": dict(enumerate(a)), "better": dict(enumerate(b))} for a, b in zip(plain, better, strict=True)]
    )
    cells = cells_of(comparison, comparison.outcome)
    differences = [differences_of(comparison, condition, cells)["better"] for condition in comparison.conditions]
    assert all(each.paired for each in differences)
    found = sum(each.shown.low > 0 for each in differences)
    assert 0.72 <= found / REPEATS <= 0.88


def test_one_study_on_disk_of_none_against_none(tmp_path: Path) -> None:
    """The same from run folders, as a user would make them: seeds 0 to 4 under one name, 5 to 9 under another."""
    generator = np.random.default_rng(2)
    for seed in range(10):
        folder = tmp_path / "runs" / "main" / ("none" if seed < 5 else "again") / f"seed_{seed}"
        write_run(folder, config_of(seed), returns(float(generator.normal(0.8, 0.05))), status=finished())
    (tmp_path / "study.yaml").write_text("{name: aa, methods: {none: , again: []}, baseline: none}\n")
    comparison = read_comparison([tmp_path])
    findings = find(comparison, Numbers())
    assert comparison.methods == ["none", "again"]
    assert findings.bold["rollout/return"].tolist() == [True, True]
    assert findings.differences["low"].iloc[0] < 0 < findings.differences["high"].iloc[0]
    assert "no method is shown to differ from none" in findings.answers[0]
    assert "80 % power" not in findings.answers[0]  # the promise is of pairs
