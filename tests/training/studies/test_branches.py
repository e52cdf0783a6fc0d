"""Studies of branches: real ones, as small as they can be, without pages."""

import csv
import shutil
from pathlib import Path

import pytest

import run_agent
from plasticity.training.studies import running

STUDY = """
common: [env=bandit, agent=dqn, network=mlp, "network.widths=[8]", agent.warmup_env_steps=5, agent.batch_size=4,
  agent.buffer_transitions=100, probe.every_steps=0, metrics.every_steps=0, log_every_steps=10, probe.steps=3]
steps: 40
seeds: 2
methods: {{none: }}
branch:
  at: {at}
  steps: 20
  repeats: 2
  common: []
  remedies: {remedies}
  measure: [dormant_fraction, probe]
short: {{steps: 40, branch: {{at: [20], steps: 10, remedies: {{unchanged: []}}}}}}
report: {{outcome: {{value: train/loss, better: lower}}}}
"""
REMEDIES = "{unchanged: [], redo: , fresh: [method=reset_all]}"
PLACE = "branches/main/none"


def study(folder: Path, at: str = "[20, 40]", remedies: str = REMEDIES) -> list[str]:
    """Writes a study; returns the words that run it."""
    (folder / "mine.yaml").write_text(STUDY.format(at=at, remedies=remedies))
    return [f"study={folder / 'mine.yaml'}", f"run_dir={folder / 's'}"]


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_report", lambda study: 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and from two moments of each three remedies twice."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_report", lambda study: 0)
        assert run_agent.main(study(folder)) == 0
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return tmp_path


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.reader(file) if not row[1].startswith("time/") and row[0] != "step"]


def plan(folder: Path) -> list[dict[str, str]]:
    with (folder / "s" / "plan.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_remedy_begins_at_every_moment_of_every_run(done: Path) -> None:
    found = {str(path.parent.relative_to(done / "s" / PLACE)) for path in (done / "s" / PLACE).rglob("metrics.csv")}
    assert found == {
        f"seed_{seed}/step_{step}/{remedy}/repeat_{repeat}"
        for seed in (0, 1)
        for step in (20, 40)
        for remedy in ("unchanged", "redo", "fresh")
        for repeat in (0, 1)
    }
    listed = plan(done)
    assert len(listed) == 2 + 24
    assert [row["remedy"] for row in listed[:2]] == ["", ""]
    assert {(row["moment"], row["remedy"], row["repeat"]) for row in listed[2:]} == {
        (str(step), remedy, str(repeat)) for step in (20, 40) for remedy in ("unchanged", "redo", "fresh") for repeat in (0, 1)
    }
    assert all(row["identity"] for row in listed)
    assert all(str(done) not in row["words"] for row in listed)


def test_a_branch_without_a_change_is_its_run_over_again(done: Path) -> None:
    trunk, branch = (done / "s" / place for place in ("runs/main/none/seed_1", f"{PLACE}/seed_1/step_20/unchanged/repeat_0"))
    ours = [row for row in rows(branch) if not row[1].startswith("at_branch/")]
    assert ours == [row for row in rows(trunk) if int(row[0]) > 20]


def test_the_network_is_measured_before_a_remedy_acts(done: Path) -> None:
    for step in (20, 40):
        told = [
            [row for row in rows(done / "s" / PLACE / f"seed_0/step_{step}" / place) if row[1].startswith("at_branch/")]
            for place in ("unchanged/repeat_0", "unchanged/repeat_1", "redo/repeat_0", "fresh/repeat_1")
        ]
        assert all(each == told[0] for each in told)
        names = {name for _, name, _ in told[0]}
        assert {"at_branch/dormant_fraction", "at_branch/probe/relative_loss"} <= names
        assert {int(row[0]) for row in told[0]} == {step}
    other = rows(done / "s" / PLACE / "seed_1/step_20/unchanged/repeat_0")
    assert [row for row in other if row[1] == "at_branch/probe/loss"] != [
        row for row in told[0] if row[1] == "at_branch/probe/loss"
    ]


def test_only_what_is_missing_is_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_agent.main(study(copy)) == 0
    assert "mine (branches): 0 of 24 to do (24 done)" in capsys.readouterr().out
    gone = copy / "s" / PLACE / "seed_0/step_40/redo/repeat_1"
    before = rows(gone)
    shutil.rmtree(gone)
    assert run_agent.main(study(copy)) == 0
    assert "mine (branches): 1 of 24 to do (23 done)" in capsys.readouterr().out
    assert rows(gone) == before


def test_a_branch_that_was_killed_before_it_was_saved_begins_again(copy: Path) -> None:
    folder = copy / "s" / PLACE / "seed_0/step_40/redo/repeat_0"
    before = rows(folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "status.json").write_text('{"state": "running", "step": 40, "steps": 60}')
    (copy / "s" / "events.jsonl").unlink()
    assert run_agent.main(study(copy)) == 0
    assert rows(folder) == before


def test_branches_wait_for_a_checkpoint_that_is_gone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "s" / "runs/main/none/seed_1/checkpoints/step_000000020.pt").unlink()
    assert run_agent.main(study(copy, at="[10, 20, 40]")) == 1
    told = capsys.readouterr().err
    # the first checkpoint at or after the moment is where a branch begins, and the runs were made for other moments
    assert "branches/main/none/seed_1/step_20/redo/repeat_0 has other settings or code" in told
    (copy / "s" / "runs/main/none/seed_1/checkpoints/step_000000040.pt").unlink()
    capsys.readouterr()
    assert run_agent.main(study(copy)) == 1
    assert "branches wait for the runs that they start from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("remedies", "told"),
    [
        ("{unchanged: [], layer_norm: }", "branch.remedies.layer_norm: branch: intervention=layer_norm adds parameters"),
        ("{unchanged: [], wrong: [method=redoo]}", "branch.remedies.wrong: "),
        ('{unchanged: [], other: ["network.widths=[9]"]}', "branch.remedies.other: "),
        (
            '{unchanged: [], many: ["optimizer.learning_rate=1,2"]}',
            "branch.remedies.many: optimizer.learning_rate=1,2 names several",
        ),
    ],
)
def test_a_remedy_that_does_not_fit_is_refused_before_all_runs(
    remedies: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_agent.main(study(tmp_path, remedies=remedies)) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_the_plan_tells_of_branches_before_and_after(
    copy: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = tmp_path_factory.mktemp("fresh")
    assert run_agent.main([*study(fresh), "plan=true"]) == 0
    before = capsys.readouterr().out
    assert not (fresh / "s").exists()
    assert run_agent.main([*study(copy), "plan=true"]) == 0
    after = capsys.readouterr().out
    for told, left in ((before, "8     8"), (after, "8     0")):
        line = next(line for line in told.splitlines() if "branches/main/none/redo" in line)
        assert left in line
    assert "26 runs" in before
    assert "26 runs" in after


def test_the_short_form_replaces_the_branches(tmp_path: Path) -> None:
    assert run_agent.main([*study(tmp_path), "short=true"]) == 0
    found = {str(path.parent.relative_to(tmp_path / "s" / PLACE)) for path in (tmp_path / "s" / PLACE).rglob("metrics.csv")}
    assert found == {f"seed_{seed}/step_20/unchanged/repeat_0" for seed in (0, 1)}
