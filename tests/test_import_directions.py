"""Which room may import which, and by which name: the directions that keep the house in order."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "plasticity"
# A room may import itself and those that stand before it, but for what a line here leaves out.
ROOMS = ("settings", "envs", "networks", "optimizers", "interventions", "updates", "metrics", "adopt", "agents", "training")
TYPES_OF_ENVS = ("envs.experience", "envs.stream", "envs.problem")
LEFT_OUT = {
    "networks": ("envs",),
    "optimizers": ("envs",),
    "interventions": ("envs",),
    "updates": ("envs",),
    "metrics": ("envs", "optimizers", "updates", "interventions"),
    "adopt": ("envs",),
    "agents": ("envs", "metrics", "adopt"),
    "training": ("adopt",),
}
LET_IN = {"metrics": TYPES_OF_ENVS, "agents": TYPES_OF_ENVS}
BARE = {*ROOMS, "seeding"}


def imports(path: Path) -> set[str]:
    """What a file imports, wherever in the file it does; a relative import stays in its room."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def allowed(room: str, module: str) -> bool:
    """Whether a file of a room may import a module, named without ``plasticity.``."""
    other = module.partition(".")[0]
    if any(module == type_ or module.startswith(f"{type_}.") for type_ in LET_IN.get(room, ())):
        return True
    return ROOMS.index(other) <= ROOMS.index(room) and other not in LEFT_OUT.get(room, ())


def ours(names: set[str]) -> set[str]:
    return {name.removeprefix(f"{NAME}.") for name in names if name.startswith(f"{NAME}.")}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for module in ours(imports(path)):
            assert allowed(room, module), f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("place", [*ROOMS, "benchmarks", "examples", "tests", "run_agent.py"])
def test_rooms_are_imported_by_one_name(place: str) -> None:
    path = ROOT / place
    for file in [path] if path.suffix else sorted(path.rglob("*.py")):
        bare = {name for name in imports(file) if name.partition(".")[0] in BARE}
        assert not bare, f"{file.relative_to(ROOT)} imports {sorted(bare)}; write {NAME}.{min(bare)}"


def test_the_import_name_holds_nothing_but_the_rooms() -> None:
    names = {path.name for path in (ROOT / NAME).iterdir() if path.name != "__pycache__"}
    assert names == {"__init__.py", "py.typed", "configs", *ROOMS}
    assert (ROOT / NAME / "__init__.py").read_text() == ""
    assert all((ROOT / NAME / room).resolve() == ROOT / room for room in (*ROOMS, "configs"))


def test_the_check_sees_every_kind_of_import(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    lines = [
        "import plasticity.training.loop",
        "from plasticity.envs import stream",
        "def f():",
        "    from plasticity.agents.dqn.agent import DQN",
        "import torch, envs",
    ]
    path.write_text("\n".join(lines))
    found = imports(path)
    assert ours(found) == {"training.loop", "envs.stream", "agents.dqn.agent.DQN"}
    assert "envs" in found
    assert allowed("agents", "envs.stream.Stream")
    assert not allowed("agents", "envs.factory")
    assert not allowed("envs", "agents.dqn.agent")
