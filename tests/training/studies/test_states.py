"""States are found from files alone: these folders hold what runs leave after each kind of end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from plasticity.training.saving.identity import identity
from plasticity.training.saving.run_folder import occupied
from plasticity.training.studies.cells import Cell
from plasticity.training.studies.folder import FAILED, FINISHED, SKIPPED, STARTED, StudyFolder
from plasticity.training.studies.states import BUSY, DONE, FAILED_BEFORE, INTERRUPTED, OTHER, TO_DO, State, state_of

CONFIG: dict[str, Any] = {"seed": 0, "steps": 50, "plugins": [], "agent": {"name": "dqn", "discount": 0.9}, "interventions": {}}
CELL = Cell("runs/main/none/seed_0", "main", "none", 0, ("seed=0",), ("seed=0",), 50, identity(CONFIG, {}))


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path)


def left(study: StudyFolder, state: str | None, step: int = 50, config: dict[str, Any] = CONFIG, plugins: Any = None) -> Path:
    folder = study.path / CELL.place
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "run_dir": str(folder)}))
    (folder / "provenance.json").write_text(json.dumps({"overrides": [], "files": plugins or {}}))
    if state is not None:
        (folder / "status.json").write_text(json.dumps({"state": state, "step": step, "steps": 50, "error": "it broke"}))
    return folder


def told(study: StudyFolder, cell: Cell = CELL, mine: bool = False) -> State:
    return state_of(cell, CONFIG, study, study.last_events().get(cell.place, {}), mine)


def test_without_a_folder_it_is_to_do(study: StudyFolder) -> None:
    assert told(study) == State(TO_DO)
    (study.path / CELL.place).mkdir(parents=True)
    assert told(study) == State(TO_DO)


def test_finished_is_done_and_a_removed_folder_is_to_do_again(study: StudyFolder) -> None:
    folder = left(study, "finished")
    study.note(CELL, FINISHED)
    assert told(study) == State(DONE)
    folder.rename(study.path / "elsewhere")
    assert told(study) == State(TO_DO)


@pytest.mark.parametrize("state", ["running", "stopped", None])
def test_killed_and_stopped_runs_are_resumed(study: StudyFolder, state: str | None) -> None:
    left(study, state, step=20)
    study.note(CELL, STARTED)
    assert told(study).name == INTERRUPTED
    assert told(study).runs(retry=False)


def test_a_failed_run_is_run_again_on_request_alone(study: StudyFolder) -> None:
    left(study, "failed", step=20)
    study.note(CELL, FAILED, "it broke")
    assert told(study) == State(FAILED_BEFORE, "it broke")
    assert not told(study).runs(retry=False)
    assert told(study).runs(retry=True)


def test_a_run_that_failed_before_it_had_a_folder_stays_failed_until_its_settings_change(study: StudyFolder) -> None:
    study.note(CELL, FAILED, "no such module")
    assert told(study) == State(FAILED_BEFORE, "no such module")
    other = Cell(CELL.place, "main", "none", 0, ("seed=0",), ("seed=0",), 50, "another identity")
    assert told(study, other) == State(TO_DO)


def test_a_run_that_failed_is_to_do_once_its_folder_is_removed(study: StudyFolder) -> None:
    folder = left(study, "failed")
    study.note(CELL, FAILED, "it broke")
    folder.rename(study.path / "elsewhere")
    assert told(study) == State(TO_DO)


def test_other_settings_are_named_and_never_run(study: StudyFolder) -> None:
    left(study, "finished", config={**CONFIG, "steps": 60, "agent": {"name": "dqn", "discount": 0.5}})
    state = told(study)
    assert state == State(OTHER, "agent.discount=0.5 in the run, 0.9 in the study; steps=60 in the run, 50 in the study")
    assert not state.runs(retry=True)


def test_a_plugin_that_was_edited_is_other_code(study: StudyFolder) -> None:
    left(study, "finished", plugins={"/m.py": "abc"})
    assert told(study) == State(OTHER, "a plugin's file has changed since the run")


def test_how_a_run_is_computed_makes_no_other_run(study: StudyFolder) -> None:
    left(study, "finished", config={**CONFIG, "threads": "4", "device": "cuda", "checkpoint": {"keep": 9}, "progress": True})
    assert told(study) == State(DONE)


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json"])
def test_a_damaged_folder_is_left_alone(study: StudyFolder, name: str) -> None:
    (left(study, "finished") / name).write_text("{[")
    assert told(study).name == OTHER


@contextmanager
def elsewhere(study: StudyFolder) -> Iterator[None]:
    with study.taken(CELL) as mine:
        assert mine
        yield


def test_a_run_of_another_process_is_busy(study: StudyFolder) -> None:
    left(study, "running")
    with elsewhere(study):
        assert told(study).name == BUSY
        assert not told(study).runs(retry=True)
        with study.taken(CELL) as mine:
            assert not mine
    assert told(study).name == INTERRUPTED
    with occupied(study.path / CELL.place):  # resumed by hand
        assert told(study, mine=True).name == BUSY


def test_to_ask_keeps_no_process_from_work(study: StudyFolder) -> None:
    with study.taken(CELL):
        pass
    assert not study.is_taken(CELL)
    with study.taken(CELL) as mine:
        assert mine


def test_torn_lines_and_skipped_runs_do_not_count_as_events(study: StudyFolder) -> None:
    study.note(CELL, STARTED)
    study.note(CELL, SKIPPED, "busy")
    with (study.path / "events.jsonl").open("a") as file:
        file.write('{"cell": "runs/main/none/seed_0", "ev')
    assert study.last_events()[CELL.place]["event"] == STARTED
    study.note(CELL, FINISHED)
    assert study.last_events()[CELL.place]["event"] == FINISHED


def test_a_folder_of_something_else_is_not_claimed(study: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="exists, is not empty and holds no study"):
        study.claim({"name": "mine"})
    other = StudyFolder(tmp_path / "s")
    other.claim({"name": "mine"})
    other.claim({"name": "mine", "steps": 3})
    with pytest.raises(ValueError, match="holds the study mine, not yours"):
        other.claim({"name": "yours"})
