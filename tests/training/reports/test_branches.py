"""Reports of studies of branches, from folders in the true format."""

import csv
import gzip
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from branch_study import REMEDIES, Rows, level_rows, write_branch, write_study
from scipy import stats

from plasticity.training.reports.analysis.at_branch import unequal_at_branch
from plasticity.training.reports.analysis.findings import Findings, find
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison, read_comparison
from plasticity.training.reports.output.branch_tables import branch_tables
from plasticity.training.reports.output.chosen_tables import chosen_table
from plasticity.training.reports.report import report
from plasticity.training.reports.specification import TableSpec, report_settings

# The example of the rules of statistics: gain .0533, t interval [-.0226, .1292].
EXAMPLE = {"unchanged": (0.40, 0.50, 0.45), "redo": (0.46, 0.52, 0.53), "fresh": (0.50, 0.50, 0.50)}
FIGURES = [
    {"id": "trunks", "kind": "curves", "values": ["rollout/return"]},
    {"id": "gains", "kind": "gains"},
    {"id": "predictors", "kind": "predictors"},
]


def of_example(parent: int, moment: int, remedy: str, repeat: int) -> float:
    return EXAMPLE[remedy][parent]


def found_in(folder: Path) -> tuple[Comparison, Findings, Numbers]:
    comparison, numbers = read_comparison([folder]), Numbers()
    return comparison, find(comparison, numbers), numbers


def test_the_gain_of_a_worked_example(tmp_path: Path) -> None:
    two = {name: REMEDIES[name] for name in ("unchanged", "redo")}
    comparison, findings, numbers = found_in(write_study(tmp_path, of_example, remedies=two))
    assert (comparison.conditions, comparison.methods, comparison.baseline) == (["step 300"], ["unchanged", "redo"], "unchanged")
    gain = numbers["difference/step 300/redo/unchanged"]
    assert gain.value == pytest.approx(0.16 / 3)
    assert gain.interval == pytest.approx((-0.0226, 0.1292), abs=5e-5)
    assert gain.formula == "paired differences by parent: mean, Student's t interval, 95 %"
    assert (gain.n, gain.N, gain.seeds) == (3, 3, [0, 1, 2])
    assert findings.main["N"].tolist() == [3, 3]  # trunks are no method
    assert "no remedy besides the baseline is called fresh" in findings.answers[0]


@pytest.mark.parametrize(("fresh", "better", "holds"), [(0.48, "higher", True), (0.47, "higher", False), (0.42, "lower", True)])
def test_first_of_all_it_is_told_whether_there_is_anything_to_remedy(
    tmp_path: Path, fresh: float, better: str, holds: bool
) -> None:
    # Unchanged has .45 in the mean at both moments: .03 is 6.25 % of .48, .02 is 4.3 % of .47, and .03 is 7.1 % of .42.
    def outcome(parent: int, moment: int, remedy: str, repeat: int) -> float:
        early = moment == 100 and remedy == "fresh"  # the first moment does not count
        return 0.45 if early else fresh if remedy == "fresh" else EXAMPLE[remedy][parent]

    spec = {"outcome": {"value": "rollout/return", "label": "return", "better": better}}
    _, findings, numbers = found_in(write_study(tmp_path, outcome, moments=(100, 300), report=spec))
    assert findings.branches is not None
    assert findings.branches.preconditions[""].holds is holds
    share = 100 * abs(fresh - 0.45) / fresh
    assert numbers["precondition/step 300"].value == pytest.approx(share)
    assert f"worse by {numbers['precondition/step 300'].text} %" in findings.answers[0]
    assert findings.answers[0].startswith("There is something to remedy" if holds else "Nothing to remedy")
    assert ("Remedies are not ranked." in findings.answers[0]) is not holds
    assert len(findings.answers) == (3 if holds else 1)
    assert findings.bold["return"].any() == holds
    assert len(findings.differences) == 4  # the gains stand there in any case


