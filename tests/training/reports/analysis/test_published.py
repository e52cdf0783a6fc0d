"""The numbers of papers next to those of runs, by hand."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from compared_runs import write_comparison

from plasticity.training.reports.analysis.published import difference_from_paper
from plasticity.training.reports.comparison import read_comparison
from plasticity.training.reports.report import make_report
from plasticity.training.reports.specification import Figure, Outcome, Published, ReportSettings

# Mean 88.49 and standard deviation 0.2 of three runs; the paper's three have 88.65 and 0.4. Squared standard errors 0.04 / 3 and
# 0.16 / 3, together 0.2 / 3; degrees of freedom (0.2 / 3)^2 / ((0.04 / 3)^2 / 2 + (0.16 / 3)^2 / 2) = 50 / 17, where t is 3.2198.
RUNS = pd.Series([88.29, 88.49, 88.69])


@pytest.mark.parametrize(
    ("kind", "spread"),
    [("sd", 0.4), ("se", 0.4 / math.sqrt(3)), ("ci", 4.302653 * 0.4 / math.sqrt(3))],  # t of two degrees of freedom
)
def test_difference_from_a_paper_by_hand(kind: str, spread: float) -> None:
    found = difference_from_paper(RUNS, Published(value=88.65, spread=spread, kind=kind, n=3))
    assert found.value == pytest.approx(-0.16)
    assert found.freedom == pytest.approx(50 / 17, rel=1e-5)
    assert (found.low, found.high) == pytest.approx(
        (-0.16 - 3.2198 * math.sqrt(0.2 / 3), -0.16 + 3.2198 * math.sqrt(0.2 / 3)), abs=1e-3
    )


@pytest.mark.parametrize("missing", [{"spread": None, "n": 3}, {"spread": 0.4, "n": None}, {"spread": 0.4, "n": 2}])
def test_what_a_paper_does_not_say_leaves_no_interval(missing) -> None:
    found = difference_from_paper(RUNS, Published(value=88.65, **missing))
    assert found.value == pytest.approx(-0.16)
    assert not found.known


def test_the_page_and_its_json_say_paper_here_and_difference(tmp_path: Path) -> None:
    write_comparison(tmp_path / "runs")
    comparison = read_comparison([tmp_path / "runs"])
    condition, method = comparison.conditions[0], comparison.methods[1]
    outcome = Outcome(value="task/online_accuracy", by="task", better="higher")
    published = [
        Published(condition=condition, method=method, value=0.5, spread=0.25, n=4, where="table 1"),
        Published(condition=condition, method="unheard_of", value=0.75),
    ]
    spec = ReportSettings(outcome, figures=[Figure(id="final", kind="final")], published=published)
    page = make_report(read_comparison([tmp_path / "runs"], spec), tmp_path / "out").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    ran, not_run = report["published"]
    number = next(each for each in report["numbers"] if each["id"] == "published/0")
    of_runs = [each for each in report["numbers"] if each["id"].startswith("run/")]
    values = [each["value"] for each in of_runs if (each["groups"]["condition"], each["groups"]["method"]) == (condition, method)]
    assert number["value"] == pytest.approx(sum(values) / len(values) - 0.5)
    assert f"{method}: paper 0.50 ± 0.25 (sd, n = 4; table 1), here " in ran.removeprefix(f"{condition}, ")
    assert ran.endswith(f"(sd, n = {len(values)}), difference {number['text']}.")
    assert not_run.endswith("unheard_of: paper 0.7500, here not run.")
    assert all(each in page for each in (ran, not_run))
