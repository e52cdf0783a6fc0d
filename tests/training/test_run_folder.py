"""The run folder: made once, never overwritten, and true to how the run goes on."""

import errno
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.run_folder import create_run_folder, default_run_dir, occupied, saved_overrides, update_run_folder

ROOT = Path(__file__).resolve().parents[2]

CONFIG: dict[str, Any] = {
    "steps": 10,
    "seed": 3,
    "agent": {"name": "dqn"},
    "env": {"name": "bandit"},
    "interventions": {"layer_norm": {}, "redo": {"threshold": 0.1}},
}


def test_it_holds_the_config_and_where_the_run_comes_from(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "new" / "run", CONFIG, ["seed=3"])
    assert yaml.safe_load((tmp_path / "new" / "run" / "config.yaml").read_text()) == CONFIG
    known = json.loads((tmp_path / "new" / "run" / "provenance.json").read_text())
    assert known["overrides"] == ["seed=3"]
    assert len(known["git_revision"]) == 40
    assert isinstance(known["uncommitted_changes"], bool)
    assert {"torch", "numpy", "gymnasium", "hydra-core", "tensorboard"} <= known["packages"].keys()
    assert known["packages"]["torch"].startswith("2.")


def test_an_empty_folder_may_be_used_and_a_full_one_may_not(tmp_path: Path) -> None:
    create_run_folder(tmp_path, CONFIG, [])
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=rf"^run_dir={tmp_path} exists and is not empty; .* by resume={tmp_path}$"):
        create_run_folder(tmp_path, {**CONFIG, "seed": 4}, [])
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_place_where_no_folder_can_be_is_named(tmp_path: Path, make: Any) -> None:
    place = tmp_path / "place"
    make(place)
    inside = place / "run" if place.is_file() else Path("/proc/run")
    with pytest.raises(ValueError, match=f"^run_dir={inside} cannot be made: "):
        create_run_folder(inside, CONFIG, [])


def test_default_names_say_what_runs_and_never_repeat(tmp_path: Path) -> None:
    first = default_run_dir(CONFIG, grid=False, root=tmp_path)
    assert first.name.endswith("_dqn_bandit_layer_norm+redo_seed3")
    first.mkdir()
    assert default_run_dir(CONFIG, grid=False, root=tmp_path) != first
    assert default_run_dir({**CONFIG, "interventions": {}}, False, tmp_path).name.endswith("_dqn_bandit_plain_seed3")
    assert default_run_dir(CONFIG, True, tmp_path).name.endswith("_dqn_bandit_grid")


def test_resuming_is_noted_and_becomes_what_the_next_resume_starts_from(tmp_path: Path) -> None:
    create_run_folder(tmp_path, CONFIG, ["steps=10"])
    for step, steps in ((4, 20), (20, 30)):
        update_run_folder(tmp_path, {**CONFIG, "steps": steps}, [f"steps={steps}"], step)
    assert saved_overrides(tmp_path) == ["steps=30"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["steps"] == 30
    known = json.loads((tmp_path / "provenance.json").read_text())
    assert [entry["step"] for entry in known["resumed"]] == [4, 20]
    assert all("packages" in entry for entry in [known, *known["resumed"]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "provenance.json"]


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"overrides": 3}'])
def test_what_is_not_a_run_folder_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=f"^resume={tmp_path} is not a run folder: it holds no readable provenance.json$"):
        saved_overrides(tmp_path)


def test_two_processes_cannot_run_in_one_folder(tmp_path: Path) -> None:
    with occupied(tmp_path), pytest.raises(ValueError, match=f"^{tmp_path} is in use: another process"), occupied(tmp_path):
        pass
    with occupied(tmp_path):  # free again
        assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_the_folder_free(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from training.run_folder import occupied\n"
        "with occupied(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ValueError, match="in use"), occupied(tmp_path):
            pass
        process.kill()
    with occupied(tmp_path):
        pass


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with occupied(tmp_path), occupied(tmp_path):
        pass


def test_a_missing_folder_cannot_be_occupied(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be opened: No such file"), occupied(tmp_path / "none"):
        pass