def test_repeats_are_averaged_within_the_parent_and_count_all_or_none(tmp_path: Path) -> None:
    def outcome(parent: int, moment: int, remedy: str, repeat: int) -> float:
        return EXAMPLE[remedy][parent] + (0.1 if repeat else -0.1) + (0.06 if remedy == "redo" and repeat else 0)

    study = write_study(tmp_path, outcome, parents=3, repeats=2)
    _, findings, numbers = found_in(study)
    gain = numbers["difference/step 300/redo/unchanged"]
    assert gain.value == pytest.approx(0.16 / 3 + 0.03)
    assert gain.n == 3
    assert findings.main["n"].tolist() == [3, 3, 3]
    shutil.rmtree(study / "branches/main/none/seed_1/step_300/redo/repeat_1")
    comparison, findings, numbers = found_in(study)
    gain = numbers["difference/step 300/redo/unchanged"]
    assert gain.value == pytest.approx((0.06 + 0.08) / 2 + 0.03)
    assert (gain.n, gain.N, gain.seeds) == (2, 3, [0, 2])
    assert any("step 300 / redo seed 1 repeat 1 (missing" in warning for warning in comparison.warnings)
    assert "1 of 3 unfinished (redo)" in " ".join(findings.answers)


def test_pairs_are_those_of_the_parents_that_have_both(tmp_path: Path) -> None:
    study = write_study(tmp_path, of_example)
    for parent, remedy in ((0, "unchanged"), (1, "redo")):
        status = study / f"branches/main/none/seed_{parent}/step_300/{remedy}/repeat_0/status.json"
        status.write_text('{"state": "failed", "step": 350, "steps": 400, "error": "loss is not finite"}')
    _, findings, numbers = found_in(study)
    gain = numbers["difference/step 300/redo/unchanged"]
    assert gain.value == pytest.approx(0.08)
    assert (gain.n, gain.seeds) == (1, [2])
    row = findings.differences.set_index("method").loc["redo"]
    assert bool(row["paired"])


def test_the_outcome_is_of_the_steps_after_the_branch(tmp_path: Path) -> None:
    def outcome(parent: int, moment: int, remedy: str, repeat: int) -> Rows:
        return [(moment + 10 * k, "rollout/return", float(k)) for k in range(1, 11)]

    spec = {"outcome": {"value": "rollout/return", "part": [0.5, 1.0], "label": "second half"}}
    spec["also"] = [{"value": "rollout/return", "part": [0.0, 0.5], "label": "first half"}]  # type: ignore[assignment]
    numbers = found_in(write_study(tmp_path, outcome, moments=(100, 3000), report=spec))[2]
    assert {numbers[f"main/0/{moment}/redo"].value for moment in ("step 100", "step 3,000")} == {8.0}  # 6 7 8 9 10
    assert {numbers[f"main/1/{moment}/redo"].value for moment in ("step 100", "step 3,000")} == {3.0}
    assert not any("no rows between" in warning for warning in read_comparison([tmp_path]).warnings)


def test_recovery_is_counted_and_its_median_is_censored(tmp_path: Path) -> None:
    # Parent 0 is as good as fresh from the second bin on, parent 1 from the fifth, the others never.
    def outcome(parent: int, moment: int, remedy: str, repeat: int) -> Rows:
        start = {0: 2, 1: 5}.get(parent, 99)
        good = 1.0 if remedy == "fresh" else 0.0
        return [(moment + 10 * k, "rollout/return", 1.0 if remedy == "redo" and k >= start else good) for k in range(1, 11)]

    _, findings, numbers = found_in(write_study(tmp_path / "four", outcome, parents=4))
    assert findings.branches is not None
    table = findings.branches.recovery.set_index("method")
    assert list(table.index) == ["unchanged", "redo"]
    assert table.loc["redo", ["n", "recovered", "median", "text"]].tolist() == [4, 2, 50.0, "50.0 steps"]
    assert table.loc["unchanged", "text"] == "not reached in 4 of 4"
    _, findings, numbers = found_in(write_study(tmp_path / "five", outcome, parents=5))
    assert findings.branches is not None
    assert findings.branches.recovery.set_index("method").loc["redo", "text"] == "not reached in 3 of 5"
    assert np.isnan(numbers["recovery/step 300/redo"].value)


