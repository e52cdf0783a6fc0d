import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from registries import forget_entries, forget_modules

from plasticity.interventions.registry import INTERVENTIONS
from plasticity.settings import plugins
from plasticity.settings.plugins import ENTRY_POINT_GROUP, load_plugins

SOURCE = '''
from __future__ import annotations

from dataclasses import dataclass

from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import intervention


@intervention("{name}")
@dataclass
class {cls}(Intervention):
    """A method of the user."""

    strength: float = {strength}
'''


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    forget_entries(monkeypatch, INTERVENTIONS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "entry_points", lambda group: ())
    yield
    forget_modules(before)


def write(folder: Path, file: str = "mine.py", name: str = "mine", cls: str = "Mine", strength: float = 0.5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_text(SOURCE.format(name=name, cls=cls, strength=strength))
    return path


def refused(place: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_plugins([place])
    message = str(caught.value)
    assert message.startswith(f"plugins={place} cannot be loaded: ")
    assert "\n" not in message
    return message.removeprefix(f"plugins={place} cannot be loaded: ")


def test_a_file_registers_its_methods(tmp_path: Path) -> None:
    load_plugins([str(write(tmp_path))])
    assert INTERVENTIONS.named("mine")().strength == 0.5


def test_a_path_may_be_relative_or_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "inner", name="by_relative_path")
    write(tmp_path, "other.py", name="from_home", cls="Other")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    load_plugins(["inner/mine.py", "~/other.py"])
    assert {"by_relative_path", "from_home"} <= set(INTERVENTIONS)


def test_a_module_is_imported_by_name(tmp_path: Path) -> None:
    write(tmp_path / "their_package", "__init__.py", name="packaged")
    sys.path.insert(0, str(tmp_path))
    load_plugins(["their_package"])
    assert INTERVENTIONS.named("packaged").__module__ == "their_package"


def test_a_plugin_loaded_twice_is_registered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    load_plugins([str(path), str(path)])
    first = INTERVENTIONS.named("mine")
    monkeypatch.chdir(tmp_path)
    load_plugins(["mine.py", f"{tmp_path}/../{tmp_path.name}/mine.py"])
    assert INTERVENTIONS.named("mine") is first


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", name="one"), write(tmp_path / "b", name="two")
    load_plugins([str(first), str(second), str(first)])
    assert {"one", "two"} <= set(INTERVENTIONS)
    assert INTERVENTIONS.named("one").__module__ != INTERVENTIONS.named("two").__module__


def test_two_files_of_one_name_do_not_replace_each_other_s_method(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", strength=1.0), write(tmp_path / "b", strength=2.0)
    load_plugins([str(first)])
    assert f"intervention mine is registered twice: in {first} and in {second}" in refused(str(second))
    assert INTERVENTIONS.named("mine")().strength == 1.0


def test_a_method_of_the_testbed_cannot_be_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, name="redo")
    reason = refused(str(path))
    assert "intervention redo is registered twice: in " in reason
    assert reason.endswith(f"/interventions/methods/redo.py and in {path}")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = = 1", "SyntaxError: invalid syntax (mine.py, line 1)"),
        ("import does_not_exist", "ModuleNotFoundError: No module named 'does_not_exist'"),
        ("from plasticity.interventions.base import Intervension", "ImportError: cannot import name 'Intervension'"),
        ("undefined_name", "NameError: name 'undefined_name' is not defined"),
        ("{}['key']", "KeyError: 'key'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('one\\n  two')", "RuntimeError: one two"),
        ("assert False, 'why'", "AssertionError: why"),
        (
            "from plasticity.interventions.registry import intervention\nintervention('x')(int)",
            "TypeError: intervention x: <class 'int'> must be",
        ),
    ],
)
def test_a_file_that_fails_is_named_with_the_reason_and_can_be_mended(tmp_path: Path, source: str, reason: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    assert refused(str(path)).startswith(reason)
    write(tmp_path, strength=0.25)
    load_plugins([str(path)])
    assert INTERVENTIONS.named("mine")().strength == 0.25


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing/mine.py", "FileNotFoundError: no such file"),
        ("no_such_package.at_all", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("folder/mine", "ModuleNotFoundError: No module named 'folder/mine'"),
        ("", "ValueError: Empty module name"),
    ],
)
def test_a_place_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(place) == reason


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").mkdir()
    assert refused(str(tmp_path / "mine.py")) == "FileNotFoundError: no such file"


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> list[str]:
    asked = []

    def entry_points(group: str) -> tuple[EntryPoint, ...]:
        asked.append(group)
        return (EntryPoint("theirs", value, group),)

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return asked


@pytest.mark.parametrize("value", ["installed_plugin", "installed_plugin:Mine"])
def test_installed_packages_are_found_by_their_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    write(tmp_path, "installed_plugin.py", name="installed")
    sys.path.insert(0, str(tmp_path))
    asked = install(monkeypatch, value)
    load_plugins([])
    assert asked == [ENTRY_POINT_GROUP] == ["plasticity.plugins"]
    assert INTERVENTIONS.named("installed").__module__ == "installed_plugin"


def test_an_entry_point_that_fails_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "nowhere_to_be_found:Mine")
    with pytest.raises(ValueError) as caught:
        load_plugins([])
    expected = "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    assert str(caught.value) == f"entry point theirs = nowhere_to_be_found:Mine {expected}"


def test_without_plugins_the_registry_is_as_it_was() -> None:
    before = INTERVENTIONS
    load_plugins([])
    assert before == INTERVENTIONS
