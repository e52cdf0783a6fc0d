import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import forget_modules

from plasticity.settings.registry import Registry

DEFINITION = """
def {name}():
    pass


{holder}.ENTRIES.add("{name}", {name}, {name})
"""


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    forget_modules(before)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("room_of_a_test", "holder_of_a_test")]:
        del sys.modules[name]


def house(folder: Path, **files: str) -> Registry[object]:
    """A package of modules, ``inner__module`` for one in a package inside, each of which defines the names given."""
    room = folder / "room_of_a_test"
    for path, names in files.items():
        module = room.joinpath(*path.split("__")).with_suffix(".py")
        module.parent.mkdir(parents=True, exist_ok=True)
        (module.parent / "__init__.py").touch()
        lines = "".join(DEFINITION.format(name=name, holder="holder_of_a_test") for name in names.split())
        module.write_text(f"import holder_of_a_test\n{lines}")
    (folder / "holder_of_a_test.py").write_text(
        "from plasticity.settings.registry import Registry\n"
        "ENTRIES = Registry('toy', 'room_of_a_test', in_order=['room_of_a_test.late', 'room_of_a_test.early'])\n"
        "SORTED = Registry('toy', 'room_of_a_test')\n"
    )
    import holder_of_a_test  # type: ignore[import-not-found]

    entries: Registry[object] = holder_of_a_test.ENTRIES
    return entries


def of_a_user() -> None:
    """Stands for what a plugin defines."""


def test_modules_come_in_the_order_asked_for_each_as_it_is_written_and_others_last(tmp_path: Path) -> None:
    entries = house(tmp_path, early="d c", late="b a", new="n m")
    assert list(entries) == ["b", "a", "d", "c", "n", "m"]
    entries.add("aa", of_a_user, of_a_user)
    assert list(entries) == ["b", "a", "d", "c", "n", "m", "aa"]


def test_an_order_does_not_depend_on_which_module_was_imported_first(tmp_path: Path) -> None:
    entries = house(tmp_path, early="d c", late="b a")
    import room_of_a_test.early  # type: ignore[import-not-found]

    assert list(room_of_a_test.early.holder_of_a_test.ENTRIES) == list(entries) == ["b", "a", "d", "c"]


def test_packages_inside_are_looked_through(tmp_path: Path) -> None:
    entries = house(tmp_path, early="d", inner__module="deep")
    assert set(entries) == {"d", "deep"}
    assert entries.file_of("deep") == str(tmp_path / "room_of_a_test" / "inner" / "module.py")


def test_a_plugin_cannot_take_a_name_before_anyone_looked(tmp_path: Path) -> None:
    entries = house(tmp_path, early="d")
    with pytest.raises(ValueError, match=r"toy d is registered twice: in .*/early\.py and in .*/test_registry\.py"):
        entries.add("d", of_a_user, of_a_user)
    assert entries.added() == []
    entries.add("mine", of_a_user, of_a_user)
    assert entries.added() == ["mine"]


def test_a_room_that_cannot_be_loaded_is_tried_again(tmp_path: Path) -> None:
    entries = house(tmp_path, early="d")
    module = tmp_path / "room_of_a_test" / "late.py"
    module.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            len(entries)
    module.unlink()
    assert list(entries) == ["d"]


@pytest.mark.parametrize(("numbers", "name", "fits"), [(False, "a_0.5", False), (True, "a_0.5", True), (True, "a.b", False)])
def test_a_fraction_may_end_a_name_where_numbers_are_let_in(numbers: bool, name: str, fits: bool) -> None:
    registry = Registry[object]("toy", numbers=numbers)
    if fits:
        registry.add(name, of_a_user, of_a_user)
        assert list(registry) == [name]
    else:
        with pytest.raises(ValueError, match="lower-case words"):
            registry.add(name, of_a_user, of_a_user)