def noise(
    parents: int, moments: tuple[int, ...]
) -> tuple[dict[tuple[int, int, str], float], dict[tuple[int, int], dict[str, float]]]:
    generator = np.random.default_rng(3)
    keys = [(parent, moment) for parent in range(parents) for moment in moments]
    outcomes = {(*key, name): float(generator.normal()) for key in keys for name in REMEDIES}
    metrics = {key: {name: float(generator.normal()) for name in ("rank", "probe/loss")} for key in keys}
    for parent, moment in keys:
        metrics[parent, moment]["dormant"] = outcomes[parent, moment, "redo"] - outcomes[parent, moment, "unchanged"]
        metrics[parent, moment] |= {"same": 1.0, "undefined": float("nan"), "rank/q/hidden_0": 0.5}
        for k in range(3):
            metrics[parent, moment][f"rank_repeat_{k}"] = metrics[parent, moment]["rank"] + float(generator.normal())
    return outcomes, metrics


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_predictors_are_those_of_scipy_and_of_loops(tmp_path: Path, better: str) -> None:
    parents, moments, sign = 5, (100, 300), 1 if better == "higher" else -1
    outcomes, metrics = noise(parents, moments)
    spec = {"outcome": {"value": "rollout/return", "label": "return", "better": better}}
    write_study(
        tmp_path, lambda p, m, name, k: outcomes[p, m, name], parents=parents, moments=moments,
        at_branch=lambda p, m: metrics[p, m], report=spec,
    )  # fmt: skip
    comparison, findings, numbers = found_in(tmp_path)
    assert findings.branches is not None
    (found,) = findings.branches.predictors
    assert {each.name for each in found.ranked} == {"dormant", "rank", "probe/loss"}
    assert found.left_out == {"same": "constant", "undefined": "missing or not finite in 10 of 10 networks"}
    gains = {
        (p, m, name): sign * (outcomes[p, m, name] - outcomes[p, m, "unchanged"])
        for p in range(parents) for m in moments for name in ("redo", "fresh")
    }  # fmt: skip
    for name in ("dormant", "rank", "probe/loss"):
        for remedy in ("redo", "fresh"):
            each = [
                stats.spearmanr([metrics[p, m][name] for p in range(parents)], [gains[p, m, remedy] for p in range(parents)])
                for m in moments
            ]
            rho = float(np.mean([one.statistic for one in each]))
            assert numbers[f"predictors/rho/{name}/{remedy}"].value == pytest.approx(rho)
        assert numbers[f"predictors/regret/{name}"].value == pytest.approx(regret_of(metrics, gains, name, parents, moments))
    assert numbers["predictors/rho/dormant/redo"].value == pytest.approx(sign)
    assert found.ranked[0].name == "dormant"
    rule = "predictors/regret/always the others' best"
    assert numbers[rule].value == pytest.approx(regret_of(metrics, gains, "same", parents, moments))
    p = numbers["predictors/p/dormant"].value
    assert 1 / 120 * 0.3 < p < 0.06  # one of 120 permutations, and a few of other metrics
    assert numbers["predictors/reliability/rank"].n == parents
    assert branch_tables(comparison, findings)[2].columns[1:] == ["regret", "p", "reliability", "ρ redo", "ρ fresh"]
    assert any("With fewer than ten parents" in remark for remark in found.remarks)


