"""Runs that begin from another's checkpoint, as the command line makes them."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import run_agent
from plasticity.envs.datasets.datasets import load_dataset
from plasticity.envs.environments.bandit_labels import label_order
from plasticity.envs.experience import Transitions
from plasticity.training.branching.planning import branch_plan, methods_of, points_in
from plasticity.training.branching.starting import begin
from plasticity.training.config.command_line import Composer
from plasticity.training.config.parsing import Grid, Train, parse
from plasticity.training.saving.checkpoint import load_checkpoint, saved_steps
from plasticity.training.saving.run_folder import occupied

SMALL = ["network.widths=[8]", "agent.warmup_env_steps=5", "agent.batch_size=4", "agent.buffer_transitions=200"]
QUIET = ["metrics.every_steps=0", "probe.every_steps=0", "log_every_steps=10", "progress=false", "checkpoint.keep=1"]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints, in a folder whose name needs quotes."""
    folder = tmp_path_factory.mktemp("trunk") / "the run"
    before = torch.get_num_threads()
    words = [*SMALL, *QUIET, "steps=60", "seed=4", "checkpoint.at_steps=[30]", "intervention=[redo]", f"run_dir='{folder}'"]
    assert run_agent.main(words) == 0
    torch.set_num_threads(before)
    assert saved_steps(folder) == [30, 60]
    return folder


def branch(trunk: Path, *words: str, step: int = 30) -> list[str]:
    return [f"branch.run='{trunk}'", f"branch.step={step}", "progress=false", *words]


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.reader(file) if not row[1].startswith("time/") and row[0] != "step"]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder / "checkpoints" / f"step_{step:09d}.pt")
    network: dict[str, torch.Tensor] = state["agent"]["q"]["network"]
    return network


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_without_a_change_it_goes_on_as_its_parent_did(trunk: Path, tmp_path: Path) -> None:
    before, copy = digests(trunk), tmp_path / "copy"
    shutil.copytree(trunk, copy)
    folder = tmp_path / "branch"
    assert run_agent.main(branch(copy, f"run_dir={folder}")) == 0
    assert rows(folder) == [row for row in rows(trunk) if int(row[0]) > 30]
    ours, theirs = weights(folder, 60), weights(trunk, 60)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    known = json.loads((folder / "provenance.json").read_text())["branch"]
    assert (known["run"], known["step"], known["repeat"]) == (str(copy), 30, 0)
    assert known["checkpoint_sha256"] == before[str(trunk / "checkpoints" / "step_000000030.pt")]
    assert digests(copy) == {name.replace(str(trunk), str(copy)): digest for name, digest in before.items()}
    # its parent is not needed any more
    shutil.rmtree(copy)
    assert run_agent.main([f"resume={folder}", "steps=80", "progress=false"]) == 0
    assert saved_steps(folder)[-1] == 80


