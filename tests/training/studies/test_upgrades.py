"""A run that was made before a setting was added is the run that it would be now, if the setting has its default."""

import json
from copy import deepcopy
from pathlib import Path

import yaml

from plasticity.training.config.command_line import CONFIGS, Composer
from plasticity.training.config.settings import plan_from
from plasticity.training.saving.identity import identity
from plasticity.training.studies.cells import Cell
from plasticity.training.studies.folder import StudyFolder
from plasticity.training.studies.states import DONE, OTHER, state_of
from plasticity.training.studies.upgrades import completed

WORDS = ["env=catch", "intervention=[redo]", "network.widths=[8]"]


def test_settings_that_a_run_does_not_know_have_their_defaults() -> None:
    composer = Composer(CONFIGS)
    planned = plan_from(composer.compose(WORDS, composer.choices())).config
    old = deepcopy(planned)
    del old["network"]["initialiser"], old["interventions"]["redo"]["threshold"], old["agent"]["batch_size"], old["compile"]
    assert identity(old) != identity(planned)
    assert identity(completed(old, planned)) == identity(planned)
    assert "initialiser" not in old["network"]
    # what it does know stays, and a plan that has another value than the default is another run
    assert completed({**old, "steps": 7}, planned)["steps"] == 7
    other = deepcopy(planned)
    other["network"]["initialiser"] = "orthogonal"
    assert identity(completed(old, other)) != identity(other)


def test_a_study_goes_on_with_such_a_run(tmp_path: Path) -> None:
    composer = Composer(CONFIGS)
    planned = plan_from(composer.compose(WORDS, composer.choices())).config
    old = deepcopy(planned)
    del old["network"]["initialiser"]
    cell = Cell("runs/main/redo/seed_0", "main", "redo", 0, (), (), int(planned["steps"]), identity(planned, {}))
    folder = tmp_path / cell.place
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(old))
    (folder / "provenance.json").write_text(json.dumps({"overrides": [], "files": {}}))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "step": cell.steps, "steps": cell.steps}))
    assert state_of(cell, planned, StudyFolder(tmp_path), {}).name == DONE
    (folder / "config.yaml").write_text(yaml.safe_dump({**old, "steps": 3}))
    assert state_of(cell, planned, StudyFolder(tmp_path), {}).name == OTHER