def regret_of(
    metrics: Mapping[tuple[int, int], Mapping[str, float]], gains: Mapping[tuple[int, int, str], float], name: str, parents: int,
    moments: tuple[int, ...],
) -> float:  # fmt: skip
    lost = []
    for parent in range(parents):
        for moment in moments:
            others = [each for each in range(parents) if each != parent]
            x = [metrics[each, moment][name] for each in others]
            best, chosen = 0.0, "unchanged"
            for remedy in ("redo", "fresh"):
                y = [gains[each, moment, remedy] for each in others]
                line = stats.linregress(x, y) if len(set(x)) > 1 else None
                told = float(np.mean(y)) if line is None else line.intercept + line.slope * metrics[parent, moment][name]
                best, chosen = (told, remedy) if told > best else (best, chosen)
            own = {"unchanged": 0.0, **{remedy: gains[parent, moment, remedy] for remedy in ("redo", "fresh")}}
            lost.append(max(own.values()) - own[chosen])
    return float(np.mean(lost))


def test_what_a_table_of_predictors_holds_back(tmp_path: Path) -> None:
    outcomes, metrics = noise(3, (300,))
    study = write_study(tmp_path, lambda p, m, name, k: outcomes[p, m, name], at_branch=lambda p, m: metrics[p, m])
    comparison, findings, _ = found_in(study)
    table = branch_tables(comparison, findings)[2]
    assert "no p can be below 0.17" in table.note
    assert "Not ranked: same (constant); undefined (missing or not finite in 3 of 3 networks)." in table.note
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["rank"]["reliability"] != ""
    assert rows["dormant"]["reliability"] == ""
    shutil.rmtree(study / "branches/main/none/seed_2/step_300/fresh")
    comparison, findings, _ = found_in(study)
    table = branch_tables(comparison, findings)[2]
    assert not table.rows
    assert "2 of 3 parents have all branches; 3 are needed." in table.note


def test_remedies_that_did_not_begin_with_one_network_are_named(tmp_path: Path) -> None:
    study = write_study(tmp_path, of_example, at_branch=lambda p, m: {"rank": 1.0 + p, "undefined": float("nan")})
    assert unequal_at_branch(read_comparison([study])) == []
    table = study / "branches/main/none/seed_1/step_300/redo/repeat_0/metrics.csv"
    table.write_text(table.read_text().replace("at_branch/rank,2.0", "at_branch/rank,2.5"))
    (said,) = unequal_at_branch(read_comparison([study]))
    assert said.endswith("values measured at the branch differ: step 300 parent 1 (rank).")


def test_several_trunks_are_groups_of_moments(tmp_path: Path) -> None:
    cells = (("relu", "none"), ("relu", "l2"), ("tanh", "none"))
    study = write_study(tmp_path, of_example, moments=(100, 300), cells=cells)
    comparison, findings, _ = found_in(study)
    assert comparison.conditions == [
        f"{group}: step {step}" for group in ("relu / none", "relu / l2", "tanh / none") for step in (100, 300)
    ]
    assert len(findings.branches.preconditions) == 3  # type: ignore[union-attr]
    assert len(comparison.runs) == 9 + 54
    trunks = comparison.runs[comparison.runs["remedy"] == ""]
    assert sorted(set(trunks["condition"])) == ["trunk relu", "trunk tanh"]
    assert comparison.runs["counted"].all()


def test_a_checkpoint_may_stand_after_the_moment_that_the_study_names(tmp_path: Path) -> None:
    def outcome(parent: int, moment: int, remedy: str, repeat: int) -> Rows:
        return [(moment + 10 * k, "rollout/return", float(k)) for k in range(1, 11)]

    spec = {"outcome": {"value": "rollout/return", "part": [0.5, 1.0], "label": "second half"}}
    study = write_study(tmp_path, outcome, report=spec)
    for path in study.glob("branches/*/*/*/*/*/*/config.yaml"):
        path.write_text(path.read_text().replace("step: 300", "step: 320"))
    comparison, _, numbers = found_in(study)
    assert comparison.conditions == ["step 300"]
    assert comparison.runs["moment"].dropna().unique().tolist() == [320]
    assert numbers["main/0/step 300/redo"].value == 8.5  # of steps 360 to 400: 7 8 9 10


