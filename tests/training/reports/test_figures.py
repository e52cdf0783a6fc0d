import math
from pathlib import Path

import numpy as np
import pytest
from compared_runs import write_comparison, write_heatmap

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import Comparison, read_comparison
from plasticity.training.reports.figures import KINDS, draw
from plasticity.training.reports.figures.default import default_figures
from plasticity.training.reports.figures.drawing import png_of, styles
from plasticity.training.reports.figures.layers import FIRST, SECOND, FiringRates, averaged, grouped
from plasticity.training.reports.figures.matrix import read_matrix
from plasticity.training.reports.output.page import SECTIONS
from plasticity.training.reports.specification import KINDS as DECLARED
from plasticity.training.reports.specification import Figure


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return read_comparison([write_comparison(tmp_path_factory.mktemp("runs"))])


def figure(kind: str, **settings: object) -> Figure:
    return Figure(id="one", kind=kind, **settings)  # type: ignore[arg-type]


def test_every_kind_that_settings_name_can_be_drawn() -> None:
    assert set(KINDS) == set(DECLARED) == set(SECTIONS)  # and has its place on the page


def test_curves_are_the_mean_of_what_is_binned_for_each_run(comparison: Comparison) -> None:
    made = draw(comparison, figure("curves", values=["task/online_accuracy"], by="task"), Numbers())
    rows = made.data[(made.data["condition"] == comparison.conditions[0]) & (made.data["method"] == "none")]
    np.testing.assert_allclose(rows["mean"], [0.80, 0.84, 0.81, 0.83])
    np.testing.assert_allclose(rows["high"] - rows["mean"], 4.302653 * 0.02 / math.sqrt(3), rtol=1e-6)
    assert len(made.panels) == 2
    assert "pointwise" in made.caption
    assert set(made.legend) == {"none", "redo"}


def test_a_gap_stays_one(comparison: Comparison) -> None:
    values = comparison.values
    values = values[~((values["name"] == "plasticity/dormant_fraction") & (values["step"] == 50))]
    with_gap = Comparison(**{**vars(comparison), "values": values})
    made = draw(
        with_gap, figure("curves", values=["plasticity/dormant_fraction", "plasticity/dormant_fraction/learner/stem"]), Numbers()
    )
    assert 50 not in set(made.data[made.data["value"] == "plasticity/dormant_fraction"]["x"])
    # A run that lacks what the others have: its bin is empty, and the mean is over the others.
    fewer = values[~((values["run"] == 0) & (values["step"] == 75))]
    made = draw(
        Comparison(**{**vars(comparison), "values": fewer}), figure("curves", values=["plasticity/dormant_fraction"]), Numbers()
    )
    row = made.data[(made.data["x"] == 75) & (made.data["method"] == "none")].iloc[0]
    assert row["n"] == 2


def test_methods_that_are_measured_at_other_steps_make_no_gaps_in_each_other(comparison: Comparison) -> None:
    values, name = comparison.values, "plasticity/dormant_fraction"
    redo = comparison.runs.index[comparison.runs["method"] == "redo"]
    seldom = values[~((values["name"] == name) & values["run"].isin(redo) & values["step"].isin([25, 75]))]
    made = draw(Comparison(**{**vars(comparison), "values": seldom}), figure("curves", values=[name]), Numbers())
    data = made.data[made.data["condition"] == comparison.conditions[0]]
    assert data[data["method"] == "redo"]["x"].tolist() == [50, 100]
    assert data[data["method"] == "none"]["x"].tolist() == [25, 50, 75, 100]
    assert data["mean"].notna().all()
    assert "Where not all runs have a value" not in made.caption
    # What was measured and is NaN in all runs of a method stays a gap of its own.
    undefined = values.assign(value=values["value"].where(~((values["name"] == name) & (values["step"] == 75))))
    undefined.loc[(undefined["name"] == name) & (undefined["step"] == 50) & (undefined["run"] == redo[0]), "value"] = math.nan
    made = draw(Comparison(**{**vars(comparison), "values": undefined}), figure("curves", values=[name]), Numbers())
    data = made.data[(made.data["condition"] == comparison.conditions[0]) & (made.data["method"] == "redo")]
    assert data["x"].tolist() == [25, 50, 75, 100]
    assert data["mean"].isna().tolist() == [False, False, True, False]
    assert data["n"].tolist() == [3, 2, 0, 3]
    assert "Where not all runs have a value the mean is over those that do" in made.caption


