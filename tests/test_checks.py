"""Style and types are checked alike before a commit and in the complete check."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_a_commit_is_checked_by_the_commands_of_the_complete_check() -> None:
    """The hooks are the last lines of ``.ci/run``, word for word, on the whole tree and with the tools of the environment."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [hook["entry"] for hook in hooks] == [line for line in lines if line.startswith(("ruff ", "mypy"))]
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks)
