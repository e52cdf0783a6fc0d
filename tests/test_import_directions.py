"""Which folder may import which: the directions that keep the house in order."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {
    "agents",
    "benchmarks",
    "configs",
    "envs",
    "examples",
    "interventions",
    "metrics",
    "networks",
    "run_agent",
    "tests",
    "training",
}
TYPES_OF_ENVS = {"envs.experience", "envs.stream"}
ALLOWED = {
    "seeding.py": set(),
    "envs": {"envs"},
    "networks": {"networks"},
    "interventions": {"interventions", "networks"},
    "metrics": {"metrics", "networks", *TYPES_OF_ENVS},
    "agents": {"agents", "interventions", "networks", *TYPES_OF_ENVS},
    "training": {"training", "agents", "envs", "interventions", "metrics", "networks"},
}


def imports(path: Path) -> set[str]:
    """Our own modules that a file imports, wherever in the file it does; a relative import stays in its folder."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            found |= {node.module} if "." in node.module else {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in OURS}


def files(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("place", ALLOWED)
def test_imports_point_one_way(place: str) -> None:
    assert files(place)
    for path in files(place):
        for name in imports(path):
            assert name in ALLOWED[place] or name.partition(".")[0] in ALLOWED[place], f"{path.relative_to(ROOT)} imports {name}"


def test_the_check_sees_every_kind_of_import(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import training.loop\nfrom envs import stream\ndef f():\n    from agents.dqn import DQN\nimport torch, seeding\n"
    )
    assert imports(path) == {"training.loop", "envs.stream", "agents.dqn"}
