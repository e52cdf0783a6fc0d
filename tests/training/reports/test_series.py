"""Series at one moment: what is drawn of ``curves.csv``, against numbers by hand."""

import csv
from pathlib import Path

import pytest
from run_folders import config_of, finished, write_run

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.analysis.outcomes import binned
from plasticity.training.reports.comparison import Comparison, read_comparison
from plasticity.training.reports.figures import draw
from plasticity.training.reports.figures.series import series_of
from plasticity.training.reports.specification import Figure, report_settings

VALUES, OUTPUTS = "plasticity/feature_singular_values/learner", "plasticity/principal_outputs/learner"


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Two methods, two seeds, series at steps 50 and 100 of 100; those of the second method are ten times as large."""
    for method, factor in (("none", 1.0), ("redo", 10.0)):
        for seed in (0, 1):
            interventions = {} if method == "none" else {"redo": {"threshold": 0.1}}
            config = config_of(seed, interventions=interventions)
            rows = [(step, "train/loss", float(step + seed)) for step in (0, 25, 50, 75, 100)]
            folder = write_run(tmp_path / f"{method}_{seed}", config, rows, [f"seed={seed}"], finished())
            with (folder / "curves.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("step", "name", "curve", "x", "value"))
                for step in (50, 100):
                    for x, value in ((1, 600.0), (2, 4.0), (3, 0.0)):
                        writer.writerow((step, VALUES, "features", x, factor * (value + step + 2 * seed) if value else 0.0))
                    for curve in ("direction 1", "bias"):
                        for x in (0, 1):
                            writer.writerow((step, OUTPUTS, curve, x, -1.0 if curve == "bias" else x + seed))
    return read_comparison([tmp_path])


def test_a_series_is_the_mean_over_runs_at_one_moment(comparison: Comparison) -> None:
    made = draw(comparison, Figure(id="one", kind="series", value="feature_singular_values", at=0.6), Numbers())
    plain = made.data[made.data["method"] == "none"]
    assert plain["value"].tolist() == [651.0, 55.0, 0.0]  # 600 + 50 + (0 + 2) / 2, and so on
    assert made.data[made.data["method"] == "redo"]["value"].tolist() == [6510.0, 550.0, 0.0]
    assert set(made.data["step"]) == {50}
    assert set(made.data["n"]) == {2}
    assert len(made.panels) == 1
    assert made.figure.axes[0].get_yscale() == "log"  # 6510 is more than a hundred times 55
    assert "none from 0" in made.panels[0].alt
    assert "at step 50, the mean over 2 runs" in made.caption
    last = draw(comparison, Figure(id="one", kind="series", value="feature_singular_values/learner"), Numbers())
    assert last.data["value"].iloc[0] == 701.0


def test_several_curves_have_a_panel_for_each_method(comparison: Comparison) -> None:
    made = draw(comparison, Figure(id="one", kind="series", value="principal_outputs", methods=["redo"]), Numbers())
    assert list(made.legend) == ["direction 1", "bias"]
    assert made.data["value"].tolist() == [0.0, 1.0, -1.0, -1.0]  # of seed 0 alone
    assert made.caption.endswith("one run each.")
    assert made.figure.axes[0].get_yscale() == "linear"


def test_what_is_missing_or_cut_off_is_left_out(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run that counts has a series nothing in curves\.csv"):
        draw(comparison, Figure(id="one", kind="series", value="nothing"), Numbers())
    assert not len(series_of(tmp_path / "nowhere", "feature_singular_values", None, 100))
    path = tmp_path / "none_0" / "curves.csv"
    path.write_text(path.read_text()[:-3])
    assert len(series_of(tmp_path / "none_0", "principal_outputs", None, 100)) == 3


def test_curves_can_show_a_part_of_the_run(comparison: Comparison) -> None:
    assert list(binned(comparison, "train/loss", part=[0.25, 0.75]).columns) == [50, 75]
    assert list(binned(comparison, "train/loss", part=[0.0, 0.5]).columns) == [0, 25, 50]
    two = binned(comparison, "train/loss", bins=2, part=[0.2, 1.0])  # 25 and 50, then 75 and 100: halves of 25 to 100
    assert two.loc[0].tolist() == [37.5, 87.5]
    made = draw(comparison, Figure(id="one", kind="curves", values=["train/loss"], part=[0.5, 1.0]), Numbers())
    assert sorted(set(made.data["x"])) == [75, 100]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "series"}, r"one: series need value=<name in curves\.csv>"),
        ({"kind": "curves", "values": ["v"], "part": [0.5, 0.5]}, r"one\.part=\[0\.5, 0\.5\] must be two shares of the run"),
        ({"kind": "final", "part": [0.5, 1.0]}, "part does not belong to kind=final"),
    ],
)
def test_mistakes(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        report_settings({"figures": [{"id": "one", **settings}]})