def test_what_the_plan_has_and_the_folder_lacks_is_missing(tmp_path: Path) -> None:
    study = write_study(tmp_path, of_example, parents=2)
    shutil.rmtree(study / "branches/main/none/seed_0")
    planned = read_comparison([study]).runs
    (study / "plan.csv").unlink()
    runs = read_comparison([study]).runs
    for each in (planned, runs):
        assert each["state"].tolist().count("missing") == 3
        assert len(each) == 2 + 6
    place = study / "branches/main/none/seed_7/step_300/redo/repeat_0"
    write_branch(place, study / "runs/main/none/seed_7", 7, 300, level_rows(300, 0.5), ["method=redo"])
    runs = read_comparison([study]).runs
    lost = sorted(runs.loc[~runs["counted"], "why_not"])
    assert lost == ["missing: its folder is missing"] * 3 + ["the study does not plan it"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    outcomes, metrics = noise(4, (100, 300))
    spec: dict[str, Any] = {"outcome": {"value": "rollout/return", "label": "return"}, "figures": FIGURES}
    write_study(
        root / "study", lambda p, m, name, k: outcomes[p, m, name], parents=4, moments=(100, 300),
        at_branch=lambda p, m: metrics[p, m], report=spec,
    )  # fmt: skip
    report([root / "study"], root / "out", root / "all.zip")
    return root


def test_the_folder_has_figures_tables_and_columns_of_branches(made: Path) -> None:
    out = made / "out"
    told = json.loads((out / "report.json").read_text())
    assert told["not_drawn"] == {}
    for name in ("trunks", "gains", "predictors"):
        assert {path.suffix for path in (out / "figures").glob(f"{name}.*")} == {".png", ".pdf", ".csv"}
    for name in ("gains", "recovery", "predictors"):
        assert {path.suffix for path in (out / "tables").glob(f"{name}.*")} == {".csv", ".md", ".tex"}
    with gzip.open(out / "data" / "values.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:8] == ["run", "condition", "method", "seed", "moment", "remedy", "repeat", "parent"]
    branch = next(row for row in rows if row["remedy"] == "redo")
    assert (branch["condition"], branch["moment"], branch["repeat"]) == ("step 100", "100", "0")
    assert branch["parent"] == "../study/runs/main/none/seed_0"
    with (out / "data" / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert [row["moment"] for row in runs].count("") == 4
    assert (out / runs[-1]["parent"] / "metrics.csv").is_file()
    page = (out / "index.html").read_text()
    assert page.index("to remedy") < page.index("Outcome by remedy")
    assert "24 of 24 branches and 4 of 4 trunks count" in page
    assert "branch.run=../study/runs/main/none/seed_0 branch.step=100 method=redo" in page


def test_the_curves_show_the_trunk_up_to_each_branch(made: Path) -> None:
    with (made / "out" / "figures" / "trunks.csv").open() as file:
        rows = list(csv.DictReader(file))
    x = {
        (panel, name): [float(row["x"]) for row in rows if (row["condition"], row["method"]) == (panel, name)]
        for panel in ("trunk", "step 100", "step 300") for name in ("trunk", "redo")
    }  # fmt: skip
    assert (min(x["trunk", "trunk"]), max(x["trunk", "trunk"]), x["trunk", "redo"]) == (10, 300, [])
    assert (min(x["step 100", "trunk"]), max(x["step 100", "trunk"])) == (10, 100)
    assert (min(x["step 300", "trunk"]), max(x["step 300", "trunk"])) == (110, 300)  # two branches before it
    assert (min(x["step 300", "redo"]), max(x["step 300", "redo"])) == (310, 400)


def test_the_page_is_rebuilt_from_the_bundle_which_names_no_folder_of_the_machine(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made / "all.zip") as file:
        names = [name for name in file.namelist() if not name.endswith((".png", ".pdf", ".gz"))]
        assert [name for name in names if str(made).encode() in file.read(name)] == []
    shutil.copy(made / "all.zip", tmp_path / "all.zip")
    again = report([tmp_path / "all.zip"], tmp_path / "again").parent
    old, new = (json.loads((place / "report.json").read_text()) for place in (made / "out", again))
    for content in (old, new):
        for number in content["numbers"]:
            number["groups"].pop("folder", None)
    for part in ("title", "answers", "warnings", "numbers", "figures", "methods", "conditions", "baseline"):
        assert old[part] == new[part], part
    parents = {run["parent"] for run in new["runs"]} - {""}
    assert len(parents) == 4
    assert all((again / parent / "metrics.csv").is_file() for parent in parents)


def test_trunks_are_drawn_before_any_branch_has_begun(tmp_path: Path) -> None:
    from plasticity.training.reports.figures import draw
    from plasticity.training.reports.specification import Figure

    study = write_study(tmp_path, of_example)
    shutil.rmtree(study / "branches")
    comparison, findings, _ = found_in(study)
    data = draw(comparison, Figure(id="a", values=["rollout/return"]), Numbers()).data
    assert set(data["method"]) == {"trunk"}
    assert data["n"].tolist() == [3] * len(data)
    assert "no parent has both unchanged and fresh (0 of 3)" in findings.answers[0]
    recovery = branch_tables(comparison, findings)[1]
    assert [row[2:] for row in recovery.rows] == [["0 of 3", "–", "–"]] * 2


def test_an_outcome_that_no_branch_has_is_no_crash(tmp_path: Path) -> None:
    study = write_study(tmp_path, of_example, report={"outcome": {"value": "no/such"}})
    _, findings, _ = found_in(study)
    assert findings.main["n"].tolist() == [0, 0, 0]
    assert "It is unknown whether" in findings.answers[0]


def test_a_figure_may_name_a_trunk_or_a_moment(made: Path) -> None:
    from plasticity.training.reports.figures import draw
    from plasticity.training.reports.specification import Figure

    comparison = read_comparison([made / "study"])
    for names, panels in ((["main"], 3), (["step 300"], 2)):
        figure = Figure(id="a", values=["rollout/return"], conditions=names)
        assert len(draw(comparison, figure, Numbers()).panels) == panels
    with pytest.raises(ValueError, match="there is no moment nowhere; there are step 100, step 300"):
        draw(comparison, Figure(id="a", kind="gains", conditions=["nowhere"]), Numbers())


def test_kinds_of_branches_refuse_other_runs_and_settings(tmp_path: Path) -> None:
    from run_folders import config_of, finished, returns, write_run

    from plasticity.training.reports.figures import draw
    from plasticity.training.reports.specification import Figure

    write_run(tmp_path / "0", config_of(0), returns(0.5), status=finished())
    comparison = read_comparison([tmp_path])
    for kind in ("gains", "predictors"):
        with pytest.raises(ValueError, match=f"{kind} need a study with branches"):
            draw(comparison, Figure(id="a", kind=kind), Numbers())
    with pytest.raises(ValueError, match=r"report\.figures\.0\.window does not belong to kind=gains, which has outcome"):
        report_settings({"figures": [{"id": "a", "kind": "gains", "window": 3}]})


def test_a_table_of_remedies_and_moments_averages_repeats(tmp_path: Path) -> None:
    def outcome(parent: int, moment: int, remedy: str, repeat: int) -> Rows:
        return level_rows(moment, EXAMPLE[remedy][parent] + repeat)

    comparison = read_comparison([write_study(tmp_path, outcome, repeats=2)])
    table = chosen_table(comparison, TableSpec(id="mine", rows="remedy", columns="moment"), Numbers())
    assert table.columns == ["remedy", "step 300"]
    assert next(iter(table.rows)) == ["unchanged", "0.95 [0.83, 1.07] (n = 3)"]  # .90 1.0 .95: sd .05, t 4.303, n 3