def test_a_method_is_added_and_another_ends(trunk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "branch"
    words = branch(trunk, "method=l2", "interventions.l2.coefficient=0.1", "branch.drop=[redo]", f"run_dir={folder}")
    assert run_agent.main(words) == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert list(config["interventions"]) == ["l2"]
    assert config["interventions"]["l2"]["coefficient"] == 0.1
    assert config["choices"]["method"] == "l2"
    assert config["branch"]["drop"] == ["redo"]
    assert rows(folder) != [row for row in rows(trunk) if int(row[0]) > 30]


@pytest.mark.parametrize(
    ("words", "methods"),
    [
        ([], ["redo"]),
        (["method=none"], ["redo"]),
        (["method=l2_init"], ["redo", "l2_init"]),
        (["method=redo"], ["redo"]),
        (["method=none", "branch.drop=[redo]"], []),
        (["intervention=[l2]"], ["l2"]),
        (["intervention=[]"], []),
    ],
)
def test_which_methods_a_branch_has(words: list[str], methods: list[str], trunk: Path) -> None:
    assert methods_of(branch(trunk, *words), Composer()) == methods


def test_a_method_that_acts_once_acts_where_it_is_added(trunk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "branch"
    assert run_agent.main(branch(trunk, "method=fire", f"run_dir={folder}")) == 0
    told = [(step, name) for step, name, _ in rows(folder) if name.startswith("fire/squared_distance")]
    assert told == [("30", "fire/squared_distance")]
    assert not torch.equal(*(weights(each, 30)["torso.layers.dense_1.linear.weight"] for each in (folder, trunk)))


def test_new_settings_of_the_optimizer_hold_from_the_first_update_on(trunk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "branch"
    words = branch(trunk, "optimizer.learning_rate=5e-4", "checkpoint.at_steps=[30,31]", f"run_dir={folder}")
    assert run_agent.main(words) == 0
    before, after = (load_checkpoint(folder / "checkpoints" / f"step_0000000{step}.pt")["agent"]["q"] for step in (30, 31))
    parent = load_checkpoint(trunk / "checkpoints" / "step_000000030.pt")["agent"]["q"]
    groups = [state["optimizer"]["param_groups"][0]["lr"] for state in (parent, before, after)]
    assert groups == [1e-3, 5e-4, 5e-4]
    assert after["steps"] == before["steps"] + 1
    # one step of Adam by hand, from the parent's moments: m and v after it give the change of each weight
    name = next(iter(parent["network"]))
    old, new = parent["network"][name].double(), after["network"][name].double()
    state = after["optimizer"]["state"][0]
    m, v, t = state["exp_avg"].double(), state["exp_avg_sq"].double(), float(torch.as_tensor(state["step"]).max())
    change = 5e-4 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    assert torch.allclose(new, old - change, atol=1e-8)


def test_permuted_labels_hold_from_the_first_step_on(trunk: Path) -> None:
    digits, order = load_dataset("digits"), torch.from_numpy(label_order(10, 1, 4))
    paid: dict[int, list[float]] = {0: [], 1: []}
    seen: dict[int, list[int]] = {0: [], 1: []}
    for number in paid:

        def answer(shown: torch.Tensor, number: int = number) -> torch.Tensor:
            image = (shown == digits.inputs).flatten(1).all(1).int().argmax()
            seen[number].append(int(image))
            return order[digits.targets[image]].reshape(1)

        plan, point = branch_plan([f"branch.run='{trunk}'", "branch.step=30", f"env.label_permutation={number}"], Composer())
        stream = begin(plan, point).assembly.stream
        for _ in range(30):
            batch = stream.advance(answer).batch
            assert isinstance(batch, Transitions)
            paid[number] += batch.rewards.tolist()
    assert seen[0] == seen[1]
    unmoved = [float(order[digits.targets[image]] == digits.targets[image]) for image in seen[0]]
    assert paid == {0: unmoved, 1: [1.0] * 30}
    assert unmoved[0] == 0.0


def test_a_grid_of_branches(trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "grid"
    words = ["-m", *branch(trunk), "method=none,l2", "interventions.l2.coefficient=0.1", "branch.repeat=0,1", f"run_dir={grid}"]
    command = parse(words)
    assert isinstance(command, Grid)
    assert (len(command.said), command.branches) == (4, True)
    assert len(points_in(words[1:])) == 2
    assert run_agent.main(words) == 0
    runs = {path.name: rows(path) for path in grid.iterdir() if path.is_dir()}
    assert len(runs) == 4
    unchanged = next(own for name, own in runs.items() if "method=none" in name and "repeat=0" in name)
    assert unchanged == [row for row in rows(trunk) if int(row[0]) > 30]
    assert len({str(own) for own in runs.values()}) == 4
    assert "interventions.l2.coefficient does not apply to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=layer_norm"], r"intervention=layer_norm adds parameters torso\.layers\.dense_1\.norms\.0\.weight"),
        (["branch.step=14"], r"branch\.step=14 has no checkpoint in .*; kept: 30, 60 \(checkpoint\.at_steps=\[14\] keeps one\)"),
        (["branch.step=x"], r"branch\.step=x must be a whole number, 0 or more"),
        (["branch.repeat=-1"], r"branch\.repeat=-1 must be a whole number, 0 or more"),
        (["seed=5"], r"seed=5: a branch has its parent's seed; branch\.repeat=1 draws new random numbers"),
        (
            ["branch.stp=1"],
            r"branch\.stp is unknown \(did you mean step\?\); branch has run, step, drop, repeat, measure, replay",
        ),
        (["branch.drop=[l2]"], r"branch\.drop=l2: the parent has redo"),
        (["branch.drop=[redo]", "intervention=[l2]"], r"lists all methods of a branch; leave branch\.drop out"),
        (["agent=ppo"], r"agent=ppo: a branch has its parent's, dqn"),
        (
            ["network.widths=[9]"],
            r"the parent has network\.widths=\[8\], the branch has network\.widths=\[9\]; a branch may change",
        ),
        (["steps=30"], r"steps=30 is not after the step of the branch, 30; give a larger steps="),
        (["--cfg", "job"], r"--cfg does not go with branch\.run="),
    ],
)
def test_what_does_not_fit_is_refused(
    words: list[str], message: str, trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "branch"
    said = [
        word for word in branch(trunk, f"run_dir={folder}") if word.partition("=")[0] not in {w.partition("=")[0] for w in words}
    ]
    assert run_agent.main([*said, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert re.search(message, error[0]), error
    assert not folder.exists()


def test_a_branch_that_had_not_begun_begins_again_unless_another_process_is_at_it(
    trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "branch"
    words = branch(trunk, f"run_dir={folder}")
    assert run_agent.main(words) == 0
    whole = rows(folder)
    shutil.rmtree(folder / "checkpoints")  # as after a kill before its first save
    with occupied(folder):
        assert run_agent.main(words) == 2
    assert f"{folder} is in use" in capsys.readouterr().err
    assert rows(folder) == whole
    assert run_agent.main(words) == 0
    assert rows(folder) == whole
    assert saved_steps(folder)[-1] == 60


@pytest.mark.parametrize("place", ["missing", "empty"])
def test_a_folder_without_a_run_is_refused(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run_agent.main([f"branch.run={tmp_path / place}"]) == 2
    assert f"branch.run={tmp_path / place}" in capsys.readouterr().err


def test_the_newest_checkpoint_is_where_it_begins_unless_a_step_is_given(trunk: Path) -> None:
    command = parse([f"branch.run='{trunk}'", "steps=70"])
    assert isinstance(command, Train)
    assert command.origin is not None
    assert command.origin.step == 60


def test_a_branch_without_a_folder_of_its_own_names_itself(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_agent.main(branch(trunk, "method=none")) == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert saved_steps(made)[-1] == 60
    grid = parse(["-m", f"branch.run='{trunk}'", "branch.step=30", "method=none,redo"])
    assert isinstance(grid, Grid)
    assert grid.folder is None
