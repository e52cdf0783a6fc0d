"""What a run says of settings that make it slower on this processor."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.training import processor
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from
from plasticity.training.processor import has_bf16, slower_settings

CONFIGS = Path(__file__).parents[2] / "configs"
X86 = {
    "architecture": "x86_64",
    "avx2": True,
    "avx512_f": False,
    "avx512_bf16": False,
    "amx_bf16": False,
    "avx_ne_convert": False,
}
WIDE = X86 | {"avx512_f": True}
ARM = {"architecture": "arm64", "neon": True, "bf16": False}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def be(capabilities: dict[str, Any], used: str, cores: int = 4) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
        monkeypatch.setattr(processor.os, "cpu_count", lambda: cores)

    return be


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    before = torch.get_num_threads()
    assemble(plan_from(compose_config(words, CONFIGS)))
    torch.set_num_threads(before)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("capabilities", "used", "able"),
    [
        (X86, "AVX2", False),
        (WIDE, "AVX512", False),  # wide units, and no bf16 among them
        (WIDE | {"avx512_bf16": True}, "AVX512", True),
        (WIDE | {"amx_bf16": True}, "AVX512", True),
        (WIDE | {"avx512_bf16": True}, "AVX2", False),  # ATEN_CPU_CAPABILITY=avx2
        (ARM, "DEFAULT", False),
        (ARM | {"bf16": True}, "DEFAULT", True),
    ],
)
def test_bf16_is_known_from_the_processor(capabilities: dict[str, Any], used: str, able: bool, machine: Any) -> None:
    machine(capabilities, used)
    assert has_bf16() is able


@pytest.mark.parametrize(("able", "lines"), [(False, 1), (True, 0)])
def test_a_run_in_bf16_says_so_where_it_is_slower(
    able: bool, lines: int, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(WIDE | {"avx512_bf16": able}, "AVX512")
    found = said(capsys, "precision=bf16")
    assert len(found) == lines
    assert all(line.startswith("note: precision=bf16 is several times slower than fp32 on this processor") for line in found)


@pytest.mark.parametrize(
    ("words", "cores", "line"),
    [
        ((), 4, None),
        (("threads=1",), 1, None),
        (("threads=2",), 1, "note: threads=2 is slower than threads=1: this machine has no more processors"),
        (("threads=8", "network.widths=[14000]"), 4, "note: threads=8 is slower than threads=4: this machine has no more proces"),
        (("threads=4", "network.widths=[14000]"), 4, None),  # 1,050,010 parameters
        (("threads=2",), 4, "note: threads=2 is slower than threads=1 for a network of 26122 parameters: "),
    ],
)
def test_a_run_says_so_when_it_has_too_many_threads(
    words: tuple[str, ...], cores: int, line: str | None, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(X86, "AVX2", cores)
    found = said(capsys, *words)
    assert len(found) == (line is not None)
    assert all(text.startswith(line or "") for text in found)


def test_an_accelerator_has_no_such_settings(machine: Any) -> None:
    machine(X86, "AVX2", 1)
    plan = plan_from(compose_config(["precision=bf16", "threads=2"], CONFIGS))
    assert slower_settings(plan.run, assemble(plan_from(compose_config([], CONFIGS))).agent, torch.device("cuda")) == []
