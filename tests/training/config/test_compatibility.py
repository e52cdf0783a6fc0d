"""The table of methods and agents: complete, and true where it is quickly checked."""

from pathlib import Path

import pytest
from registries import built_in_interventions

from plasticity.training.config import compatibility
from plasticity.training.config.command_line import compose_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def rows() -> dict[str, list[str]]:
    lines = [line for line in compatibility.TABLE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_method_has_its_row_and_its_first_line() -> None:
    built_in = built_in_interventions()
    table = rows()
    assert list(table) == list(built_in)
    for name, cls in built_in.items():
        assert table[name][-1] == (cls.__doc__ or "").strip().splitlines()[0].replace("|", "\\|")
        assert set(table[name][:-2]) <= {"works", "refuses"}
        assert len(table[name][:-2]) == len(compatibility.KINDS)


@pytest.mark.parametrize(("method", "outcome"), [("l2", "works"), ("dr3", "intervention dr3 needs values that bootstrap")])
def test_a_method_works_or_is_refused_for_a_reason(method: str, outcome: str) -> None:
    config = compose_config([*compatibility.KINDS["supervised"], "network.widths=[8]", "progress=false"], CONFIGS)
    assert compatibility.try_out(method, config).startswith(outcome)


def test_a_stale_table_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compatibility, "table", lambda: "new\n")
    monkeypatch.setattr(compatibility, "TABLE", tmp_path / "docs" / "interventions.md")
    assert compatibility.main(["--check"]) == 1
    assert compatibility.main([]) == 0
    assert compatibility.main(["--check"]) == 0
    assert "out of date; run python -m plasticity.training.config.compatibility" in capsys.readouterr().out
