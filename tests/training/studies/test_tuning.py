"""What is chosen from folders whose numbers are known."""

from pathlib import Path
from typing import Any

import pytest
import run_folders
import yaml

from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import read_comparison
from plasticity.training.reports.output.chosen_tables import tuning_table
from plasticity.training.reports.reading.tuning import LOST
from plasticity.training.reports.report import report
from plasticity.training.reports.specification import Outcome, ReportSettings
from plasticity.training.studies.cells import Cell, Group
from plasticity.training.studies.folder import StudyFolder
from plasticity.training.studies.specification import StudySettings, Tune
from plasticity.training.studies.states import DONE, FAILED_BEFORE, TO_DO, State
from plasticity.training.studies.tuning import Point, choose

NAME = "interventions.l2.coefficient"
PLAN: Any = None  # what is chosen depends on folders alone


def study_of(better: str, grid: list[float]) -> StudySettings:
    tune = Tune([7, 8], 100, Outcome(value="rollout/return", better=better), {"l2": {NAME: list(grid)}})
    return StudySettings(name="mine", methods={"l2": ["method=l2"]}, tune=tune, report=ReportSettings())


def tried(folder: Path, returns: dict[float, tuple[float | None, float | None]]) -> tuple[list[Point], dict[str, State]]:
    """Writes the runs of each coefficient on two seeds; None is a run that failed."""
    points, states = [], {}
    for number, (coefficient, values) in enumerate(returns.items()):
        cells = []
        for seed, value in zip((7, 8), values, strict=True):
            cell = Cell(f"tuning/main/l2/{number}/seed_{seed}", "main", "l2", seed, (), (), 100, "")
            config = run_folders.config_of(seed, interventions={"l2": {"coefficient": coefficient}})
            if value is not None:
                run_folders.write_run(folder / cell.place, config, run_folders.returns(value), status=run_folders.finished())
            states[cell.place] = State(DONE if value is not None else FAILED_BEFORE)
            cells.append(cell)
        points.append(Point({NAME: coefficient}, Group(tuple(cells), PLAN)))
    return points, states


RETURNS: dict[float, tuple[float | None, float | None]] = {
    1e-4: (1.0, 2.0),  # mean 1.5
    1e-3: (2.0, 2.5),  # 2.25, the best that finished twice
    1e-2: (3.0, None),  # failed once
    1e-1: (0.0, 1.0),  # 0.5, the worst
}


def test_the_best_mean_of_those_that_finished_on_every_seed_is_chosen(tmp_path: Path) -> None:
    points, states = tried(tmp_path, RETURNS)
    chosen, lines = choose(study_of("higher", list(RETURNS)), StudyFolder(tmp_path), points, states)
    assert chosen == {("main", "l2"): (f"{NAME}=0.001",)}
    assert lines == []
    told = yaml.safe_load((tmp_path / "tuning/main/l2/chosen.yaml").read_text())
    assert told == {"words": [f"{NAME}=0.001"], "outcome": "rollout/return", "value": 2.25, "seeds": [7, 8], "tried": 4}
    rows = (tmp_path / "tuning/chosen.csv").read_text().splitlines()
    assert rows[0] == "condition,method,settings,finished,of,outcome,chosen,edge"
    assert rows[1] == f"main,l2,{NAME}=0.0001,2,2,1.5,,"
    assert rows[2] == f"main,l2,{NAME}=0.001,2,2,2.25,yes,"
    assert rows[3] == f"main,l2,{NAME}=0.01,1,2,nan,,"


def test_the_edge_of_what_was_tried_is_named(tmp_path: Path) -> None:
    points, states = tried(tmp_path, RETURNS)
    chosen, lines = choose(study_of("lower", list(RETURNS)), StudyFolder(tmp_path), points, states, write=False)
    assert chosen == {("main", "l2"): (f"{NAME}=0.1",)}
    assert lines == [f"main/l2: {NAME}=0.1 is the largest that was tried"]
    assert not (tmp_path / "tuning/chosen.csv").exists()


def test_nothing_is_chosen_while_runs_are_missing_or_when_all_failed(tmp_path: Path) -> None:
    points, states = tried(tmp_path, RETURNS)
    waiting = {**states, "tuning/main/l2/1/seed_8": State(TO_DO)}
    chosen, lines = choose(study_of("higher", list(RETURNS)), StudyFolder(tmp_path), points, waiting)
    assert chosen is None
    assert lines == [
        "the tuning is not complete: 1 of 8 of its runs are missing, "
        "the first is tuning/main/l2/1/seed_8; the reported runs wait for it"
    ]
    failed = dict.fromkeys(states, State(FAILED_BEFORE))
    chosen, lines = choose(study_of("higher", list(RETURNS)), StudyFolder(tmp_path), points, failed)
    assert chosen is None
    assert lines == ["the tuning of main/l2: none of its settings has finished on every seed"]


@pytest.mark.parametrize("grid", [[1.0], ["a", "b"]])
def test_one_value_or_words_have_no_edge(tmp_path: Path, grid: list[Any]) -> None:
    points, states = tried(tmp_path, dict.fromkeys(grid, (1.0, 1.0)))
    _, lines = choose(study_of("higher", grid), StudyFolder(tmp_path), points, states, write=False)
    assert lines == []


def test_the_page_shows_what_was_tried_and_warns_of_the_edge(tmp_path: Path) -> None:
    points, states = tried(tmp_path, RETURNS)
    choose(study_of("lower", list(RETURNS)), StudyFolder(tmp_path), points, states)
    run_folders.write_run(
        tmp_path / "runs/main/l2/seed_0", run_folders.config_of(0), run_folders.returns(1.0), status=run_folders.finished()
    )
    tune = {"seeds": [7, 8], "steps": 100, "value": {"value": "rollout/return", "better": "lower"}}
    told = {"name": "mine", "methods": {"none": [], "l2": []}, "seeds": [0], "tune": tune}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(told))
    comparison = read_comparison([tmp_path])
    edge = f"{NAME} (largest)"
    assert f"Chosen at the edge of what was tried, beyond which a better value may lie: main / l2 {edge}." in comparison.warnings
    numbers = Numbers()
    table = tuning_table(comparison, numbers)
    assert [list(row) for row in table.rows] == [
        ["main", "l2", f"{NAME}=0.0001", "2 of 2", "1.500", ""],
        ["main", "l2", f"{NAME}=0.001", "2 of 2", "2.250", ""],
        ["main", "l2", f"{NAME}=0.01", "1 of 2", "–", ""],
        ["main", "l2", f"{NAME}=0.1", "2 of 2", "0.5000", f"yes, at the edge: {edge}"],
    ]
    assert table.bold == {(3, 2), (3, 4)}
    assert numbers["tuning/main/l2/1"].value == 2.25
    assert table.note.endswith(
        "By rollout/return, mean over seeds (lower is better), on seeds 7, 8, which are not reported, in 100 steps a run. "
        "Not tuned: none."
    )
    page = report([tmp_path], bundle=tmp_path / "b.zip").read_text()
    assert 'id="table-tuning"' in page
    again = report([tmp_path / "b.zip"], tmp_path / "again").read_text()
    assert 'id="table-tuning"' in again
    (tmp_path / "tuning/chosen.csv").write_text("condition,method\nmain,l2\n")
    assert LOST in read_comparison([tmp_path]).warnings
