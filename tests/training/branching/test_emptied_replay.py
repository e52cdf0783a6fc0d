"""Branches that begin with an empty replay."""

import csv
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import run_agent
from plasticity.training.saving.checkpoint import load_checkpoint, saved_steps
from plasticity.training.studies import running

SMALL = ["network.widths=[8]", "agent.warmup_env_steps=5", "agent.batch_size=4", "agent.buffer_transitions=200"]
QUIET = ["metrics.every_steps=0", "probe.every_steps=0", "log_every_steps=5", "progress=false", "threads=1"]
KINDS = {
    "dqn": ["agent=dqn", *SMALL],
    "rainbow": ["agent=rainbow", "agent.stream_widths=[6]", "agent.env_steps_per_update=1", *SMALL],
    "sac": ["agent=sac", "env=gym", "env.id=plasticity/ContinuousIdentity-v0", *SMALL],
}
AT = 30


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def trunk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A finished run with two checkpoints, the kind of its agent first."""
    folder, before = tmp_path_factory.mktemp(request.param) / "run", torch.get_num_threads()
    words = [*KINDS[request.param], *QUIET, "steps=44", "seed=4", f"checkpoint.at_steps=[{AT}]", f"run_dir={folder}"]
    assert run_agent.main(words) == 0
    torch.set_num_threads(before)
    return request.param, folder


def branch(parent: Path, folder: Path, *words: str, replay: str = "clear") -> int:
    first = [f"branch.run={parent}", f"branch.step={AT}", f"branch.replay={replay}", f"run_dir={folder}"]
    return run_agent.main([*first, "progress=false", *words])


def state(folder: Path, step: int) -> dict[str, Any]:
    agent: dict[str, Any] = load_checkpoint(folder / "checkpoints" / f"step_{step:09d}.pt")["agent"]
    return agent


def total(agent: dict[str, Any]) -> int:
    replay = agent["replay"].get("replay", agent["replay"])  # below that of priorities, if there are any
    return int(replay["total"])


def parts(agent: dict[str, Any]) -> dict[str, Any]:
    return agent["parts"] if "parts" in agent else {"q": agent["q"]}


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.reader(file) if not row[1].startswith("time/") and row[0] != "step"]


def test_it_waits_for_new_transitions_and_all_else_goes_on(trunk: tuple[str, Path], tmp_path: Path) -> None:
    """A warm-up of 5 steps: with the fifth transition nothing is learned, with the sixth the first update is made."""
    _, parent = trunk
    assert branch(parent, tmp_path / "run", f"checkpoint.at_steps=[{AT},35,36]") == 0
    begun, waiting, learning = (state(tmp_path / "run", step) for step in (AT, 35, 36))
    assert [total(each) for each in (begun, waiting, learning)] == [0, 5, 6]
    assert [each["env_steps"] for each in (begun, waiting, learning)] == [30, 35, 36]
    before = state(parent, AT)
    assert total(before) == 30
    for name, part in parts(before).items():
        updates = [parts(each)[name]["steps"] for each in (begun, waiting, learning)]
        assert updates == [part["steps"], part["steps"], part["steps"] + 1]
        for key in ("network", "optimizer", "copies"):
            assert _same(parts(waiting)[name][key], part[key])
        assert not _same(parts(learning)[name]["network"], part["network"])
    assert _same(begun["generators"], before["generators"])


def test_it_acts_as_it_would_have_until_it_learns(trunk: tuple[str, Path], tmp_path: Path) -> None:
    """The replay of the branch holds what the policy of the parent does at the branch: for DQN the exploration continues, for SAC
    there is no second time of uniform actions."""
    _, parent = trunk
    assert branch(parent, tmp_path / "cleared", f"checkpoint.at_steps=[{AT},35]") == 0
    assert branch(parent, tmp_path / "kept", "checkpoint.at_steps=[31]", replay="keep") == 0
    cleared, kept = state(tmp_path / "cleared", 35), state(tmp_path / "kept", 31)
    folders = [tmp_path / name / "checkpoints" / "replay" for name in ("cleared", "kept")]
    first, after = (_transitions(each, folder) for each, folder in zip((cleared, kept), folders, strict=True))
    assert len(first["actions"]) == 5
    assert len(after["actions"]) == 31
    assert torch.equal(first["actions"][0], after["actions"][30])  # before the first update of the kept one: the same policy
    assert torch.equal(first["rewards"][0], after["rewards"][30])


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _transitions(agent: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Returns the columns of all transitions that a state holds, in its files and in itself."""
    replay = agent["replay"].get("replay", agent["replay"])
    pieces = [torch.load(folder / entry[0], weights_only=True) for entry in replay["replay_segments"]]
    pieces += [replay["rows"]] if replay["rows"] else []
    return {name: torch.cat([piece[name] for piece in pieces]) for name in ("actions", "rewards")}


