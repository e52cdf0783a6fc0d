"""Reports of branches that are given as ordinary run folders."""

import csv
import json
import zipfile
from pathlib import Path

import pytest
from branch_study import level_rows, write_branch
from run_folders import config_of, finished, write_run

from plasticity.training.reports.analysis.findings import find
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import read_comparison
from plasticity.training.reports.report import report
from plasticity.training.reports.specification import Figure, ReportSettings

SEEDS = (0, 1, 2)


def write_trunks(folder: Path) -> Path:
    for seed in SEEDS:
        rows = [(step, "rollout/return", 0.5) for step in range(10, 501, 10)]
        write_run(folder / f"trunk_{seed}", config_of(seed, steps=500), rows, [f"seed={seed}"], finished(500))
    return folder


def write_branches(folder: Path, step: int, method: str, value: float, repeat: int = 0) -> None:
    for seed in SEEDS:
        words = [] if method == "none" else [f"method={method}"]
        place = folder / f"{method}_{step}_{repeat}_{seed}"
        write_branch(place, folder / f"trunk_{seed}", seed, step, level_rows(step, value + 0.01 * seed), words, repeat)


def test_branches_of_one_parent_are_grouped_by_method_in_one_condition(tmp_path: Path) -> None:
    write_trunks(tmp_path)
    for method, value in (("redo", 0.7), ("fire", 0.6)):
        write_branches(tmp_path, 300, method, value)
    comparison, numbers = read_comparison([tmp_path]), Numbers()
    assert (comparison.conditions, comparison.methods, comparison.branches) == (["main"], ["none", "fire", "redo"], None)
    found = find(comparison, numbers)
    assert found.main["N"].tolist() == [3, 3, 3]
    assert numbers["main/0/main/redo"].value == pytest.approx(0.71)
    assert not [name for name in (*comparison.settings, *comparison.config) if "sha256" in name or name == "branch.run"]
    assert "The outcome of a branch is over its own steps, the outcome of the other runs over all steps." in (comparison.warnings)


def test_one_method_from_several_moments_is_named_after_them(tmp_path: Path) -> None:
    write_trunks(tmp_path)
    write_branches(tmp_path, 300, "none", 0.5)
    write_branches(tmp_path, 100, "redo", 0.7)
    write_branches(tmp_path, 300, "redo", 0.6)
    comparison = read_comparison([tmp_path])
    assert comparison.conditions == ["main"]
    assert sorted(comparison.methods) == [
        "none (from step 0)", "none (from step 300)", "redo (from step 100)", "redo (from step 300)",
    ]  # fmt: skip
    assert comparison.runs.groupby("method").size().tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("repeat", [0, 1])
def test_an_unchanged_branch_is_another_method_than_its_parent(tmp_path: Path, repeat: int) -> None:
    write_trunks(tmp_path)
    write_branches(tmp_path, 300, "none", 0.7, repeat)
    comparison, numbers = read_comparison([tmp_path]), Numbers()
    assert comparison.methods == ["none (from step 300)", "none (from step 0)"]
    find(comparison, numbers)
    assert numbers["main/0/main/none (from step 0)"].value == pytest.approx(0.5)


def test_repeats_are_averaged_within_the_parent(tmp_path: Path) -> None:
    write_trunks(tmp_path)
    for repeat, value in enumerate((0.6, 0.8)):
        write_branches(tmp_path, 300, "redo", value, repeat)
    comparison, numbers = read_comparison([tmp_path]), Numbers()
    assert comparison.methods == ["none", "redo"]
    find(comparison, numbers)
    assert numbers["main/0/main/redo"].value == pytest.approx(0.71)
    assert numbers["main/0/main/redo"].n == 3


def test_what_all_branches_change_in_the_problem_is_no_condition(tmp_path: Path) -> None:
    write_trunks(tmp_path)
    for method in ("none", "redo"):
        write_branches(tmp_path, 300, method, 0.7)
    for path in tmp_path.glob("*_300_0_*/config.yaml"):
        path.write_text(path.read_text().replace("name: catch", "name: catch\n  rows: 12"))
    comparison = read_comparison([tmp_path])
    assert comparison.conditions == ["main"]
    assert any("Other differences" in warning and "env.rows" in warning for warning in comparison.warnings)


def test_curves_overlay_trunk_and_branches_and_the_bundle_finds_the_parents(tmp_path: Path) -> None:
    write_trunks(tmp_path / "trunks")
    for seed in SEEDS:
        trunk = tmp_path / "trunks" / f"trunk_{seed}"
        write_branch(tmp_path / "redo" / str(seed), trunk, seed, 300, level_rows(300, 0.7), ["method=redo"])
    folders = [tmp_path / "trunks", tmp_path / "redo"]
    out = report(folders, tmp_path / "out", tmp_path / "all.zip").parent
    with (out / "figures" / "outcome.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["mean"]]
    x = {method: [float(row["x"]) for row in rows if row["method"] == method] for method in ("none", "redo")}
    assert (min(x["none"]), max(x["none"]), min(x["redo"]), max(x["redo"])) == (10, 500, 310, 400)
    with (out / "data" / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert [row["parent"] for row in runs] == [""] * 3 + [f"../trunks/trunk_{seed}" for seed in SEEDS]
    assert "branch.run=../trunks/trunk_0 branch.step=300 method=redo" in (out / "index.html").read_text()
    with zipfile.ZipFile(tmp_path / "all.zip") as file:
        names = [name for name in file.namelist() if not name.endswith((".png", ".pdf", ".gz"))]
        assert [name for name in names if str(tmp_path).encode() in file.read(name)] == []
    again = report([tmp_path / "all.zip"], tmp_path / "again").parent
    told = json.loads((again / "report.json").read_text())["runs"]
    assert [(again / run["parent"] / "config.yaml").is_file() for run in told[3:]] == [True] * 3


def test_a_branch_with_many_rows_is_binned_from_where_it_begins(tmp_path: Path) -> None:
    from plasticity.training.reports.figures import draw

    rows = [(step, "rollout/return", 1.0) for step in range(10_001, 10_501)]
    write_branch(tmp_path / "b", tmp_path / "gone", 0, 10_000, rows, ["method=redo"])
    spec = ReportSettings(figures=[Figure(id="a", values=["rollout/return"])])
    data = draw(read_comparison([tmp_path], spec), spec.figures[0], Numbers()).data
    assert len(data) == 200
    assert data["n"].tolist() == [1] * 200  # no bins before the branch
