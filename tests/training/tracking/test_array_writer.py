"""Arrays as files: what they hold, how they appear, and which of them a resumed run keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity.metrics.log_values import Array, Histogram, Matrix
from plasticity.training.config.parsing import parse
from plasticity.training.reports.figures.matrix import matrix_file, matrix_names, name_of, read_matrix
from plasticity.training.run import run
from plasticity.training.saving.run_folder import start_again
from plasticity.training.tracking.array_writer import ArrayWriter, file_name

MATRIX = Matrix(torch.tensor([[1.0, 0.25], [0.25, 1.0]], dtype=torch.float64), -1.0, 1.0, "example", ["0", "3"], [1, 0])
NAME = "plasticity/gradient_cosine_matrix"


def steps_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_holds_values_in_raw_order_with_labels(tmp_path: Path) -> None:
    table = Array(torch.tensor([[1, 2, 3], [4, 5, 6]]), ["a", "b"], ["x", "y", "z"])
    row = Array(torch.tensor([0.5, float("nan")], dtype=torch.bfloat16))
    writer = ArrayWriter(tmp_path / "arrays")
    writer.write(12, {"x": 1.0}, {f"{NAME}/q": MATRIX, "t": table, "r": row, "h": Histogram(torch.zeros(2))})
    place = tmp_path / "arrays" / "plasticity" / "gradient_cosine_matrix" / "q" / "step_000000012.npz"
    with np.load(place, allow_pickle=False) as file:
        assert file["values"].tolist() == [[1.0, 0.25], [0.25, 1.0]]
        assert file["values"].dtype == np.float64
        assert (file["rows"].tolist(), file["columns"].tolist(), file["order"].tolist()) == (["0", "3"], ["0", "3"], [1, 0])
    with np.load(tmp_path / "arrays" / "t" / "step_000000012.npz", allow_pickle=False) as file:
        assert file["values"].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert (file["rows"].tolist(), file["columns"].tolist()) == (["a", "b"], ["x", "y", "z"])
    with np.load(tmp_path / "arrays" / "r" / "step_000000012.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["values"], [0.5, np.nan])
        assert file["rows"].shape == (0,)
    assert sorted(path.name for path in (tmp_path / "arrays").iterdir()) == ["plasticity", "r", "t"]


def test_reports_find_what_was_written(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path / "arrays")
    for step in (5, 1_000_000_000):
        writer.write(step, {}, {f"{NAME}/q": MATRIX, "a/row": Array(torch.arange(3))})
    assert matrix_names(tmp_path) == [f"{NAME}/q"]
    path = matrix_file(tmp_path, "gradient_cosine_matrix", None, 10**9)
    assert path is not None
    assert (path.name, name_of(path)) == ("step_1000000000.npz", f"{NAME}/q")
    np.testing.assert_array_equal(read_matrix(path), MATRIX.values.numpy())
    early = matrix_file(tmp_path, f"{NAME}/q", 0.5, 10**9)
    assert early is not None
    assert early.name == "step_000000005.npz"
    assert matrix_file(tmp_path, "cosine_matrix", None, 10**9) is None


@pytest.mark.parametrize(
    ("name", "place"), [("a/torso.0", "a/torso.0"), ("/a b", "-/a-b"), ("../x:y", "-/x-y"), ("a//b", "a/-/b")]
)
def test_no_name_leaves_the_folder(name: str, place: str) -> None:
    assert file_name(name) == place


def test_a_kill_leaves_no_torn_file_and_a_resumed_run_no_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ArrayWriter(tmp_path)
    for step in (10, 20, 30):
        writer.write(step, {}, {"a/b": MATRIX})
    with monkeypatch.context() as patch:
        patch.setattr("plasticity.training.tracking.array_writer.os.replace", lambda *paths: None)  # killed before the rename
        writer.write(15, {}, {"a/b": MATRIX})
    assert steps_of(tmp_path) == [
        "step_000000010.npz", "step_000000015.npz.tmp", "step_000000020.npz", "step_000000030.npz",
    ]  # fmt: skip
    ArrayWriter(tmp_path, resume_step=20)
    assert steps_of(tmp_path) == ["step_000000010.npz", "step_000000020.npz"]
    with pytest.raises(ValueError, match="holds another run's arrays"):
        ArrayWriter(tmp_path)


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_arrays_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    words = ["agent=dqn", "env=bandit", "agent.warmup_env_steps=5", "agent.batch_size=4", "network.widths=[8]"]
    quiet = ["probe.every_steps=0", "threads=1", "progress=false"]
    measured = ["metrics.names=[gradient_cosine_matrix]", "metrics.every_steps=10"]

    def go(folder: Path, steps: int, resume: bool = False) -> None:
        said = [*words, *quiet, *measured, f"steps={steps}", f"run_dir={folder}"]
        run(parse(said).plan, folder, said, resume)  # type: ignore[union-attr]

    go(tmp_path / "whole", 30)
    go(tmp_path / "cut", 20)
    (tmp_path / "cut" / "arrays" / NAME / "q" / "step_000000025.npz").touch()
    go(tmp_path / "cut", 30, resume=True)
    whole, cut = (tmp_path / name / "arrays" / NAME / "q" for name in ("whole", "cut"))
    assert steps_of(tmp_path / "whole" / "arrays") == [f"step_0000000{step}.npz" for step in (10, 20, 30)]
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == {path.name: path.read_bytes() for path in whole.iterdir()}
    start_again(tmp_path / "cut", {"steps": 1}, [])
    assert not (tmp_path / "cut" / "arrays").exists()
