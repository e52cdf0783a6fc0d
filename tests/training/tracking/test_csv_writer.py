import os
import zlib
from pathlib import Path

import pytest
import torch

from plasticity.metrics.log_values import Heatmap, Histogram, Matrix, Series
from plasticity.metrics.undefined import Undefined
from plasticity.training.tracking.csv_writer import CsvWriter, table_remarks


def series(*heights: float) -> Series:
    return Series(torch.arange(len(heights)) * 20, {"network": torch.tensor(heights)}, "update", "loss")


def test_the_table_holds_one_row_per_scalar(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    writer.write(3, {"train/loss": 0.1, "x": 1 / 3}, {})
    writer.write(5, {"train/loss": float("nan"), "y": Undefined("why")}, {})
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,name,value\n3,train/loss,0.1\n3,x,0.3333333333333333\n5,train/loss,nan\n5,y,nan\n"
    )


def test_rows_are_on_disk_before_the_writer_closes(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    writer.write(1, {"x": 2.0}, {})
    assert (tmp_path / "metrics.csv").read_text().endswith("1,x,2.0\n")
    writer.close()


def test_series_go_to_their_own_table_and_histograms_nowhere(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    writer.write(7, {}, {"probe/curve": series(0.5, 0.25), "rates": Histogram(torch.zeros(3))})
    assert (tmp_path / "curves.csv").read_text() == (
        "step,name,curve,x,value\n7,probe/curve,network,0.0,0.5\n7,probe/curve,network,20.0,0.25\n"
    )
    assert not (tmp_path / "metrics.csv").exists()


def test_of_a_growing_series_the_newest_point_is_written(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    for heights in ((0.5,), (0.5, 0.25)):
        writer.write(len(heights), {}, {"task/accuracy": series(*heights)._replace(grows=True)})
    assert (tmp_path / "curves.csv").read_text() == (
        "step,name,curve,x,value\n1,task/accuracy,network,0.0,0.5\n2,task/accuracy,network,20.0,0.25\n"
    )


def test_resuming_drops_later_rows_and_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n1,x,1.0\n10,x,2.0\n11,x,3.0\n2,late,4.0\n9,x,1.2345")
    writer = CsvWriter(path, resume_step=10)
    assert path.read_text() == "step,name,value\n1,x,1.0\n10,x,2.0\n2,late,4.0\n"
    writer.write(11, {"x": 5.0}, {})
    assert path.read_text() == "step,name,value\n1,x,1.0\n10,x,2.0\n2,late,4.0\n11,x,5.0\n"
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_resuming_treats_curves_in_the_same_way(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    for step in (10, 20):
        writer.write(step, {}, {"c": series(float(step))})
    writer.close()
    CsvWriter(tmp_path / "metrics.csv", resume_step=10).write(15, {}, {"c": series(0.5)})
    assert (tmp_path / "curves.csv").read_text() == ("step,name,curve,x,value\n10,c,network,0.0,10.0\n15,c,network,0.0,0.5\n")


@pytest.mark.parametrize("left", ["", "ste", "step,name,value"])
def test_a_torn_first_line_is_mended(tmp_path, left):
    path = tmp_path / "metrics.csv"
    path.write_text(left)
    CsvWriter(path, resume_step=0).write(1, {"x": 1.0}, {})
    assert path.read_text() == "step,name,value\n1,x,1.0\n"


def test_resuming_without_a_table_starts_one(tmp_path):
    CsvWriter(tmp_path / "metrics.csv", resume_step=4).write(5, {"x": 1.0}, {})
    assert (tmp_path / "metrics.csv").read_text() == "step,name,value\n5,x,1.0\n"


def test_a_failed_repair_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n1,x,1.0\n2,x,1.0\n")

    def fail(*paths):
        raise OSError("killed here")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="killed here"):
        CsvWriter(path, resume_step=1)
    assert path.read_text() == "step,name,value\n1,x,1.0\n2,x,1.0\n"


def test_a_new_run_does_not_append_to_another_ones_rows(tmp_path):
    CsvWriter(tmp_path / "metrics.csv").write(1, {"x": 1.0}, {})
    with pytest.raises(ValueError, match=r"metrics.csv holds another run's rows"):
        CsvWriter(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,loss\n1,2\n", "begins with 'time,loss', expected the columns 'step,name,value'"),
        ("step,name,value\n1,x,1.0\nhello\n", "line 3 is 'hello', expected a row that begins with a step"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, text, message):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        CsvWriter(tmp_path / "metrics.csv", resume_step=1)


def test_names_with_commas_stay_one_field(tmp_path):
    CsvWriter(tmp_path / "metrics.csv").write(1, {"a,b": 1.0}, {})
    assert (tmp_path / "metrics.csv").read_text() == 'step,name,value\n1,"a,b",1.0\n'


def heatmap(*steps: int) -> Heatmap:
    """Two bins, of which the first holds a half of step / 100 of the units; a new task at each measurement."""
    first = torch.tensor([step / 100 for step in steps], dtype=torch.float64)
    columns = torch.arange(len(steps))
    return Heatmap(torch.tensor(steps), columns, columns + 5, torch.stack([first, 1 - first], 1), ["low", "high"], "rate")


def test_heatmaps_add_their_newest_column_and_matrices_nothing(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    writer.write(10, {}, {"h": heatmap(10), "m": Matrix(torch.eye(2), 0.0, 1.0, "row")})
    writer.write(25, {}, {"h": heatmap(10, 25)})
    text = "step,name,task,units,bin,share\n10,h,0,5,low,0.1\n10,h,0,5,high,0.9\n"
    assert (tmp_path / "heatmap.csv").read_text() == text + "25,h,1,6,low,0.25\n25,h,1,6,high,0.75\n"
    assert not (tmp_path / "metrics.csv").exists()
    writer.close()
    CsvWriter(tmp_path / "metrics.csv", resume_step=20)
    assert (tmp_path / "heatmap.csv").read_text() == text


def test_a_file_that_was_cut_edited_or_lost_since_the_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    writer = CsvWriter(path)
    assert set(writer.state_dict().values()) == {(0, 0)}
    writer.write(5, {"x": 1.0}, {})
    saved = writer.state_dict()
    assert saved["metrics.csv"] == (24, zlib.crc32(b"step,name,value\n5,x,1.0\n"))
    writer.write(6, {"x": 2.0}, {})
    writer.close()
    assert table_remarks(tmp_path, saved) == []  # rows that came later do not matter
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    assert table_remarks(tmp_path, saved) == [f"{path} has been cut: 4 of the 24 bytes that it held at the checkpoint are lost"]
    path.write_bytes(whole.replace(b"5,x,1.0", b"5,x,9.0"))
    assert table_remarks(tmp_path, saved) == [f"{path} has been edited since the checkpoint; its rows stay as they are"]
    path.unlink()
    assert table_remarks(tmp_path, saved) == [f"{path} is missing: its rows up to the checkpoint are lost"]
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="expected the columns"):
        table_remarks(tmp_path, saved)


def test_a_resumed_file_is_counted_from_what_is_left_of_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    CsvWriter(path).write(5, {"x": 1.0}, {})
    CsvWriter(path, resume_step=5).write(6, {"x": 2.0}, {})
    resumed = CsvWriter(path, resume_step=5)
    assert resumed.state_dict()["metrics.csv"] == (24, zlib.crc32(b"step,name,value\n5,x,1.0\n"))


def test_rows_of_the_same_step_that_were_written_after_the_checkpoint_go_unless_the_file_was_edited(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    writer = CsvWriter(path)
    writer.write(5, {"x": 1.0}, {})
    saved = writer.state_dict()
    writer.write(5, {"task_start/x": 2.0}, {"h": heatmap(5)})
    writer.close()
    whole, heat = path.read_bytes(), (tmp_path / "heatmap.csv").read_bytes()
    CsvWriter(path, 5, saved).close()
    assert path.read_text() == "step,name,value\n5,x,1.0\n"
    assert (tmp_path / "heatmap.csv").read_text() == "step,name,task,units,bin,share\n"
    for content in (whole.replace(b"5,x,1.0", b"5,x,9.0"), whole[:20] + whole[21:]):
        path.write_bytes(content)
        (tmp_path / "heatmap.csv").write_bytes(heat)
        CsvWriter(path, 5, saved).close()
        assert path.read_bytes() == content
