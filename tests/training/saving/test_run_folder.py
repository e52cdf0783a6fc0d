"""The run folder: made once, never overwritten, and true to how the run continues."""

import errno
import fcntl
import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
import yaml

from plasticity.training.saving import provenance as provenance_module
from plasticity.training.saving.identity import plugin_digests
from plasticity.training.saving.provenance import differences, provenance
from plasticity.training.saving.run_folder import (
    can_start_again,
    config_remark,
    create_grid_folder,
    create_run_folder,
    default_run_dir,
    known_of,
    occupied,
    remove_run_folder,
    saved_overrides,
    start_again,
    update_run_folder,
)

ROOT = Path(__file__).resolve().parents[3]

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
    with pytest.raises(ValueError, match=rf"^run_dir={tmp_path} exists and is not empty; .* with resume={tmp_path}$"):
        create_run_folder(tmp_path, {**CONFIG, "seed": 4}, [])
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_place_where_no_folder_can_be_is_named(tmp_path: Path, make: Any) -> None:
    place = tmp_path / "place"
    make(place)
    inside = place / "run" if place.is_file() else Path("/proc/run")
    with pytest.raises(ValueError, match=f"^run_dir={inside} cannot be made: "):
        create_run_folder(inside, CONFIG, [])


def test_default_names_say_what_runs(tmp_path: Path) -> None:
    first = default_run_dir(CONFIG, grid=False, root=tmp_path)
    assert first.name.endswith("_dqn_bandit_layer_norm+redo_seed3")
    assert default_run_dir({**CONFIG, "interventions": {}}, False, tmp_path).name.endswith("_dqn_bandit_plain_seed3")
    assert default_run_dir(CONFIG, True, tmp_path).name.endswith("_dqn_bandit_grid")


def test_eight_runs_that_choose_one_name_at_once_get_eight_folders(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def start(number: int) -> Path:
        barrier.wait()
        return create_run_folder(tmp_path / "run", {**CONFIG, "seed": number}, [f"seed={number}"], free_name=True)[0]

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(start, range(8)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", *(f"run_{number}" for number in range(2, 9))]
    for number, folder in enumerate(folders):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (config["seed"], config["run_dir"]) == (number, str(folder))
        assert saved_overrides(folder) == [f"seed={number}"]


def test_grids_that_choose_one_name_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def start(number: int) -> Path:
        barrier.wait()
        return create_grid_folder(tmp_path / "grid")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 8


def test_a_folder_appears_with_both_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before the rename leaves nothing under the name."""

    def killed(*paths: object) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    seen: list[str] = []
    monkeypatch.setattr("plasticity.training.saving.run_folder.os.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        create_run_folder(tmp_path / "run", CONFIG, [])
    assert len(seen) == 1
    assert seen[0].startswith(".run.")


def test_a_run_without_a_checkpoint_starts_again_with_the_same_words_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not can_start_again(folder, ["seed=3"])
    create_run_folder(folder, CONFIG, ["seed=3"])
    (folder / "metrics.csv").write_text("step,name,value\n1,x,2\n")
    (folder / "events.out.tfevents.1").touch()
    (folder / "checkpoints" / "replay").mkdir(parents=True)
    (folder / "arrays" / "a").mkdir(parents=True)
    (folder / "arrays" / "a" / "step_000000001.npz").touch()
    (folder / "mine.txt").touch()
    assert can_start_again(folder, ["seed=3"])
    assert not can_start_again(folder, ["seed=4"])
    start_again(folder, CONFIG, ["seed=3"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "mine.txt", "provenance.json"]
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step_000000001.pt").touch()
    assert not can_start_again(folder, ["seed=3"])


def test_a_removed_folder_leaves_nothing(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "run", CONFIG, [])
    remove_run_folder(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_edited_or_missing_config_is_named(tmp_path: Path) -> None:
    create_run_folder(tmp_path, CONFIG, [])
    assert config_remark(tmp_path) is None
    update_run_folder(tmp_path, {**CONFIG, "steps": 20}, ["steps=20"], 4)
    assert config_remark(tmp_path) is None
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("steps: 20", "steps: 30"))
    assert config_remark(tmp_path) is not None
    assert str(config_remark(tmp_path)).startswith(f"{tmp_path / 'config.yaml'} has been edited")
    (tmp_path / "config.yaml").unlink()
    assert config_remark(tmp_path) == f"{tmp_path / 'config.yaml'} is missing; it is written again"


def test_the_machine_and_the_plugins_are_known(tmp_path: Path) -> None:
    plugin, settings = tmp_path / "mine.py", tmp_path / "mine.yaml"
    for path in (plugin, settings):
        path.write_bytes(b"abc")
    known = provenance([str(plugin), "json", "no_such_module"], [settings])
    files, machine = known["files"], known["machine"]
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (files[str(plugin)], files[str(settings)]) == (abc, abc)
    assert len(files["json"]) == 64
    assert files["no_such_module"] is None
    assert list(machine) == ["cpu", "capability", "threads", "python", "os"]
    assert machine["cpu"]
    assert machine["capability"] == torch.backends.cpu.get_cpu_capability()
    assert machine["threads"] == torch.get_num_threads()
    assert machine["python"] == ".".join(map(str, sys.version_info[:3]))
    assert machine["os"].startswith(platform.system())
    assert plugin_digests(files) == {place: digest for place, digest in files.items() if place != str(settings)}
    assert differences(known, known) == []
    for path in (plugin, settings):
        path.write_bytes(b"abd")
    other = provenance([str(plugin)], [settings])
    other["machine"]["capability"] = "OTHER"
    lines = differences(known, other)
    assert lines[0] == f"processor capability was {machine['capability']}, is OTHER"
    assert lines[1].startswith(f"plugin {plugin} was ba7816bf")
    assert len(lines) == 2  # what YAML files say is in the settings, which are compared


def test_choices_and_the_users_files_are_kept_as_the_run_goes_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    for path in (first, second):
        path.touch()
    config = {**CONFIG, "choices": {"env": "catch"}}
    folder, _ = create_run_folder(tmp_path / "run", config, [], settings=[first])
    start_again(folder, config, [])  # without the user's folder, from the settings that were saved
    known = known_of(folder)
    assert (known["choices"], list(known["files"])) == ({"env": "catch"}, [str(first)])
    update_run_folder(folder, {**config, "choices": {"env": "catch", "metrics": "second"}}, [], 4, [second])
    known = known_of(folder)
    assert known["choices"] == {"env": "catch", "metrics": "second"}
    assert (list(known["files"]), list(known["resumed"][0]["files"])) == ([str(first)], [str(second)])


def test_the_revision_of_another_project_s_repository_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product is installed in a folder of a repository that is not its own."""
    assert len(str(provenance()["git_revision"])) == 40
    inside = tmp_path / "site-packages"
    inside.mkdir()
    words = ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "theirs"]
    for command in (["init", "-q"], words):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance_module, "_ROOT", inside)
    assert (provenance()["git_revision"], provenance()["uncommitted_changes"]) == (None, None)
    monkeypatch.setattr(provenance_module, "_ROOT", tmp_path.resolve())
    assert len(str(provenance()["git_revision"])) == 40


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
        "import sys, time; from pathlib import Path; from plasticity.training.saving.run_folder import occupied\n"
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


def test_a_file_system_without_locks_keeps_no_process_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with occupied(tmp_path), occupied(tmp_path):
        pass


def test_a_missing_folder_cannot_be_occupied(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be opened: No such file"), occupied(tmp_path / "none"):
        pass
