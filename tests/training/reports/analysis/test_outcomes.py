from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_folders import config_of, finished, returns, write_run

from plasticity.training.reports.analysis.findings import find, what_goes_with
from plasticity.training.reports.analysis.numbers import Numbers, number_text
from plasticity.training.reports.analysis.outcomes import _named, binned, over_seeds, run_outcome, without_outcome
from plasticity.training.reports.comparison import Comparison, read_comparison
from plasticity.training.reports.specification import Normalise, Outcome, report_settings
from plasticity.training.saving.identity import identity

NAN = float("nan")
ROWS = [
    (0, "v", 100.0), (20, "v", 1.0), (40, "v", 2.0), (50, "v", 3.0), (50, "task/number", 0.0), (60, "v", NAN), (80, "v", 8.0),
    (100, "v", 10.0), (100, "task/number", 1.0),
]  # fmt: skip


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    write_run(tmp_path / "0", config_of(0), ROWS, status=finished())
    write_run(
        tmp_path / "1", config_of(1), [(step, name, 2 * value) for step, name, value in ROWS[:3]], status={"state": "failed"}
    )
    return read_comparison([tmp_path])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 124 / 6),
        ({"part": [0.0, 0.5]}, 106 / 4),
        ({"part": [0.5, 1.0]}, 9.0),  # the row at the half belongs to the first half alone
        ({"part": [0.5, 1.0], "scale": 100.0}, 900.0),
        ({"part": [0.5, 1.0], "normalise": Normalise(low=4.0, high=14.0)}, 0.5),
        ({"part": [0.1, 1.0], "reduce": "last"}, 10.0),
        ({"part": [0.1, 1.0], "reduce": "min"}, 1.0),
        ({"reduce": "max"}, 100.0),
        ({"part": [0.1, 0.5], "reduce": "area"}, (1.5 * 20 + 2.5 * 10) / 30),
        ({"part": [0.7, 0.9], "reduce": "area"}, 8.0),
        ({"part": [0.1, 1.0], "by": "task"}, (2.0 + 9.0) / 2),
        ({"part": [0.55, 0.7]}, NAN),
    ],
)
def test_one_number_by_hand(comparison: Comparison, more, expected) -> None:
    assert run_outcome(comparison, Outcome(value="v", **more))[0] == pytest.approx(expected, nan_ok=True)


def test_scores_of_a_list_are_those_of_the_runs_own_value(tmp_path: Path) -> None:
    for number, game in enumerate(("pong", "breakout", "chess")):
        config = {**config_of(number), "env": {"name": "atari", "game": game}}
        write_run(tmp_path / str(number), config, [(100, "v", 12.0)], status=finished())
    outcome = Outcome(value="v", normalise=Normalise(scores="atari_57"), scale=100.0)
    found = run_outcome(read_comparison([tmp_path]), outcome)
    # Pong from -20.7 to 14.6 and Breakout from 1.7 to 30.5; there are none for the third.
    assert found.tolist() == pytest.approx([100 * 32.7 / 35.3, 100 * 10.3 / 28.8, NAN], nan_ok=True)
    alone = read_comparison([tmp_path / "0"])
    assert run_outcome(alone, outcome).tolist() == pytest.approx([100 * 32.7 / 35.3])
    with pytest.raises(ValueError, match=r"^scores=atari_75 is unknown \(did you mean atari_57\?\); lists with"):
        Normalise(scores="atari_75")


def test_a_run_without_the_value_has_no_outcome(comparison: Comparison) -> None:
    assert run_outcome(comparison, Outcome(value="v", part=[0.5, 1.0])).isna().tolist() == [False, True]
    assert run_outcome(comparison, Outcome(value="none of it")).isna().all()


def test_an_infinite_outcome_does_not_count(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), config_of(seed), [(100, "train/loss", float("inf") if seed else 1.0)], status=finished())
    comparison = read_comparison([tmp_path])
    row = find(comparison, Numbers()).main.iloc[0]
    assert (row["n"], row["N"], row["train/loss"]) == (1, 3, "1.00")
    said = "2 runs finished without a finite train/loss: main / none seed 1, main / none seed 2."
    assert without_outcome(comparison) == [said]
    assert without_outcome(replace(comparison, runs=comparison.runs.assign(counted=False))) == []


