import errno
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.log_values import Array, Heatmap, Histogram, Matrix, Series
from plasticity.training.config.parsing import parse
from plasticity.training.run import run
from plasticity.training.tracking.dashboard import _all_charts, plasticity_layout
from plasticity.training.tracking.figures import draw_heatmap, draw_matrix, draw_series
from plasticity.training.tracking.tensorboard_writer import TensorBoardWriter, histogram_edges


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0, "tensors": 0})
    return events.Reload()


def points(folder, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def chart_titles(folder) -> dict[str, list[str]]:
    layout = Layout.FromString(read(folder).Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    return {category.title: [chart.title for chart in category.chart] for category in layout.category}


def test_scalars_come_back_at_their_steps(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write(5, {"train/loss": 0.5, "x": float("nan")}, {})
    writer.write(10, {"train/loss": 0.25}, {})
    writer.close()
    assert points(tmp_path, "train/loss") == [(5, 0.5), (10, 0.25)]
    assert np.isnan(points(tmp_path, "x")[0][1])


def test_flush_makes_everything_readable(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for step in range(30):
        writer.write(step, {"x": float(step)}, {})
    writer.flush()
    assert len(points(tmp_path, "x")) == 30
    writer.close()


def test_resuming_hides_the_points_after_the_checkpoint(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for step in (10, 20, 30):
        writer.write(step, {"x": 1.0}, {"rates": Histogram(torch.rand(4))})
    writer.close()
    writer = TensorBoardWriter(tmp_path, resume_step=20)
    for step in (30, 40):
        writer.write(step, {"x": 2.0}, {"rates": Histogram(torch.rand(4))})
    writer.close()
    assert points(tmp_path, "x") == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]
    assert [event.step for event in read(tmp_path).Histograms("rates")] == [10, 20, 30, 40]


def test_a_histogram_counts_every_finite_value(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    rates = torch.tensor([0.0, 0.0, 0.51, 1.0, float("nan")])
    writer.write(1, {}, {"rates": Histogram(rates), "none": Histogram(torch.tensor([float("inf")]))})
    writer.close()
    assert read(tmp_path).Tags()["histograms"] == ["rates"]
    histogram = read(tmp_path).Histograms("rates")[0].histogram_value
    filled = {round(limit, 6): n for limit, n in zip(histogram.bucket_limit, histogram.bucket, strict=True) if n}
    assert filled == {round(1 / 30, 6): 2, round(16 / 30, 6): 1, 1.0: 1}
    assert (histogram.num, histogram.min, histogram.max) == (4, 0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "ends"), [([0.2, 0.4], (0, 1)), ([0, 0], (0, 1)), ([3, 9], (3, 9)), ([4, 4], (3.5, 4.5)), ([-1, 1], (-1, 1))]
)
def test_rates_share_their_bins_and_other_values_span_their_range(values, ends):
    edges = histogram_edges(np.array(values, dtype=float))
    assert len(edges) == 31
    assert (edges[0], edges[-1]) == ends


def test_a_series_is_drawn_as_an_image(tmp_path):
    series = Series(torch.arange(3), {"network": torch.ones(3), "fresh": torch.zeros(3)}, "update", "loss")
    writer = TensorBoardWriter(tmp_path)
    writer.write(8, {}, {"probe/curve": series})
    writer.close()
    (image,) = read(tmp_path).Images("probe/curve")
    assert (image.step, image.width, image.height) == (8, 640, 400)


def test_each_curve_has_its_own_colour():
    x = torch.arange(3)
    one = draw_series(Series(x, {"a": torch.ones(3)}, "x", "y"))
    two = draw_series(Series(x, {"a": torch.ones(3), "b": torch.zeros(3)}, "x", "y"))
    orange = np.array([255, 127, 14])
    assert one.shape == two.shape == (400, 640, 3)
    assert not (one == orange).all(-1).any()
    assert (two == orange).all(-1).any()


def test_matplotlib_is_not_imported_before_it_is_needed():
    code = "import sys, plasticity.training.tracking.tensorboard_writer; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_text_comes_back(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.text("notes", "- `x`: why", 4)
    writer.close()
    (event,) = read(tmp_path).Tensors("notes/text_summary")
    assert (event.step, event.tensor_proto.string_val[0]) == (4, b"- `x`: why")


def test_hyper_parameters_stand_in_the_same_folder(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.hparams({"agent": "dqn", "optimizer.lr": 0.5, "seed": 3, "agent.double": True}, ["rollout/return"])
    writer.write(1, {"rollout/return": 1.0}, {})
    writer.close()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    contents = read(tmp_path).PluginTagToContent("hparams")
    start = hparams_metadata.parse_session_start_info_plugin_data(contents["_hparams_/session_start_info"])
    assert start.hparams["agent"].string_value == "dqn"
    assert start.hparams["optimizer.lr"].number_value == 0.5
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["agent.double"].string_value == "true"
    experiment = hparams_metadata.parse_experiment_plugin_data(contents["_hparams_/experiment"])
    assert [metric.name.tag for metric in experiment.metric_infos] == ["rollout/return"]


def test_the_dashboard_grows_with_the_names_that_are_logged(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"rollout/return": 1.0}, {})
    writer.flush()
    assert chart_titles(tmp_path) == {"Plasticity": ["Return per episode, or online accuracy"]}
    writer.write(2, {"plasticity/dormant_fraction": 0.1, "plasticity/dormant_fraction/q/torso.0": 0.1}, {})
    writer.close()
    assert chart_titles(tmp_path) == {
        "Plasticity": ["Return per episode, or online accuracy", "Dormant units (fraction)"],
        "Plasticity by layer": ["Dormant units by layer (fraction)"],
    }


def test_a_resumed_run_keeps_the_charts_of_names_not_seen_again(tmp_path):
    TensorBoardWriter(tmp_path).close()
    writer = TensorBoardWriter(tmp_path, resume_step=5, names=["probe/relative_loss"])
    writer.write(6, {"rollout/return": 1.0}, {})
    writer.close()
    titles = ["Return per episode, or online accuracy", "Probe loss relative to a fresh network"]
    assert chart_titles(tmp_path) == {"Plasticity": titles}


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("rollout/return", "Return per episode, or online accuracy"),
        ("online/accuracy", "Return per episode, or online accuracy"),
        ("plasticity/dormant_fraction", "Dormant units (fraction)"),
        ("plasticity/dormant_fraction/critic/torso.0", "Dormant units by layer (fraction)"),
        ("plasticity/dormant_fraction/critic/block/0", "Dormant units by layer (fraction)"),
        ("plasticity/dormant_fraction_tau_0.01", "Dormant units, other definitions (fraction)"),
        ("plasticity/effective_rank", "Effective rank"),
        ("plasticity/srank/q/torso.1", "srank by layer"),
        ("plasticity/weight_norm", "Weight norm"),
        ("plasticity/distance_from_initialisation", "Distance from initialisation"),
        ("eval/return", "Return in evaluation"),
        ("task/online_accuracy", "Online accuracy of each task"),
        ("task/mean_online_accuracy", "Online accuracy, mean of the tasks so far"),
        ("task/test_accuracy", "Test accuracy at the end of each task"),
        ("relative/test_accuracy", "Test accuracy beyond a fresh network's"),
        ("epoch/test_accuracy", "Test accuracy after epochs"),
        ("task/forward_transfer", "Forward transfer to the next task"),
        ("probe/loss", "Probe loss, this network and a fresh one"),
        ("probe/fresh_loss", "Probe loss, this network and a fresh one"),
        ("probe/explained_variance", "Probe task, variance explained"),
        ("probe/relative_loss", "Probe loss relative to a fresh network"),
        ("probe/relative_loss/critic", "Probe loss relative to a fresh network by part"),
        ("probe/fresh_random_label_accuracy", "Random-label accuracy, this network and a fresh one"),
        ("plasticity/update_norm", "Update norm, optimizer"),
        ("plasticity/intervention_update_norm", "Update norm, interventions"),
        ("plasticity/gradient_norm/q/torso.0", "Gradient norm by layer"),
        ("train/loss", "Loss"),
        ("redo/units_reset", "Units reset"),
        ("reset/layers_reset/critic", "Layers reset"),
        ("activation_rescale/units_rescaled/actor", "Units rescaled"),
        ("feature_norm/loss", "Term of the loss"),
        ("time/steps_per_second", "Speed (steps per second)"),
    ],
)
def test_each_name_is_shown_in_exactly_one_chart(name, title):
    charts = [chart for charts in plasticity_layout([name]).values() for chart in charts]
    assert charts == [title]


def test_every_chart_is_filled_by_a_name_that_runs_log():
    metrics = [f"plasticity/{metric}{suffix}" for metric in CATALOGUE for suffix in ("", "/q/torso.0")]
    probe = [
        "probe/loss",
        "probe/explained_variance",
        "probe/relative_loss",
        "probe/relative_loss/q",
        "probe/random_label_accuracy",
    ]
    others = ["rollout/return", "rollout/length", "eval/return", "train/loss", "time/steps_per_second"]
    tasks = [f"task/{name}_{kind}" for name in ("online", "train", "test") for kind in ("accuracy", "loss")]
    tasks += [f"task/{name}" for name in ("mean_online_accuracy", "mean_test_accuracy", "best_test_accuracy", "forward_transfer")]
    tasks += ["task/validation_accuracy", "epoch/test_accuracy", "epoch/train_accuracy"]
    tasks += [f"relative/{name}" for name in ("online_accuracy", "test_accuracy", "online_transfer")]
    assert plasticity_layout([*metrics, *probe, *tasks, *others]) == _all_charts()


def test_a_chart_shows_one_quantity_of_all_interventions_and_parts():
    names = ["redo/units_reset/actor", "redo/units_reset/critic", "continual_backprop/units_reset", "trac/scale", "train/loss"]
    charts = plasticity_layout(names)["Interventions"]
    assert list(charts) == ["Scale", "Units reset"]
    (pattern,) = charts["Units reset"][1]
    assert [name for name in names if re.match(pattern, name)] == names[:3]
    assert not re.match(pattern, "redo/units_reset_twice")


def test_keys_that_methods_log_are_charted(tmp_path):
    """The names come from a learner, not from a list: two parts, a term of the loss and a reset that takes place."""
    words = ["agent=ppo", "env=catch", "intervention=[redo,feature_norm]", "interventions.redo.every_updates=1", "steps=32"]
    small = [
        "agent.rollout_steps=32",
        "agent.epochs=1",
        "network.widths=[8]",
        "metrics=none",
        "probe.every_steps=0",
        "threads=1",
        "progress=false",
    ]
    run(parse([*words, *small]).plan, tmp_path / "run", [])
    charts = plasticity_layout({row.split(",")[1] for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]})
    assert list(charts["Interventions"]) == ["Term of the loss", "Units reset"]


@pytest.mark.parametrize(
    "name", ["my_method/units_reset", "redo", "plasticity/weight_norm_ratio", "eval/rollout/return", "my/train/loss"]
)
def test_other_names_stay_off_the_dashboard(name):
    assert plasticity_layout([name]) == {}


def test_a_full_disk_is_reported_in_the_main_thread_and_nowhere_else(tmp_path, monkeypatch, capsys):
    reported = []
    hook = reported.append
    monkeypatch.setattr(threading, "excepthook", hook)
    writer = TensorBoardWriter(tmp_path)
    writer.flush()
    monkeypatch.setattr(RecordWriter, "write", _no_space)
    writer.write(1, {"x": 1.0}, {})
    with pytest.raises(OSError, match="No space left"):
        writer.flush()
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert reported == []
    assert threading.excepthook is hook


def test_other_errors_of_the_thread_are_shown_and_its_hook_is_given_back(tmp_path, monkeypatch):
    reported = []
    hook = reported.append
    monkeypatch.setattr(threading, "excepthook", hook)
    writer = TensorBoardWriter(tmp_path)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert [type(error.exc_value) for error in reported] == [ZeroDivisionError]
    writer.close()
    assert threading.excepthook is hook


def _no_space(self, data):
    raise OSError(errno.ENOSPC, "No space left on device")


def heatmap(columns: int) -> Heatmap:
    shares = torch.rand(columns, 22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.arange(1, columns + 1)
    return Heatmap(steps, steps // 3, steps, shares, [str(number) for number in range(22)], "firing rate")


def test_heatmaps_are_drawn_when_their_columns_have_doubled_and_at_a_flush(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for columns in range(1, 7):
        writer.write(columns, {}, {"h": heatmap(columns)})
    writer.flush()
    writer.flush()
    writer.close()
    accumulator = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in accumulator.Images("h")] == [1, 2, 4, 6]


def test_growing_series_are_drawn_when_their_points_have_doubled_and_at_a_flush(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for points in range(1, 7):
        tasks = torch.arange(points)
        writer.write(10 * points, {}, {"s": Series(tasks, {"test": tasks / 6}, "task", "accuracy", grows=True)})
    writer.flush()
    writer.flush()
    writer.close()
    accumulator = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in accumulator.Images("s")] == [10, 20, 40, 60]


def test_matrices_are_drawn_at_once(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write(3, {}, {"m": Matrix(torch.eye(5), -1.0, 1.0, "example"), "a": Array(torch.eye(5))})
    writer.close()
    accumulator = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in accumulator.Images("m")] == [3]
    assert accumulator.Tags()["images"] == ["m"]  # arrays are not drawn


def test_a_matrix_is_drawn_in_its_order():
    values = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.0], [0.5, 0.0, 1.0]])
    shuffled = draw_matrix(Matrix(values, -1.0, 1.0, "x", order=[2, 0, 1]))
    assert (shuffled == draw_matrix(Matrix(values[[2, 0, 1]][:, [2, 0, 1]], -1.0, 1.0, "x"))).all()
    assert (shuffled != draw_matrix(Matrix(values, -1.0, 1.0, "x"))).any()


def test_images_show_their_values():
    one, two = draw_matrix(Matrix(torch.eye(4), -1.0, 1.0, "x")), draw_matrix(Matrix(torch.zeros(4, 4), -1.0, 1.0, "x"))
    assert one.shape == two.shape == (400, 640, 3)
    assert one.dtype == np.uint8
    assert (one != two).any()
    for columns in (1, 2, 300):
        assert draw_heatmap(heatmap(columns)).shape == (400, 640, 3)