def test_resuming_it_is_exact_and_needs_no_file_of_the_parent(trunk: tuple[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "parent"
    shutil.copytree(trunk[1], copy)
    shutil.rmtree(copy / "checkpoints" / "replay")
    with pytest.warns(UserWarning, match="replay file .* cannot be read"):
        assert branch(copy, tmp_path / "kept", replay="keep") == 2
    assert branch(copy, tmp_path / "whole") == 0
    assert branch(copy, tmp_path / "half", "steps=33") == 0  # while it waits
    shutil.rmtree(copy)
    assert run_agent.main([f"resume={tmp_path / 'half'}", "steps=44", "progress=false"]) == 0
    one, two = (state(tmp_path / name, 44) for name in ("whole", "half"))
    assert _same(parts(one), parts(two))
    assert _same(one["generators"], two["generators"])
    values = [_transitions(each, tmp_path / name / "checkpoints" / "replay") for each, name in ((one, "whole"), (two, "half"))]
    assert _same(*values)
    assert len(values[0]["actions"]) == 14


def test_it_is_told_and_other_random_numbers_go_with_it(trunk: tuple[str, Path], tmp_path: Path) -> None:
    _, parent = trunk
    assert branch(parent, tmp_path / "one") == 0
    assert branch(parent, tmp_path / "two", "branch.repeat=1") == 0
    assert branch(parent, tmp_path / "kept", replay="keep") == 0
    for name, word in (("one", "clear"), ("two", "clear"), ("kept", "keep")):
        assert yaml.safe_load((tmp_path / name / "config.yaml").read_text())["branch"]["replay"] == word
        assert json.loads((tmp_path / name / "provenance.json").read_text())["branch"]["replay"] == word
    assert rows(tmp_path / "kept") == [row for row in rows(parent) if int(row[0]) > AT]
    assert len({str(rows(tmp_path / name)) for name in ("one", "two", "kept")}) == 3
    assert total(state(tmp_path / "two", 44)) == 14


def test_what_is_measured_at_the_branch_is_the_parents(trunk: tuple[str, Path], tmp_path: Path) -> None:
    """For all branches of one checkpoint the same, on its replay, which is emptied afterwards."""
    found = {}
    for replay in ("keep", "clear"):
        folder = tmp_path / replay
        assert branch(trunk[1], folder, "branch.measure=[dormant_fraction,effective_rank]", replay=replay) == 0
        found[replay] = [row for row in rows(folder) if row[1].startswith("at_branch/")]
    assert len(found["keep"]) > 1
    assert found["keep"] == found["clear"]
    assert "nan" not in {value for _, _, value in found["clear"]}
    assert total(state(tmp_path / "clear", 44)) == 14


@pytest.mark.parametrize(
    ("parent", "words", "message"),
    [
        (["agent=ppo"], [], r"branch\.run=.*: branch\.replay=clear empties a replay, and agent=ppo has none"),
        (
            ["agent=supervised", "env=permuted_pixels"],
            [],
            r"branch\.replay=clear empties a replay, and agent=supervised has none",
        ),
        ([], ["branch.replay=empty"], r"branch\.replay=empty is unknown; choose from keep, clear"),
        ([], ["branch.replay=[keep,clear]"], r"branch\.replay=keep,clear is unknown"),
    ],
)
def test_what_does_not_fit_is_refused(
    parent: Sequence[str], words: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = ["network.widths=[8]", *QUIET]
    assert run_agent.main([*parent, *quiet, "steps=4", f"run_dir={tmp_path / 'parent'}"]) == 0
    assert saved_steps(tmp_path / "parent") == [4]
    capsys.readouterr()
    said = words or ["branch.replay=clear"]
    assert run_agent.main([f"branch.run={tmp_path / 'parent'}", *said, "steps=8", f"run_dir={tmp_path / 'branch'}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines
    assert not (tmp_path / "branch").exists()


STUDY = """
common: [{common}]
steps: 20
seeds: 1
methods: {{none: }}
branch: {{at: [20], steps: 10, remedies: {{unchanged: [], emptied: [branch.replay=clear]}}, measure: [dormant_fraction]}}
short: {{steps: 20, branch: {{at: [20], steps: 5, remedies: {{unchanged: []}}}}}}
report: {{outcome: {{value: train/loss, better: lower}}}}
"""


def study(folder: Path, *words: str) -> list[str]:
    """Writes a study; returns the words that run it."""
    common = ", ".join(f'"{word}"' for word in (*words, *QUIET[:3]))
    (folder / "mine.yaml").write_text(STUDY.format(common=common))
    return [f"study={folder / 'mine.yaml'}", f"run_dir={folder / 's'}"]


def test_it_is_a_remedy_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_report", lambda study: 0)
    words = study(tmp_path, *KINDS["dqn"])
    assert run_agent.main(words) == 0
    places = {name: tmp_path / "s" / f"branches/main/none/seed_0/step_20/{name}/repeat_0" for name in ("unchanged", "emptied")}
    assert {name: total(state(place, 30)) for name, place in places.items()} == {"unchanged": 30, "emptied": 10}
    before = {name: (place / "metrics.csv").stat().st_mtime_ns for name, place in places.items()}
    assert run_agent.main(words) == 0  # and what is there is known to be what was asked for
    assert before == {name: (place / "metrics.csv").stat().st_mtime_ns for name, place in places.items()}


def test_a_study_of_agents_without_one_is_refused_before_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(study(tmp_path, "agent=ppo", "network.widths=[8]")) == 2
    message = r"branch\.remedies\.emptied: branch\.run=.*: branch\.replay=clear empties a replay, and agent=ppo has none$"
    assert re.search(message, capsys.readouterr().err.strip())
    assert not (tmp_path / "s").exists()


def test_weights_by_age_are_added_at_a_branch(trunk: tuple[str, Path], tmp_path: Path) -> None:
    """With the parent's replay, whose transitions are as old as they are, and with an empty one."""
    kind, parent = trunk
    words = ["method=sample_weight_decay", "interventions.sample_weight_decay.decay_env_steps=10"]
    if kind == "rainbow":
        assert branch(parent, tmp_path / "refused", *words) == 2
        return
    for replay in ("keep", "clear"):
        assert branch(parent, tmp_path / replay, replay=replay) == 0
        assert branch(parent, tmp_path / f"{replay}_by_age", *words, replay=replay) == 0
        assert rows(tmp_path / replay) != rows(tmp_path / f"{replay}_by_age")
