"""The program's beginning: what it imports, and a console that nothing reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plasticity.training.entry import Console, program

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_but_the_standard_library_is_imported_before_signals_are_in_hand() -> None:
    code = "import sys; import run_agent; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    theirs = {name for name in done.stdout.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert theirs == {"run_agent", "plasticity"}


def test_a_console_falls_silent_when_its_reader_has_gone() -> None:
    reading, writing = os.pipe()
    console = Console(os.fdopen(writing, "w"), writing)
    console.write("read\n")
    console.flush()
    assert os.read(reading, 100) == b"read\n"
    os.close(reading)
    for _ in range(3):
        assert console.write("not read\n") == 9
        console.flush()
    assert not console.isatty()
    console.close()


def test_a_console_that_was_closed_from_the_start_is_silent() -> None:
    console = Console.of(None, 2)
    assert console.write("nothing") == 7
    console.flush()
    console.close()


def test_a_closed_reader_ends_no_command() -> None:
    """Its output is longer than a pipe holds, and is written when nothing reads it any longer."""
    code = (
        "import sys, types; stub = types.ModuleType('plasticity.training.commands')\n"
        "stub.dispatch = lambda words: print('x' * 10**6) or print('y', file=sys.stderr) or 0\n"
        "sys.modules['plasticity.training.commands'] = stub\n"
        "from plasticity.training.entry import main\nraise SystemExit(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"y\n")


@pytest.mark.parametrize(
    ("started", "told"),
    [("/usr/bin/plasticity", "plasticity"), ("run_agent.py", "python run_agent.py"), ("/a/pytest", "python run_agent.py")],
)
def test_what_to_type_is_told_as_the_program_was_started(monkeypatch: pytest.MonkeyPatch, started: str, told: str) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert program() == told
