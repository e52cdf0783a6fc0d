from pathlib import Path

import pytest

import run_agent
from plasticity.training.studies import timing
from plasticity.training.studies.planning import duration

STUDY = """
common: [agent=supervised, env=slowly_changing_regression, network=linear, optimizer=sgd, env.bits=4, env.slow_bits=2]
steps: 40000
seeds: 5
methods: {none: , l2: }
tune: {seeds: [9], steps: 20000, value: {value: online/loss}, grid: {l2: {interventions.l2.coefficient: [0.1, 0.2]}}}
short: {seeds: 1, tune: null}
report: {outcome: {value: online/loss, better: lower}}
"""


def test_a_plan_counts_times_and_says_what_could_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    (tmp_path / "mine.yaml").write_text(STUDY)
    assert run_agent.main([f"study={tmp_path / 'mine.yaml'}", f"run_dir={tmp_path / 's'}", "plan=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"mine: 12 runs in {tmp_path / 's'} (12 to do)"
    rows = {line.split()[0]: line.split()[1:3] for line in lines[2:5]}
    assert rows == {"tuning/main/l2": ["2", "2"], "runs/main/none": ["5", "5"], "runs/main/l2": ["5", "5"]}
    assert lines[5].startswith("about ")
    # Two-sided paired t test of 5 pairs, 5 %: 80 % power at 1.68 standard deviations.
    assert "with 5 seeds it finds, with 80 % probability, a difference from none of 1.68 times" in lines[6]
    assert not (tmp_path / "s").exists()


def test_missing_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY + f"needs: [{tmp_path / 'a.npz'}, {path}]\n")
    assert run_agent.main([f"study={path}", f"run_dir={tmp_path / 's'}", "plan=true"]) == 2
    assert capsys.readouterr().err == f"missing: {tmp_path / 'a.npz'}\n"
    assert run_agent.main([f"study={path}", f"run_dir={tmp_path / 's'}"]) == 2
    assert f"{path}: needs: {tmp_path / 'a.npz'} is missing" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.26, "0.3 s"), (59, "59 s"), (90, "2 min"), (7500, "2 h 05 min"), (200 * 3600, "8.3 days")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