def test_bins_are_means_and_empty_ones_stay_empty(comparison: Comparison) -> None:
    table = binned(comparison, "v", bins=5)
    assert table.columns.tolist() == [20, 40, 60, 80, 100]
    assert table.loc[0].tolist() == pytest.approx([50.5, 2, 3, 8, 10])
    assert table.loc[1].tolist() == pytest.approx([101, 4, NAN, NAN, NAN], nan_ok=True)
    assert binned(comparison, "v").columns.tolist() == [0, 20, 40, 50, 60, 80, 100]  # at 60 a NaN, which stays a gap
    by_task = binned(comparison, "v", by="task")
    assert by_task.loc[0].tolist() == pytest.approx([106 / 4, 9])
    smooth = binned(comparison, "v", bins=5, window=2)
    assert smooth.loc[0].tolist() == pytest.approx([50.5, 26.25, 2.5, 5.5, 9])
    assert smooth.loc[1].isna().tolist() == [False, False, True, True, True]
    assert binned(comparison, "absent").empty


def test_long_curves_have_200_bins_that_hold_every_row(tmp_path: Path) -> None:
    write_run(
        tmp_path / "0", config_of(0, steps=5000), [(step, "v", float(step)) for step in range(1, 5001)], status=finished(5000)
    )
    table = binned(read_comparison([tmp_path]), "v")
    assert table.shape == (1, 200)
    assert table.loc[0].to_numpy() == pytest.approx(np.arange(200) * 25 + 13.0)


def test_bands_over_seeds(tmp_path: Path) -> None:
    for seed, value in enumerate((1.0, 2.0, 3.0)):
        rows = [(10, "v", value), *([(20, "v", value)] if seed else [])]
        write_run(tmp_path / str(seed), config_of(seed), rows, status=finished())
    comparison = read_comparison([tmp_path])
    table = binned(comparison, "v")
    bands = {band: over_seeds(table, comparison.runs.index, band) for band in ("auto", "sd", "se")}
    assert bands["sd"].loc[10].tolist() == pytest.approx([2, 1, 3, 3])
    assert bands["se"].loc[10, "high"] == pytest.approx(2 + 1 / np.sqrt(3))
    assert bands["auto"].loc[10, "high"] == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-3)
    for band in bands.values():
        assert band.loc[20].tolist() == pytest.approx([2.5, NAN, NAN, 2], nan_ok=True)


def test_metric_at_a_moment_against_the_outcome_after_it(tmp_path: Path) -> None:
    """The metric up to the half ranks the seeds as the outcome after it does, although later rows of it do not."""
    for method in ("none", "redo"):
        for seed in range(5):
            rows = [
                (50, "plasticity/rank", float(seed)), (50, "plasticity/rank/q/dense_1", 1.0 * seed),
                (50, "plasticity/rank_repeat_0", 1.0 * seed), (50, "plasticity/rank_repeat_12", -1.0 * seed),
                (50, "rollout/return", -float(seed)), (60, "plasticity/rank", -float(seed)), (100, "rollout/return", float(seed)),
            ]  # fmt: skip
            interventions = {"redo": {}} if method == "redo" else {}
            write_run(tmp_path / f"{method}{seed}", config_of(seed, interventions=interventions), rows, status=finished())
    comparison, numbers = read_comparison([tmp_path]), Numbers()
    found = what_goes_with(comparison, numbers)
    assert found["metric"].tolist() == ["rank"]
    assert found["within"].tolist() == pytest.approx([1.0])
    assert found["p"].iloc[0] < 0.01
    assert found["groups"].tolist() == [2]
    assert numbers["relations/within/main/rank"].n == 10
    asked = what_goes_with(comparison, Numbers(), metrics=["rank_repeat_12"])
    assert asked["within"].tolist() == pytest.approx([-1.0])
    with pytest.raises(ValueError, match="starts before the metric's moment"):
        what_goes_with(comparison, Numbers(), outcome=Outcome(value="rollout/return"))


def test_numbers_are_printed_with_the_digits_that_are_known() -> None:
    assert number_text(0.82, (0.7703, 0.8697)) == "0.820 [0.770, 0.870]"
    assert number_text(12345.6, (12000, 12600)) == "12346 [12000, 12600]"
    assert number_text(88.654) == "88.7"
    assert number_text(-0.001, (-0.3, 0.3)) == "0.00 [-0.30, 0.30]"
    assert number_text(NAN) == "–"
    numbers = Numbers()
    numbers.add("a", {}, 3, 3, 0.5, None, "mean")
    assert numbers.add("a", {}, 3, 3, 0.5, None, "mean") == "0.500"
    with pytest.raises(ValueError, match=r"the number a is there twice, as 0\.500 and as 0\.600"):
        numbers.add("a", {}, 3, 3, 0.6, None, "mean")
    assert numbers.records()[0] == {
        "id": "a", "groups": {}, "n": 3, "N": 3, "value": 0.5, "interval": None, "formula": "mean", "seeds": [], "text": "0.500",
    }  # fmt: skip


