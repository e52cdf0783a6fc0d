"""The table of running times, with few examples."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks import running_times
from benchmarks.running_times import Epoch, Times

_FEW = ["env.dataset=digits", "network.widths=[8]", "env.examples=40", "threads=1"]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_epoch_by_a_clock_that_goes_on_by_one_at_every_look() -> None:
    # four looks a minibatch: reading, predicting and updating take 1 s each, so that an update takes 0 s beyond inference
    ticks = count()
    epoch = Epoch(["experiment=online_permuted_mnist", "method=none", "env.batch_size=10", *_FEW], lambda: float(next(ticks)))
    assert epoch.minibatches == 4
    assert epoch.run() == Times(inference=1.0, backpropagation=0.0, epoch=8.0)
    assert epoch.run().epoch == 8.0
    assert next(ticks) == 2 * 4 * 4


def test_cells_by_hand() -> None:
    first = [Times(1e-6, 3e-6, 1.0), Times(3e-6, 5e-6, 2.0), Times(2e-6, 4e-6, 4.0)]
    other = [Times(2e-6, 6e-6, 2.0), Times(4e-6, 6e-6, 3.0), Times(6e-6, 6e-6, 16.0)]
    # ratios 2, 1.5 and 4, of which the median is 2; sd of 2, 3, 16 is sqrt((25 + 16 + 81) / 2) = 7.81
    assert running_times.summary({"times": other}, first) == ["4.0 ± 2.0", "6.0 ± 0.0", "7.00 ± 7.81", "2.00"]


def test_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "page"
    words = ["--rounds", "2", "--examples", "40", "--batches", "10,20", "--methods", "none,relu_strategy", *_FEW[:2]]
    running_times.main([*words, "--page", str(folder)])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if "±" in line]
    assert [row[:2] for row in rows] == [["10", "none"], ["10", "relu_strategy"], ["20", "none"], ["20", "relu_strategy"]]
    assert [row[-1] for row in rows if row[1] == "none"] == ["1.00", "1.00"]
    report = json.loads((folder / "report.json").read_text())
    # the units of pixels, 64 by 8 and 8 by 10, with biases
    assert report["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert [len(row["times"]) for row in report["rows"]] == [2] * 4
    assert {path.suffix for path in (folder / "tables").iterdir()} == {".csv", ".md", ".tex"}
    page = (folder / "index.html").read_text()
    assert "relu_strategy" in page
    assert "$" not in page  # nothing is left open
    assert "thesis: epoch" not in page


def test_the_thesis_stands_beside_its_own_setting_alone() -> None:
    measured = {"rows": [{"batch": 1, "method": "cbp_nature", "times": [Times(1, 1, 1), Times(1, 1, 1)]}], "parameters": 99_710}
    table = running_times.table_of(measured, 2, "wall", 10_000, published=True)
    assert (table.columns[-1], table.rows[0][-1]) == ("thesis: epoch, s", "20.77 ± 5.02")
    assert len(running_times.table_of(measured, 2, "wall", 500, published=False).columns) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "1"], "--rounds=1: a standard deviation takes 2 or more"),
        (["--batches", "1,x"], "--batches=1,x must be a list of whole numbers such as 1,10,100"),
        (["--methods", "cbp"], "method=cbp is unknown"),
        (["agent=dqn"], "agent=dqn"),
        (["seed=0,1"], "seed=0,1"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        running_times.main(words)
    assert message in capsys.readouterr().err
