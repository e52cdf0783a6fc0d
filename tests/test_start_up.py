"""What a command that trains nothing may import: a mistyped word should not cost more than it has to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import run_agent

ROOT = Path(run_agent.__file__).parent
HEAVY = {
    "torch._inductor",
    "torch._dynamo",
    "sympy",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "pytorch_optimizer",
    "tensorboard",
    "torch.utils.tensorboard",
    "joblib",
    "ale_py",
    "mujoco",
    "dm_control",
    "OpenGL",
    "glfw",
    "pygame",
    "imageio_ffmpeg",
    "minatar",
    "PIL.Image",
}
COMMANDS = (
    (["--help"], 0, "list=interventions"),
    (["list=interventions"], 0, "continual_backprop"),
    (["list=metrics"], 0, "dormant_fraction"),
    (["--cfg", "job"], 0, "every_steps: 20000"),
    (["stpes=3"], 2, "did you mean steps?"),
    (["agent=c51", "env=dmc", "optimizer=soap", "network=vit", "--cfg", "job"], 0, "patch_size: 4"),
)
SCRIPT = """
import contextlib, io, json, sys
import run_agent
outcomes = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = run_agent.main(words)
    outcomes.append([code, out.getvalue()])
print(json.dumps([outcomes, sorted(sys.modules)]))
"""


def imported(*commands: list[str]) -> tuple[list[tuple[int, str]], set[str]]:
    """Runs commands in one new process; returns what each came to, and every module that is imported in the end."""
    call = [sys.executable, "-c", SCRIPT, json.dumps(commands)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    outcomes, modules = json.loads(done.stdout.splitlines()[-1])
    return outcomes, set(modules)


def test_commands_that_train_nothing_import_nothing_heavy(tmp_path: Path) -> None:
    outcomes, modules = imported(*(words for words, _, _ in COMMANDS))
    for (code, printed), (_, expected, says) in zip(outcomes, COMMANDS, strict=True):
        assert code == expected
        assert says in printed
    assert "plasticity.training.config.command_line" in modules
    assert HEAVY & modules == set()


@pytest.mark.slow
def test_the_check_sees_what_is_imported(tmp_path: Path) -> None:
    plugin = tmp_path / "heavy.py"
    plugin.write_text("import sympy\n")
    assert "sympy" in imported([f"plugins=[{plugin}]", "--cfg", "job"])[1] & HEAVY
