"""The comparison of small networks, with few steps."""

import re

import pytest

from benchmarks import small
from benchmarks.stages import STAGES, microseconds


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "FORMS", {"eager": ()})


def test_a_bound_that_is_exceeded_ends_with_1_if_it_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "BOUNDS", {"eager": 0.0, "compiled": 0.0})
    words = ["--rows", "dqn", "--rounds", "2", "--steps", "40"]
    assert small.main([*words, "--check"]) == 1
    printed = capsys.readouterr()
    row = re.search(r"^dqn +(\d+) \(bare_cart_pole\.py\) +([\d.]+) \[([\d.]+), ([\d.]+)\]$", printed.out, re.MULTILINE)
    assert row is not None
    assert float(row[3]) <= float(row[2]) <= float(row[4])
    assert printed.err.startswith("dqn: eager takes ")
    monkeypatch.setattr(small, "BOUNDS", {"eager": 1000.0, "compiled": 1000.0})
    assert small.main([*words, "--check"]) == 0


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        small.main(["--rows", "dqnn"])
    assert "['dqnn'] unknown; choose from dqn, ppo, sac" in capsys.readouterr().err


def test_what_a_stage_calls_inside_counts_for_the_inner_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Work:
        def outer(self) -> int:
            return sum(range(100_000)) + self.inner()

        def inner(self) -> int:
            return sum(range(1_000_000))

    monkeypatch.setattr("benchmarks.stages.STAGES", {"outer": ((Work, "outer"),), "inner": ((Work, "inner"),)})
    times = microseconds(lambda: Work().outer(), steps=1, rounds=2)
    assert times["inner"] > 2 * times["outer"] > 0
    assert times["all"] == pytest.approx(times["outer"] + times["inner"] + times["rest"])
    assert {"act", "environment", "step"} <= set(STAGES)
