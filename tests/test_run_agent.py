"""The command line as a user meets it: what runs leave behind, what is refused and how, stopping and going on, grids."""

import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from registries import built_in_interventions, forget_entries

import run_agent
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.training.config.config_store import GROUPS, SECTIONS
from plasticity.training.config.settings import RunSettings
from plasticity.training.saving.checkpoint import latest_checkpoint, load_checkpoint
from plasticity.training.saving.saver import PARTS

PROGRAM = Path(run_agent.__file__)
QUIET = ["metrics.every_steps=0", "probe.every_steps=0"]
SMALL = ["network.widths=[12,8]", "agent.warmup_env_steps=10", "agent.batch_size=8"]
LEARNER = ["agent=supervised", "env=permuted_pixels", "env.examples_per_task=200", "network.widths=[12,8]"]
MEASURED = ["metrics.every_steps=20", "metrics.inputs=40", "probe.every_steps=40", "probe.steps=3", "probe.inputs=32"]
BUILT_IN = list(built_in_interventions())


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def program(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, from outside the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    command = [sys.executable, str(PROGRAM), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment, check=False)


def run(folder: Path, *words: str) -> Path:
    """Runs the command in this process, and returns the run folder."""
    assert run_agent.main(["progress=false", f"run_dir={folder}", *words]) == 0
    return folder


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """Returns the rows of metrics.csv, apart from times."""
    with (folder / "metrics.csv").open() as file:
        return [(step, name, value) for step, name, value in csv.reader(file) if not name.startswith("time/")]


def last_state(folder: Path) -> dict[str, Any]:
    """Returns what the newest checkpoint holds, apart from the config and times."""
    path = latest_checkpoint(folder)
    assert path is not None
    state = load_checkpoint(path)
    del state["config"], state["files"]  # which hold times
    for values in (state["tracker"]["latest"], state["tracker"]["means"]["sums"]):
        for name in [name for name in values if name.startswith("time/")]:
            del values[name]
    return state


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b or (a != a and b != b))


# What a run leaves behind


@pytest.fixture(scope="module")
def dqn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ["steps=120", "log_every_steps=20", "intervention=[layer_norm,redo]", "interventions.redo.every_updates=10"]
    return run(tmp_path_factory.mktemp("runs") / "dqn", *settings, *SMALL, *MEASURED, "checkpoint.every_steps=50")


def test_the_run_folder_holds_what_the_readme_promises(dqn_run: Path) -> None:
    names = {path.name for path in dqn_run.iterdir()}
    assert {"config.yaml", "provenance.json", "metrics.csv", "curves.csv", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [path.name for path in sorted((dqn_run / "checkpoints").glob("*.pt"))] == ["step_000000100.pt", "step_000000120.pt"]
    assert (dqn_run / "metrics.csv").read_text().startswith("step,name,value\n")
    known = json.loads((dqn_run / "provenance.json").read_text())
    assert len(known["git_revision"]) == 40
    assert known["packages"]["torch"] == torch.__version__
    assert "steps=120" in known["overrides"]


def test_the_config_of_the_folder_is_resolved_and_complete(dqn_run: Path) -> None:
    config = yaml.safe_load((dqn_run / "config.yaml").read_text())
    assert config["run_dir"] == str(dqn_run)
    assert config["agent"]["discount"] == 0.99
    assert list(config["interventions"]) == ["layer_norm", "redo"]
    assert config["interventions"]["redo"]["every_updates"] == 10
    assert config["interventions"]["redo"]["threshold"] == 0.025
    assert "${" not in (dqn_run / "config.yaml").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "rollout/return",
        "rollout/length",
        "train/loss",
        "plasticity/dormant_fraction",
        "plasticity/dormant_fraction/q/dense_1",
        "plasticity/weight_norm/q/head",
        "probe/loss",
        "probe/fresh_loss",
        "probe/relative_loss",
        "redo/units_reset",
    ],
)
def test_promised_names_are_logged(dqn_run: Path, name: str) -> None:
    values = [float(value) for _, logged, value in rows(dqn_run) if logged == name]
    assert values
    assert all(math.isfinite(value) for value in values)


def test_speed_is_logged(dqn_run: Path) -> None:
    assert ",time/steps_per_second," in (dqn_run / "metrics.csv").read_text()