def test_differences_show_every_pair(comparison: Comparison) -> None:
    made = draw(comparison, figure("differences"), Numbers())
    rows = made.data[made.data["condition"] == comparison.conditions[0]]
    np.testing.assert_allclose(rows["difference"], [0.03, 0.02, 0.04])
    assert "redo 0.030 [0.005, 0.055]" in made.panels[0].alt


def test_final_values_are_points_and_a_mean(comparison: Comparison) -> None:
    made = draw(comparison, figure("final"), Numbers())
    assert len(made.data) == 12
    points = [line for line in made.figure.axes[0].lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 3]
    np.testing.assert_allclose(sorted(points[0].get_xdata()), [0.80, 0.82, 0.84])
    assert "none 0.820 [0.770, 0.870], n = 3" in made.panels[0].alt


def test_doses_come_from_the_settings(comparison: Comparison) -> None:
    settings = comparison.settings.assign(**{"interventions.redo.threshold": ["", "", "", "0.01", "0.1", "1.0"] * 2})
    made = draw(
        Comparison(**{**vars(comparison), "settings": settings}),
        figure("dose", setting="interventions.redo.threshold"),
        Numbers(),
    )
    given = made.data[made.data["dose"].notna()]
    np.testing.assert_allclose(given["dose"].iloc[:3], [0.01, 0.1, 1.0])
    assert made.figure.axes[0].get_xscale() == "log"
    with pytest.raises(ValueError, match="does not vary"):
        draw(comparison, figure("dose", setting="interventions.redo.nothing"), Numbers())


def test_doses_of_conditions_share_a_panel(comparison: Comparison) -> None:
    scale = ["4" if condition == comparison.conditions[0] else "16" for condition in comparison.runs["condition"]]
    settings = comparison.settings.assign(**{"network.scale": scale})
    made = draw(Comparison(**{**vars(comparison), "settings": settings}), figure("dose", setting="network.scale"), Numbers())
    assert len(made.panels) == 1
    assert set(made.legend) == {"none", "redo"}
    rows = made.data[made.data["method"] == "none"].groupby("dose")["value"].mean()
    assert rows[4.0] - rows[16.0] == pytest.approx(0.1)  # tanh is lower by that
    assert "all conditions: 4: " in made.panels[0].alt


def test_heatmaps_are_averaged_over_seeds(comparison: Comparison) -> None:
    made = draw(comparison, figure("heatmap"), Numbers())
    assert len(made.panels) == 2  # tanh has none
    dead = made.data[(made.data["row"] == "0 exactly") & (made.data["method"] == "none")]
    np.testing.assert_allclose(dead["value"], 0.25)  # mean of 0, .25, .5
    assert set(dead["n"]) == {3}


def test_first_and_second_relus_of_blocks_stand_apart(comparison: Comparison) -> None:
    assert grouped(["p/stem", "p/block_1", "p/block_1_sum"]) == {FIRST: ["p/block_1"], SECOND: ["p/block_1_sum"]}
    made = draw(comparison, figure("heatmap", group="block_relu", methods=["none"]), Numbers())
    assert list(made.data["group"].unique()) == [FIRST, SECOND]
    with pytest.raises(ValueError, match="second ReLU"):
        draw(comparison, figure("mosaic", group="block_relu", layers=["stem"]), Numbers())


def test_a_metric_by_layer_is_a_heatmap_too(comparison: Comparison) -> None:
    made = draw(comparison, figure("heatmap", value="plasticity/dormant_fraction", layers=["stem"]), Numbers())
    rows = made.data[made.data["method"] == "redo"]
    np.testing.assert_allclose(rows["value"].iloc[:4], [0.0, 0.1, 0.2, 0.3])


def test_mosaics_have_methods_in_rows_and_layers_in_columns(comparison: Comparison) -> None:
    made = draw(comparison, figure("mosaic"), Numbers())
    axes = made.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "redo"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["block_1", "block_1_sum", "stem"]
    image = axes.images[0].get_array()
    assert image[21, 0] == pytest.approx(0.25)  # lowest row of the first tile: units that never fire
    assert image[0, 0] == pytest.approx(0.75)