def test_settings_of_a_report_are_checked_in_one_line() -> None:
    spec = report_settings({"outcome": {"value": "v", "part": [0, 1], "scale": 100}, "figures": [{"id": "a", "kind": "final"}]})
    assert spec.outcome == Outcome(value="v", scale=100.0)
    assert report_settings(asdict(spec)) == spec
    assert report_settings({"also": ["v"]}).also == [Outcome(value="v")]
    for wrong, said in (
        ({"outcom": 1}, r"report.outcom is unknown \(did you mean outcome\?\)"),
        ({"outcome": {"value": "v", "part": [1, 0]}}, "the smaller first"),
        ({"outcome": {"value": 3}}, "report.outcome.value=3 must be of type str"),
        ({"outcome": {"value": "v", "reduce": "median"}}, "choose from mean, last, min, max, area"),
        ({"figures": [{"id": "a", "kind": "final", "values": ["v"]}]}, "does not belong to kind=final"),
        ({"figures": [{"id": "a", "kind": "final"}] * 2}, "is there twice"),
        ({"figures": {"id": "a"}}, "must be a list"),
        ({"figures": [{"id": "../a", "kind": "final"}]}, "names files"),
    ):
        with pytest.raises(ValueError, match=said):
            report_settings(wrong)


def test_identity_is_that_of_the_settings() -> None:
    config = config_of(0, checkpoint={"keep": 2}, env={"name": "gym", "keep_on": "cpu"})
    same = config | {
        "run_dir": "elsewhere",
        "threads": "4",
        "checkpoint": {},
        "choices": {},
        "env": {"name": "gym", "keep_on": "cuda"},
    }
    assert identity(config) == identity(same) == identity(config | {"steps": 100.0})
    assert identity(config) != identity(config | {"seed": 1})
    assert identity(config) != identity(config | {"env": {"name": "catch"}})
    plugin = config | {"plugins": ["/a/m.py"]}
    moved = config | {"plugins": ["/b/m.py"]}
    assert identity(plugin, {"/a/m.py": "1"}) == identity(moved, {"/b/m.py": "1"}) != identity(moved, {"/b/m.py": "2"})


def test_a_plugin_counts_by_its_hash_and_a_yaml_file_by_its_settings(tmp_path: Path) -> None:
    for name, files in {"a": {"/a/m.py": "1"}, "b": {"/b/m.py": "1", "/b/e.yaml": "2"}, "c": {"/c/m.py": "3"}}.items():
        config = config_of(0, plugins=[next(iter(files))])
        write_run(tmp_path / name, config, returns(0.5), status=finished(), known={"files": files})
    first, second, third = read_comparison([tmp_path]).runs["identity"]
    assert first == second != third


def test_a_group_has_bins_of_its_own_steps(tmp_path: Path) -> None:
    for seed, (width, steps) in enumerate((("[8]", (10, 20)), ("[8]", (10, 20)), ("[16]", (10, 15, 20)), ("[16]", (10, 15, 20)))):
        config = config_of(seed % 2)
        config["network"] = {**config.get("network", {}), "widths": width}
        write_run(tmp_path / str(seed), config, [(step, "v", float(step)) for step in steps], status=finished())
    comparison = read_comparison([tmp_path])
    first, second = comparison.conditions
    assert binned(comparison, "v").columns.tolist() == [10, 15, 20]
    groups = [comparison.cell(each, "none").index for each in (first, second)]
    assert {tuple(binned(comparison, "v", runs=each).columns) for each in groups} == {(10, 20), (10, 15, 20)}


def test_rows_of_a_name_are_those_of_the_table_that_is_asked(comparison: Comparison) -> None:
    for _ in range(2):  # found first, then remembered
        pd.testing.assert_frame_equal(_named(comparison.values, "v"), comparison.values[comparison.values["name"] == "v"])
    assert not len(_named(comparison.values, "none of it"))
    for rows in range(1, 5):  # tables that come and go, perhaps in one place of memory
        part = comparison.values.head(rows)
        pd.testing.assert_frame_equal(_named(part, "v"), part[part["name"] == "v"])
        del part