def test_a_supervised_run_logs_accuracy_and_takes_metrics_at_task_ends(tmp_path: Path) -> None:
    words = [*LEARNER, "steps=40", "log_every_steps=10", "metrics.every_steps=0", "probe.every_steps=0"]
    logged = rows(run(tmp_path / "run", *words))
    assert {"online/accuracy", "online/loss", "train/loss"} <= {name for _, name, _ in logged}
    assert {step for step, name, _ in logged if name == "plasticity/dormant_fraction"} == {"14", "27", "40"}


def run_with(agent: str, name: str) -> Any:
    """A pair of agent and method; the laws run all of them, and other runs of this file have more, so that a few are enough."""
    few = name in ("redo", "l2_init") or (agent, name) == ("dqn", "dr3")
    return pytest.param(agent, name, marks=() if few else pytest.mark.slow)


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        run_with(agent, name)
        for agent in ("dqn", "supervised")
        for name in BUILT_IN
        if agent == "dqn" or name not in ("dr3", "sample_weight_decay")
    ],
)
def test_every_intervention_runs_from_the_command_line(tmp_path: Path, agent: str, name: str) -> None:
    words = SMALL if agent == "dqn" else LEARNER
    steps = ["steps=30", "log_every_steps=10", "metrics.every_steps=15", "metrics.inputs=20", "probe.every_steps=0"]
    folder = run(tmp_path / "run", *words, *steps, f"intervention={name}")
    assert any(logged == "train/loss" for _, logged, _ in rows(folder))
    assert list(last_state(folder)["agent"]["q" if agent == "dqn" else "learner"]["interventions"]) == [name]