def test_matrices_stand_next_to_each_other_in_raw_order(comparison: Comparison) -> None:
    made = draw(comparison, figure("matrix", at=0.6), Numbers())
    assert list(made.data["step"]) == [50] * 4
    assert set(made.data["name"]) == {"plasticity/gradient_cosine_matrix/learner"}  # the array of one axis is left out
    np.testing.assert_array_equal(np.asarray(made.figure.axes[0].images[0].get_array()), np.eye(4) * 50)
    assert list(draw(comparison, figure("matrix"), Numbers()).data["step"]) == [100] * 4
    for name in ("gradient_cosine_matrix", "gradient_cosine_matrix/learner", "plasticity/gradient_cosine_matrix"):
        assert list(draw(comparison, figure("matrix", value=name), Numbers()).data["step"]) == [100] * 4


def test_matrices_share_a_colour_scale_or_have_their_own(tmp_path: Path) -> None:
    comparison = read_comparison([write_comparison(tmp_path)])

    def limits(**settings: str) -> list[float]:
        made = draw(comparison, figure("matrix", at=0.6, **settings), Numbers())
        return [float(image.get_clim()[1]) for axes in made.figure.axes for image in axes.images if axes.get_xlabel()]

    assert limits() == limits(colours="own") == [50.0] * 4  # seed 0 of every method
    matrices = {"none": 3.0, "redo": 7.0}
    for method, size in matrices.items():
        run = comparison.cell(comparison.conditions[0], method).sort_values("seed").index[0]
        path = comparison.folder_of(run) / "arrays" / "b" / "step_000000050.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, values=np.full((2, 2), -size))
    assert limits(value="b") == [7.0, 7.0]
    assert limits(value="b", colours="own") == [3.0, 7.0]


def test_a_damaged_matrix_is_named(tmp_path: Path) -> None:
    (tmp_path / "step_000000001.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        read_matrix(tmp_path / "step_000000001.npz")


def test_scatters_hold_a_metric_before_and_the_outcome_after(comparison: Comparison) -> None:
    numbers = Numbers()
    made = draw(comparison, figure("scatter", metrics=["dormant_fraction"], at=0.5), numbers)
    row = made.data[made.data["run"] == 1].iloc[0]
    assert row["x"] == pytest.approx(0.1 + 0.01)  # the row of step 50
    assert "after 50 % of the run" in made.caption
    assert any(record["id"].startswith("scatter/one/within/") for record in numbers.records())


def test_what_is_missing_is_said(comparison: Comparison) -> None:
    for kind, settings in {"curves": {"values": ["no/such"]}, "heatmap": {"value": "no_such"}, "matrix": {"value": "no"}}.items():
        with pytest.raises(ValueError, match="no run"):
            draw(comparison, figure(kind, **settings), Numbers())
    with pytest.raises(ValueError, match="there is no method l3"):
        draw(comparison, figure("final", methods=["l3"]), Numbers())


def test_default_figures_are_those_that_the_runs_allow(comparison: Comparison) -> None:
    kinds = [each.kind for each in default_figures(comparison)]
    assert kinds == ["curves", "curves", "differences", "final", "heatmap", "mosaic", "matrix", "scatter"]
    assert len({each.id for each in default_figures(comparison)}) == len(kinds)


def test_a_torn_heatmap_is_read_up_to_its_last_whole_row(comparison: Comparison, tmp_path: Path) -> None:
    write_heatmap(tmp_path, 0.5)
    path = tmp_path / "heatmap.csv"
    path.write_text(path.read_text()[:-12])
    runs = comparison.runs.assign(folder=str(tmp_path))
    found = FiringRates(Comparison(**{**vars(comparison), "runs": runs})).map(runs.index[:1], None)
    assert found is not None
    np.testing.assert_allclose(found.values[0], [0.5, 0.5])


def test_long_runs_are_binned_for_each_run_first() -> None:
    import pandas as pd

    long = pd.DataFrame({"a": np.arange(1000.0)}, index=np.arange(1, 1001))
    short = pd.DataFrame({"a": [0.0]}, index=[1000])
    found = averaged([long, short], ["a"])
    assert found.values.shape == (1, 120)
    assert found.values[0, 0] == pytest.approx(np.arange(8).mean())  # steps 1 to 8, of the one run that has them


def test_styles_differ_without_colour() -> None:
    made = styles([f"m{k}" for k in range(30)])
    assert len(set(made.values())) == 30
    assert len({style.marker for style in list(made.values())[:11]}) == 11


def test_drawing_leaves_nothing_open(comparison: Comparison) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    first, second = (png_of(draw(comparison, figure("final"), Numbers()).figure) for _ in range(2))
    assert first == second
    assert plt.get_fignums() == before
