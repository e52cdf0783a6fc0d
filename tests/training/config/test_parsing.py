"""From words to a command: what is asked for, planned once, and changed only by the new words when a run is resumed."""

import csv
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import run_agent
from plasticity.training.config import command_line, parsing, settings
from plasticity.training.config.command_line import CONFIGS, Composer
from plasticity.training.config.parsing import Evaluate, Grid, Report, Show, Train, parse
from plasticity.training.saving.checkpoint import latest_checkpoint, load_checkpoint
from plasticity.training.saving.run_folder import known_of

SMALL = ["network.widths=[8]", "agent.warmup_env_steps=5", "agent.batch_size=4", "progress=false"]
QUIET = ["metrics.every_steps=0", "probe.every_steps=0", "log_every_steps=10"]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts compositions and plans."""
    counts = {"composed": 0, "planned": 0}

    def counting(name: str, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            counts[name] += 1
            return real(*arguments, **named)

        return call

    monkeypatch.setattr(command_line, "compose", counting("composed", command_line.compose))
    monkeypatch.setattr(parsing, "plan_from", counting("planned", settings.plan_from))
    return counts


def test_a_run_is_composed_and_planned_once(counted: dict[str, int]) -> None:
    command = parse(["seed=3"])
    assert isinstance(command, Train)
    assert (command.plan.run.seed, command.words, command.folder, command.resume) == (3, ("seed=3",), None, False)
    assert counted == {"composed": 1, "planned": 1}


def test_a_grid_is_a_list_of_word_lists_and_each_word_is_tried_once(counted: dict[str, int]) -> None:
    command = parse(["-m", "intervention=[],[redo]", "seed=0,1"])
    assert isinstance(command, Grid)
    assert command.runs == (
        ("intervention=[]", "seed=0"),
        ("intervention=[]", "seed=1"),
        ("intervention=[redo]", "seed=0"),
        ("intervention=[redo]", "seed=1"),
    )
    assert (command.launcher, command.folder) == ((), None)
    assert [(list(plan.interventions), plan.run.seed) for plan in command.plans] == [([], 0), (["redo"], 0)]
    assert counted == {"composed": 2, "planned": 2}


def test_words_of_the_launcher_are_apart_and_the_folder_is_no_word_of_a_run(tmp_path: Path) -> None:
    command = parse(["hydra/launcher=joblib", "seed=range(2,4)", f"run_dir={tmp_path}", "--multirun", "hydra.launcher.n_jobs=2"])
    assert isinstance(command, Grid)
    assert command.runs == (("seed=2",), ("seed=3",))
    assert command.launcher == ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert command.folder == tmp_path


def test_words_of_a_grid_may_name_what_is_the_users_own() -> None:
    command = parse(["-m", "env=gym", "env.kwargs.g=9.8,1.6"])
    assert isinstance(command, Grid)
    assert [plan.config["env"]["kwargs"]["g"] for plan in command.plans] == [9.8, 1.6]


def test_texts() -> None:
    for words, start in (
        (["list=metrics"], "dormant_fraction"),
        (["--help"], "Trains an agent"),
        (["seed=3", "--cfg", "job"], "mode: train"),
        (["--cfg=job", "--package", "agent"], "# @package agent"),
        (["--info", "defaults", "agent=ppo"], "\nDefaults List"),
        (["--version"], "Hydra 1."),
    ):
        command = parse(words)
        assert isinstance(command, Show)
        assert command.text.startswith(start)


def test_what_hydra_tells_leaves_logging_as_it_was() -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    parse(["--info", "all"])
    assert (root.handlers, root.level) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent=pppo"], r"^agent=pppo is unknown \(did you mean ppo\?\); choose from .*, ppo, "),
        (["--cfg", "seed=3"], r"^--cfg is not understood: --cfg is followed by one of job, hydra, all$"),
        (["--cfg=jobs"], r"^--cfg jobs is not understood: --cfg is followed by one of job, hydra, all$"),
        (["--resolve"], r"^--resolve goes with --cfg; write --cfg job --resolve$"),
        (["--config-dir"], r"^--config-dir is not understood: --config-dir is followed by a name$"),
        (["--config-dir", "/nowhere"], r"^--config-dir /nowhere: there is no such folder$"),
        (["-m", "seed=0,1", "hydra/sweeper=basic"], r"^hydra/sweeper=basic: a grid runs every combination"),
        (["-m", "agent=dqn,sca"], r"^agent=sca is unknown \(did you mean sac\?\)"),
        (["+agent.discout=0.9"], r"^agent\.discout is unknown \(did you mean discount\?\)"),
        (["+sede=1"], r"^sede is unknown \(did you mean seed\?\)"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(words)


# Going on


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["steps=20", "intervention=[redo,l2]", "interventions.redo.threshold=0.3", *SMALL, *QUIET]
    assert run_agent.main([f"run_dir={folder}", *words]) == 0
    return folder


def test_a_run_continues_with_its_own_settings_when_the_files_have_changed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: dict[str, int]
) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "agent" / "dqn.yaml").write_text("defaults: [_dqn, _self_]\ndiscount: 0.5\n")
    (tmp_path / "configs" / "metrics" / "default.yaml").write_text("defaults: [_settings, _self_]\ninputs: 77\n")
    monkeypatch.setattr(parsing, "Composer", lambda own=None: Composer(tmp_path / "configs", own))
    today = parse(SMALL)
    assert isinstance(today, Train)
    assert (vars(today.plan.agent)["discount"], today.plan.metrics.inputs) == (0.5, 77)
    before = yaml.safe_load((finished / "config.yaml").read_text())
    counted["composed"] = counted["planned"] = 0
    command = parse([f"resume={finished}", "steps=40", "agent=dqn", "metrics=default", "intervention=[redo,l2]"])
    assert counted == {"composed": 1, "planned": 1}
    assert isinstance(command, Train)
    assert command.plan.config == before | {"steps": 40}
    assert (command.folder, command.resume) == (finished, True)
    assert "steps=40" in command.words
    assert "steps=20" not in command.words
    assert "interventions.redo.threshold=0.3" in command.words


def test_new_choices_replace_whole_groups_and_kept_methods_keep_their_settings(finished: Path) -> None:
    command = parse([f"resume={finished}", "agent=ppo", "intervention=[l2,redo,reset]", "interventions.redo.every_updates=9"])
    assert isinstance(command, Train)
    config = command.plan.config
    assert (config["agent"]["name"], config["choices"]["agent"], config["env"]["name"]) == ("ppo", "ppo", "bandit")
    assert list(config["interventions"]) == ["l2", "redo", "reset"]
    assert (config["interventions"]["redo"]["threshold"], config["interventions"]["redo"]["every_updates"]) == (0.3, 9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=mujoco_ppo"], r"^checkpoint has experiment=null, command line has experiment=mujoco_ppo$"),
        (["intervention=[l2]", "interventions.redo.threshold=0.1"], r"^interventions\.redo\.threshold is set, but redo is not"),
        (["intervention=[redo,redo]"], r"^intervention=\[redo,redo\] names redo twice; a method runs once$"),
        (["stpes=30"], r"^stpes is unknown \(did you mean steps\?\)"),
        (["run_dir=elsewhere"], r"^resume continues in the run's own folder; leave run_dir out$"),
        (["steps=many"], r"^steps=many: "),
    ],
)
def test_mistakes_in_going_on(finished: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse([f"resume={finished}", *words])


def test_settings_come_from_the_checkpoint_where_the_file_is_lost_or_edited(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path = latest_checkpoint(folder)
    assert path is not None
    config = folder / "config.yaml"
    for change in (lambda: config.write_text(config.read_text().replace("seed: 0", "seed: 9")), config.unlink):
        change()
        command = parse([f"resume={folder}", "mode=evaluate"])
        assert isinstance(command, Evaluate)
        assert command.plan.config == load_checkpoint(path)["config"] | {"mode": "evaluate", "run_dir": str(folder)}
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match=r"config\.yaml is missing or has been edited, and there is no checkpoint"):
        parse([f"resume={folder}"])


# A folder of the user's own YAML files


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "it's mine"
    (folder / "experiment").mkdir(parents=True)
    (folder / "metrics").mkdir()
    lines = [
        "# @package _global_",
        "# Mine.",
        "defaults:",
        "  - override /env: catch",
        "  - override /intervention: [redo]",
        "steps: 15",
    ]
    (folder / "experiment" / "mine.yaml").write_text("\n".join(lines))
    (folder / "metrics" / "rarely.yaml").write_text("defaults: [_settings, _self_]\nevery_steps: 5000\n")
    return folder


def test_a_users_own_files_are_chosen_listed_and_gone_on_from(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    there = ["--config-dir", "it's mine"]
    assert run_agent.main([*there, "list=experiments"]) == 0
    assert capsys.readouterr().out.endswith("mine  Mine.\n")
    assert run_agent.main(["experiment=mine", *there, *SMALL, *QUIET, "run_dir=run"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (config["steps"], config["env"]["id"], config["choices"]["experiment"]) == (15, "plasticity/Catch-v0", "mine")
    assert run_agent.main(["resume=run", "steps=20"]) == 0  # the folder is not needed any more
    assert run_agent.main(["resume=run", "steps=25", "metrics=rarely"]) == 2
    assert run_agent.main(["resume=run", "steps=25", "metrics=rarely", f"--config-dir={own}"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (config["steps"], config["metrics"]["every_steps"], config["choices"]["metrics"]) == (25, 5000, "rarely")
    known = known_of(Path("run"))
    assert known["choices"] == config["choices"]
    mine, rarely = own / "experiment" / "mine.yaml", own / "metrics" / "rarely.yaml"
    assert known["files"] == {str(mine): hashlib.sha256(mine.read_bytes()).hexdigest()}
    assert [list(entry["files"]) for entry in known["resumed"]] == [[], [str(rarely)]]


@pytest.mark.parametrize(
    "launcher",
    [[], pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], marks=pytest.mark.slow)],
    ids=["basic", "joblib"],
)
def test_a_grid_of_a_users_own_files(own: Path, tmp_path: Path, launcher: list[str]) -> None:
    swept = ["experiment=mine", "metrics=rarely,default", *SMALL, "probe.every_steps=0"]
    words = ["-m", *swept, "seed=1", "steps=12", "--config-dir", str(own), f"run_dir={tmp_path / 'grid'}", *launcher]
    assert run_agent.main(words) == 0
    with (tmp_path / "grid" / "grid.csv").open(newline="") as file:
        told = [(row["run"], row["outcome"], row["words"]) for row in csv.DictReader(file)]
    assert told == [
        ("0_metrics=rarely", "finished", "metrics=rarely"),
        ("1_metrics=default", "finished", "metrics=default"),
    ]
    configs = [yaml.safe_load((tmp_path / "grid" / name / "config.yaml").read_text()) for name, _, _ in told]
    assert [config["metrics"]["every_steps"] for config in configs] == [5000, 1000]
    assert all((config["seed"], config["steps"], config["threads"]) == (1, 12, "auto") for config in configs)
    assert all(list(config["interventions"]) == ["redo"] for config in configs)
    files = [sorted(known_of(tmp_path / "grid" / name)["files"]) for name, _, _ in told]
    mine = str(own / "experiment" / "mine.yaml")
    assert files == [[mine, str(own / "metrics" / "rarely.yaml")], [mine]]


def test_a_file_that_would_be_hidden_is_refused(own: Path) -> None:
    (own / "agent").mkdir()
    (own / "agent" / "ppo.yaml").touch()
    with pytest.raises(ValueError, match=r"^agent=ppo has two files, .*/agent/ppo\.yaml and .*mine/agent/ppo\.yaml; "):
        parse(["seed=1", "--config-dir", str(own)])


# Reports


def test_a_report() -> None:
    assert parse(["report=a,b/c"]) == Report((Path("a"), Path("b/c")))
    assert parse(["report=runs/s 1"]) == parse(["report='runs/s 1'"]) == Report((Path("runs/s 1"),))
    assert parse(["report='a=b',c d", "run_dir='out, here'"]) == Report((Path("a=b"), Path("c d")), Path("out, here"))
    words = ["report=[a]", "run_dir=out", "bundle=b.zip", "baseline=none"]
    assert parse(words) == Report((Path("a"),), Path("out"), Path("b.zip"), "none")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report=a", "seed=3"], r"^seed=3 does not go with report=, which takes only run_dir, bundle, baseline$"),
        (["report=a", "bundle=b.zip,c.zip"], r"^bundle=b\.zip,c\.zip must be one name$"),
        (["report="], r"^report= is empty; report= takes folders of grids, studies and runs, report=a,b$"),
        (["-m", "report=a"], r"^--multirun does not go with report=, which reads folders; leave it out$"),
    ],
)
def test_mistakes_in_a_report(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(words)


def test_a_report_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main([f"report={tmp_path}"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