def test_the_command_reports_and_names_the_folder_itself(tmp_path: Path) -> None:
    done = program("steps=40", "log_every_steps=10", *SMALL, *MEASURED, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    for words in ("dormant fraction", "effective rank", "probe loss", "times a fresh network's", f"runs/{folder.name}"):
        assert words in done.stdout
    assert "tensorboard --logdir runs" in done.stdout
    assert "step/s" in done.stderr


def test_a_run_that_ends_before_its_first_line_still_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", "steps=3", *QUIET)
    assert "Done, 3 steps." in capsys.readouterr().out


def test_undefined_metrics_are_nan_with_a_reason(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "steps=20", "network=linear", *SMALL[1:], "metrics.every_steps=20", "probe.every_steps=0")
    assert ("20", "plasticity/dormant_fraction", "nan") in rows(folder)
    notes = (folder / "notes.log").read_text()
    assert "step 20: plasticity/dormant_fraction: the network has no hidden layer\n" in notes


@pytest.mark.parametrize("word", ["precision=bf16", "threads=2", "agent=dqn_two_hot", "network.load_balancing={low:0.1}"])
def test_settings_of_the_run_reach_it(tmp_path: Path, word: str) -> None:
    folder = run(tmp_path / "run", "steps=30", "log_every_steps=10", *SMALL, *QUIET, word)
    assert all(math.isfinite(float(value)) for _, name, value in rows(folder) if name == "train/loss")


# What is refused


@pytest.fixture(scope="module")
def broken_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugins") / "broken.py"
    path.write_text("class :\n")
    return path


REFUSED: dict[str, list[str]] = {
    "agent=dqm": ["agent=dqm", "did you mean dqn?", "dqn_two_hot", "supervised"],
    "intervention=[redo,l2_innit]": ["l2_innit", "did you mean l2_init?", "shrink_and_perturb"],
    "intervention=[redo,redo]": ["intervention=[redo,redo]", "redo twice"],
    "intervention=null": ["intervention=null", "continual_backprop", "[] for none"],
    "intervention=": ["intervention=", "continual_backprop"],
    "network=null": ["network=null", "nature_cnn"],
    "stpes=3": ["stpes", "did you mean steps?"],
    "hydraulic=3": ["hydraulic", "log_every_steps"],
    "agent.discout=0.9": ["agent.discout", "did you mean discount?"],
    "probe.step=3": ["probe.step", "did you mean steps?", "every_steps"],
    "steps.more=3": ["steps.more", "steps is a single value"],
    "intervention=redo interventions.redo.treshold=0.1": ["treshold", "did you mean threshold?", "every_updates"],
    "interventions.redo.threshold=0.1": ["interventions.redo.threshold", "redo is not chosen in intervention=[]"],
    "-m intervention=l2,l2_init interventions.redo.threshold=0.1": ["interventions.redo.threshold", "not chosen"],
    "-m intervention=l2,l2_init ++interventions.redo.threshold=0.1": ["interventions.redo.threshold", "not chosen"],
    "steps=many": ["steps=many", "Integer"],
    "steps=": ["steps=", "Integer"],
    "steps=0": ["steps=0", "at least 1"],
    "steps=10 steps=20": ["steps", "2 times"],
    "seed=-1": ["seed=-1", "between 0 and"],
    "seed=99999999999999999999": ["seed=99999999999999999999", "between 0 and"],
    "seed=0,1": ["seed=0,1", "-m", "[0,1]"],
    "agent.discount=2": ["agent.discount=2", "at least 0 and below 1"],
    "network.widths=5": ["network.widths=5", "[5]"],
    "network.activations=[rely]": ["network.activations=rely", "relu", "crelu"],
    "metrics.names=[dormant]": ["metrics.names=dormant", "did you mean dormant_fraction?"],
    "precision=fp16": ["precision=fp16", "fp32, bf16"],
    "threads=two": ["threads=two", "auto"],
    "device=gpu": ["device=gpu", "cpu, cuda, auto"],
    "checkpoint=null": ["checkpoint=null"],
    "~agent": ["agent"],
    "network.activations=[tanh] intervention=load_balancing": ["tanh", "relu"],
    "network=linear intervention=redo": ["redo", "network.widths"],
    "compile=true agent=rainbow": ["compile=true", "noisy layers", "compile=false"],
    "compile=true intervention=plasticity_injection": ["compile=true", "plasticity_injection", "compile=false"],
    "task_evaluation.every_tasks=2": ["task_evaluation", "evaluation.every_steps"],
    "optimizer=sgd intervention=adam_state_reset": ["adam_state_reset", "optimizer=adam", "sgd"],
    "-m optimizer=adam,sgd agent=dqn,supervised": ["agent=supervised cannot learn", "agent=dqn"],
    "agent=supervised": ["agent=supervised", "agent=dqn"],
    "agent=c51 env=permuted_pixels": ["agent=c51 cannot learn", "choose agent=supervised"],
    "agent=c51 intervention=redo interventions.redo.parts=[actor]": ["agent=c51 has the parts q"],
    "optimizer.learning_rate=inf": ["optimizer.learning_rate=inf", "finite"],
    "optimizer.learning_rate=nan": ["optimizer.learning_rate=nan", "finite"],
    "agent.batch_size=1000000000": ["agent.buffer_transitions=100000", "at least agent.batch_size=1000000000"],
    "agent.buffer_transitions=100000000000": ["agent.buffer_transitions=100000000000", "GB", "this machine has"],
    "network.widths=[100000000]": ["network.widths=[100000000]", "GB", "this machine has"],
    "env=permuted_pixels": ["agent=dqn", "agent=supervised"],
    "plugins=[/nowhere/mine.py]": ["/nowhere/mine.py", "no such file"],
    "plugins=[BROKEN]": ["broken.py", "SyntaxError"],
    "resume=/nowhere": ["resume=/nowhere", "not a run folder"],
    "short=true": ["short is valid only with study=, which is missing", "study=./mine.yaml", "list=studies"],
    "plan=true seed=3": ["plan is valid only with study=", "list=studies"],
    "-m retry=true seed=1,2": ["retry is valid only with study=", "list=studies"],
    "bundle=all.zip": ["bundle is valid only with report=", "report=<folder>"],
    "baseline=none": ["baseline is valid only with report="],
    "studdy=thesis_main short=true": ["studdy is unknown (did you mean study?)"],
    "reports=grid": ["reports is unknown (did you mean report?)"],
    "list=nonsense": ["list=nonsense", "interventions", "metrics"],
    "intervention=[redo": ["intervention=[redo", "not understood"],
    "run_dir=a=b": ["run_dir=a=b", "quotes"],
    "run_dir=/dev/null/run": ["run_dir=/dev/null/run", "Not a directory"],
    "hydra/launcher=joblib": ["hydra/launcher=joblib", "-m"],
    "-m hydra/launcher=jobs seed=0,1": ["hydra/launcher/jobs", "joblib"],
    "-m seed=glob(*)": ["seed=glob(*)", "seed=a,b"],
    "--steps=3": ["--steps=3", "name=value"],
    "steps": ["steps", "name=value"],
}


@pytest.mark.parametrize("words", REFUSED)
def test_mistakes_get_one_line_that_says_what_is_allowed(
    words: str, broken_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    assert run_agent.main(words.replace("BROKEN", str(broken_plugin)).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    for part in REFUSED[words]:
        assert part in captured.err
    assert not (tmp_path / "runs").exists()


def test_the_process_prints_that_line_and_nothing_else(tmp_path: Path) -> None:
    done = program("stpes=3", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: stpes is unknown (did you mean steps?); the config has agent, ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["step 120", "steps=120", "larger steps="]),
        (["steps=200", "network.widths=[9]"], ["network.widths=[12, 8]", "network.widths=[9]"]),
        (["steps=200", "intervention=[layer_norm]"], ["intervention=[layer_norm,redo]", "intervention=[layer_norm]"]),
        (["steps=200", "intervention=[redo,layer_norm]"], ["intervention=[layer_norm,redo]", "intervention=[redo,layer_norm]"]),
        (["steps=200", "seed=1"], ["seed=0", "seed=1"]),
        (["steps=200", "compile=true"], ["compile=False", "compile=True"]),
        (["-m", "steps=200,300"], ["-m"]),
    ],
)
def test_resuming_another_run_names_both_sides(
    dqn_run: Path, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in dqn_run.rglob("*")}
    assert run_agent.main([f"resume={dqn_run}", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts)
    assert before == {path: path.stat().st_mtime_ns for path in dqn_run.rglob("*")}


def test_a_checkpoint_of_another_version_is_refused_in_one_line(
    dqn_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(dqn_run, folder)
    path = latest_checkpoint(folder)
    assert path is not None
    state = load_checkpoint(path)
    del state["agent"]["env_steps"]
    torch.save(state, path)
    assert run_agent.main([f"resume={folder}", "steps=200"]) == 2
    line = f"error: resume={folder}: the checkpoint has no 'env_steps'; another version of this program made it"
    assert capsys.readouterr().err.strip().splitlines()[-1] == line


@pytest.mark.parametrize("state", [{"step": 7}, {"step": 7, "model": {}}, {"step": "x", **{part: {} for part in PARTS}}])
def test_a_checkpoint_of_something_else_is_refused_in_one_line(
    dqn_run: Path, tmp_path: Path, state: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(dqn_run, folder)
    path = latest_checkpoint(folder)
    assert path is not None
    torch.save(state, path)
    for words in ([], ["mode=evaluate"]):
        assert run_agent.main([f"resume={folder}", "steps=200", *words]) == 2
        assert f"error: resume={folder}: the checkpoint has no " in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *((part, None) for part in PARTS if part not in ("device", "unfinished")),
        *((part, {"x": 1}) for part in PARTS if part not in ("device", "observers")),  # a run may have other observers
    ],
)
def test_a_part_of_a_checkpoint_that_is_something_else_is_refused(
    dqn_run: Path, tmp_path: Path, part: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(dqn_run, folder)
    path = latest_checkpoint(folder)
    assert path is not None
    torch.save({**load_checkpoint(path), part: value}, path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run_agent.main([f"resume={folder}", "steps=200"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: resume={folder}: the checkpoint ")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_that_were_lost_or_edited_and_another_machine_are_named(
    dqn_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(dqn_run, folder)
    (folder / "metrics.csv").write_bytes((folder / "metrics.csv").read_bytes()[:100])
    (folder / "curves.csv").unlink()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 9"))
    path = latest_checkpoint(folder)
    assert path is not None
    state = load_checkpoint(path)
    state["device"], state["agent"]["generators"] = "cuda", [torch.zeros(16, dtype=torch.uint8)] * 3
    torch.save(state, path)
    assert run_agent.main([f"resume={folder}", "steps=130", "progress=false"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert lines[0].startswith(f"warning: {config} has been edited")
    assert lines[1].startswith(f"warning: {folder / 'metrics.csv'} has been cut: ")
    assert lines[2].startswith(f"warning: {folder / 'curves.csv'} is missing")
    assert lines[3].startswith("warning: from here on the run is not the same bit for bit: device was cuda, is cpu")
    assert len(lines) == 4
    assert "not the same bit for bit" in (folder / "notes.log").read_text()
    assert yaml.safe_load(config.read_text())["seed"] == 0


def test_nothing_is_written_before_a_checkpoint_fits(dqn_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(dqn_run, folder)
    path = latest_checkpoint(folder)
    assert path is not None
    state = load_checkpoint(path)
    state["agent"]["generators"] = [3, 3, 3]
    torch.save(state, path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run_agent.main([f"resume={folder}", "steps=200"]) == 2
    assert f"error: resume={folder}: the checkpoint does not fit this run" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    dqn_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["steps=20", "progress=false", "log_every_steps=10", *SMALL, *QUIET]
    whole = run(tmp_path / "whole", *words[:1], *words[2:])
    for resume in (True, False):
        folder = tmp_path / f"run{resume}"
        command = [f"run_dir={folder}", *words]
        assert run_agent.main(command) == 0
        shutil.rmtree(folder / "checkpoints")  # as if it had been killed
        assert run_agent.main([f"resume={folder}"] if resume else command) == 0
        assert f"note: {folder} holds no checkpoint yet" in capsys.readouterr().err
        assert rows(folder) == rows(whole)
        assert same(last_state(folder), last_state(whole))
        assert run_agent.main([f"run_dir={folder}", *words, "seed=1"]) == 2


def test_a_run_is_never_overwritten(dqn_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main([f"run_dir={dqn_run}", "steps=10"]) == 2
    assert capsys.readouterr().err.startswith(f"error: run_dir={dqn_run} exists and is not empty")


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["optimizer=sgd", "optimizer.learning_rate=1e30", "steps=60", *SMALL, *QUIET, "checkpoint.every_steps=5"]
    assert run_agent.main([f"run_dir={tmp_path / 'run'}", "progress=false", *words]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("stopped: part q: the loss or a gradient is not finite in update 2")
    assert str(tmp_path / "run") in error
    assert last_state(tmp_path / "run")["step"] == 10


# What can be looked up


@pytest.mark.parametrize("kind", ["agents", "envs", "networks", "optimizers", "interventions", "metrics", "experiments"])
def test_lists_begin_each_line_with_the_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"agents": "dqn", "envs": "bandit", "networks": "mlp", "optimizers": "sgd", "experiments": "bandit_plasticity"}
    assert run_agent.main([f"list={kind}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line.split()) > 2 for line in lines)
    names = [line.split()[0] for line in lines]
    assert len(set(names)) == len(names)
    assert known.get(kind, names[0]) in names
    if kind == "interventions":
        assert set(BUILT_IN) <= set(names)


def test_hydra_s_own_flags_leave_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run_agent.py"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert run_agent.main(["--cfg", "job"]) == 0
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert "agent:" in capsys.readouterr().out


def test_plugins_are_listed_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_entries(monkeypatch, INTERVENTIONS)
    monkeypatch.setattr(sys, "argv", ["run_agent.py"])
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from plasticity.interventions.base import Intervention\n"
        "from plasticity.interventions.registry import intervention\n\n\n"
        "@intervention('mine')\n@dataclass\nclass Mine(Intervention):\n    '''Does nothing at all.'''\n\n"
        "    strength: float = 0.5\n"
    )
    plugins = f"plugins=[{tmp_path / 'mine.py'}]"
    assert run_agent.main(["list=interventions", plugins]) == 0
    assert ["mine", "Does", "nothing", "at", "all."] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert run_agent.main([plugins, "intervention=mine", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["interventions"] == {"mine": {"parts": [], "strength": 0.5}}


PLUGIN = (
    "from dataclasses import dataclass\n"
    "from plasticity.interventions.base import Intervention\n"
    "from plasticity.interventions.registry import intervention\n\n\n"
    "@intervention('hold_still')\n@dataclass\nclass HoldStill(Intervention):\n    'Does nothing at all.'\n"
)


def test_a_run_with_a_plugin_goes_on_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "it's home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "mine.py").write_text(PLUGIN)
    (elsewhere / "mine.py").write_text("raise RuntimeError('another file of that name')")
    forget_entries(monkeypatch, INTERVENTIONS)
    monkeypatch.chdir(home)
    words = ["plugins=[mine.py]", "intervention=[hold_still]", *LEARNER, *QUIET]
    folder = run(tmp_path / "run", "steps=10", *words)
    monkeypatch.chdir(elsewhere)
    assert run_agent.main([f"resume={folder}", "steps=20"]) == 0
    assert run_agent.main([f"resume={folder}", "steps=30"]) == 0


def test_a_full_disk_ends_the_run_in_one_line_that_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("plasticity.training.tracking.csv_writer.CsvWriter.write", full)
    assert run_agent.main(["progress=false", f"run_dir={tmp_path / 'run'}", "steps=40", "log_every_steps=10", *LEARNER]) == 1
    line = f"stopped: [Errno 28] No space left on device. The run, up to its last checkpoint, is in {tmp_path / 'run'}"
    assert capsys.readouterr().err.strip() == line


def test_a_mistake_in_a_plugin_shows_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_entries(monkeypatch, INTERVENTIONS)
    (tmp_path / "mistaken.py").write_text(
        "from dataclasses import dataclass\n"
        "from plasticity.interventions.base import Intervention\n"
        "from plasticity.interventions.registry import intervention\n\n\n"
        "@intervention('mistaken')\n@dataclass\nclass Mistaken(Intervention):\n"
        "    def after_step(self, u):\n        int('three')\n"
    )
    words = [f"plugins=[{tmp_path / 'mistaken.py'}]", "intervention=mistaken", f"run_dir={tmp_path / 'run'}", "steps=20"]
    with pytest.raises(RuntimeError, match=r"at step 11 of .*run: invalid literal for int") as error:
        run_agent.main([*words, *SMALL, *QUIET, "progress=false"])
    frames = [str(frame.path) for frame in pytest.ExceptionInfo.from_exception(error.value.__cause__).traceback]
    assert frames[-1] == str(tmp_path / "mistaken.py")


def test_help_names_every_group_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {group} " in text for group in GROUPS)
    assert "adam_state_reset" in text
    words = text.split()
    assert {field.name for field in fields(RunSettings)} | {f"{section}.*" for section in SECTIONS} <= set(words)


# Stopping and going on


def words_of_a_long_run(seed: int = 4) -> list[str]:
    methods = "intervention=[redo,continual_backprop]"
    frequent = ["interventions.redo.every_updates=20", "interventions.continual_backprop.replacement_rate=0.05"]
    saving = ["checkpoint.every_steps=40", "log_every_steps=10", f"seed={seed}"]
    return ["steps=700", methods, *frequent, *saving, *SMALL, *MEASURED[:2], "probe.every_steps=200", *MEASURED[3:]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole") / "run", *words_of_a_long_run())


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, str(PROGRAM), f"run_dir={folder}", "progress=false", *words_of_a_long_run()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while latest_checkpoint(folder) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.03)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert 40 <= last_state(folder)["step"] < 700
    if number == signal.SIGINT:
        assert (process.returncode, errors) == (130, "")
        assert f"python run_agent.py resume={folder}\n" in output
    assert run_agent.main([f"resume={folder}"]) == 0
    assert "Done, 700 steps." in capsys.readouterr().out
    assert rows(folder) == rows(uninterrupted)
    assert same(last_state(folder), last_state(uninterrupted))
    assert (folder / "curves.csv").read_text() == (uninterrupted / "curves.csv").read_text()


def test_more_steps_go_on_from_the_end_and_the_next_resume_remembers_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = run(tmp_path / "short", "steps=40", "log_every_steps=10", *SMALL, *QUIET)
    long = run(tmp_path / "long", "steps=80", "log_every_steps=10", *SMALL, *QUIET)
    assert run_agent.main([f"resume={short}", "steps=80"]) == 0
    assert rows(short) == rows(long)
    assert same(last_state(short), last_state(long))
    assert yaml.safe_load((short / "config.yaml").read_text())["steps"] == 80
    (short / "checkpoints" / "step_000000080.pt").unlink()  # as if it had been killed on the way
    assert run_agent.main([f"resume={short}"]) == 0
    assert "Done, 80 steps." in capsys.readouterr().out


def test_lines_become_finer_when_a_run_goes_on(tmp_path: Path) -> None:
    """From the first interval that begins after the stop, the rows are those of a run that had the finer lines from its start."""
    words = ["steps=80", *SMALL, *QUIET]
    fine = run(tmp_path / "fine", *words, "log_every_steps=5")
    folder = run(tmp_path / "run", "steps=30", *SMALL, *QUIET, "log_every_steps=20", "checkpoint.every_steps=0")
    assert run_agent.main([f"resume={folder}", "steps=80", "log_every_steps=5"]) == 0
    lines = [step for step, name, _ in rows(folder) if name == "train/loss"]
    assert lines == ["20", *map(str, range(35, 81, 5))]  # the line at 35 is the mean of the steps from 21 on
    assert [row for row in rows(folder)[1:] if int(row[0]) >= 40] == [row for row in rows(fine)[1:] if int(row[0]) >= 40]
    states = [last_state(run_folder) for run_folder in (folder, fine)]
    assert same(*({name: state[name] for name in ("agent", "stream")} for state in states))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["intervention=[redo]", "interventions.redo.every_updates=7"],
        ["optimizer=sgd", "intervention=[continual_backprop]", "interventions.continual_backprop.maturity_updates=5"],
    ],
    ids=["adam", "sgd"],
)
def test_a_compiled_run_goes_on_bit_for_bit(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["log_every_steps=10", *words, *SMALL, *QUIET]
    short = run(tmp_path / "short", "steps=60", "compile=true", *settings)
    long = run(tmp_path / "long", "steps=120", "compile=true", *settings)
    plain = run(tmp_path / "plain", "steps=120", *settings)
    assert run_agent.main([f"resume={short}", "steps=120"]) == 0
    assert "Done, 120 steps." in capsys.readouterr().out
    assert rows(short) == rows(long)
    assert same(last_state(short), last_state(long))
    # And it is the run that is not compiled, up to rounding: the same choices on the same rewards.
    assert [row for row in rows(long) if "return" in row[1]] == [row for row in rows(plain) if "return" in row[1]]
    weights, others = (last_state(folder)["agent"]["q"]["network"] for folder in (long, plain))
    torch.testing.assert_close(weights, others, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_run_goes_on_in_another_process(tmp_path: Path) -> None:
    settings = ["compile=true", "log_every_steps=10", "progress=false", *SMALL, *QUIET]
    assert program(f"run_dir={tmp_path / 'short'}", "steps=60", *settings, folder=tmp_path).returncode == 0
    assert program(f"resume={tmp_path / 'short'}", "steps=120", folder=tmp_path).returncode == 0
    assert program(f"run_dir={tmp_path / 'long'}", "steps=120", *settings, folder=tmp_path).returncode == 0
    assert rows(tmp_path / "short") == rows(tmp_path / "long")
    assert same(last_state(tmp_path / "short"), last_state(tmp_path / "long"))


# Grids


def test_a_grid_names_folders_after_what_is_swept_and_outlives_a_run_that_diverges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "a=b c"
    swept = ["optimizer.learning_rate=1e30,0.1", "intervention=[],[redo]", "-m"]
    done = program("optimizer=sgd", "steps=20", *swept, *SMALL, *QUIET, f"run_dir='{grid}'", folder=tmp_path)
    folders = sorted(path.name for path in grid.iterdir() if path.is_dir())
    assert folders == [
        "0_intervention=,optimizer.learning-rate=1e+30",
        "1_intervention=redo,optimizer.learning-rate=1e+30",
        "2_intervention=,optimizer.learning-rate=0.1",
        "3_intervention=redo,optimizer.learning-rate=0.1",
    ]
    assert done.returncode == 1
    failed = ", ".join(f"{name} (not finite in update 2)" for name in folders[:2])
    assert done.stderr.splitlines()[-1] == f"2 of 4 failed: {failed}"
    assert "Traceback" not in done.stderr
    with (grid / "grid.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    assert [row["run"] for row in told] == folders
    assert [row["outcome"] for row in told] == ["failed: not finite in update 2"] * 2 + ["finished"] * 2
    assert told[1]["words"] == "optimizer.learning_rate=1e+30 'intervention=[redo]'"
    assert [last_state(grid / name)["step"] for name in folders[2:]] == [20, 20]
    assert run_agent.main([f"resume={grid / folders[3]}", "steps=30", "progress=false"]) == 0
    assert "Done, 30 steps." in capsys.readouterr().out


@pytest.mark.parametrize("launcher", [pytest.param("joblib", marks=pytest.mark.slow), "ray"])
def test_a_grid_runs_on_launchers(tmp_path: Path, launcher: str) -> None:
    if launcher == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    done = program(
        *["-m", "seed=0,1", f"hydra/launcher={launcher}", "steps=20", *SMALL, *QUIET, f"run_dir={tmp_path / 'grid'}"],
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    steps = [last_state(tmp_path / "grid" / name)["step"] for name in ("0_seed=0", "1_seed=1")]
    assert steps == [20, 20]
    alone = run(tmp_path / "alone", "seed=1", "steps=20", *SMALL, *QUIET)
    assert same(last_state(alone), last_state(tmp_path / "grid" / "1_seed=1"))
