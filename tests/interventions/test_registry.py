from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest
from registries import forget_entries

from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.redo import ReDo
from plasticity.interventions.registry import INTERVENTIONS, intervention, refuse_conflicts


@pytest.fixture(autouse=True)
def _private_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_entries(monkeypatch, INTERVENTIONS)


def method(qualname: str = "Mine", module: str = "some_package", **members: Any) -> type[Intervention]:
    return dataclass(type(qualname, (Intervention,), {"__module__": module, "__qualname__": qualname, **members}))


def test_a_registered_class_knows_its_name() -> None:
    cls = method()
    assert intervention("my_method")(cls) is cls
    assert cls.name == "my_method"
    assert INTERVENTIONS.named("my_method") is cls
    assert INTERVENTIONS["my_method"] is cls


def test_what_comes_with_the_testbed_is_sorted() -> None:
    names = list(INTERVENTIONS)
    assert names == sorted(names)
    assert len([cls for cls in INTERVENTIONS.values() if cls.__module__.startswith("plasticity.interventions.methods.")]) >= 43
    assert {"redo", "continual_backprop", "layer_norm", "load_balancing", "l2", "l2_init", "shrink_and_perturb", "reset"} <= set(
        names
    )
    assert all(cls.name == name for name, cls in INTERVENTIONS.items())


def test_a_name_is_taken_once() -> None:
    with pytest.raises(
        ValueError, match=r"^intervention redo is registered twice: in .*/interventions/methods/redo.py and in some_package$"
    ):
        intervention("redo")(method())
    assert INTERVENTIONS.named("redo") is ReDo
    assert ReDo.name == "redo"


def test_the_same_class_may_come_again() -> None:
    intervention("my_method")(method())
    again = method()
    intervention("my_method")(again)  # as when its module is loaded again
    assert INTERVENTIONS.named("my_method") is again


@pytest.mark.parametrize("name", ["", "My_Method", "my-method", "my method", "2fast", "interventions.mine"])
def test_a_name_is_words_joined_by_underscores(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^intervention name '{name}' must be lower-case words joined by underscores$"):
        intervention(name)(method())
    assert name not in INTERVENTIONS


def not_a_dataclass() -> Iterator[Any]:
    yield type("Bare", (Intervention,), {})
    yield type("BareChild", (ReDo,), {"threshold": 0.5})  # inherits from a dataclass, and its setting would be no field
    yield dataclass(type("Stranger", (), {}))
    yield lambda u: u
    yield ReDo()


@pytest.mark.parametrize("thing", not_a_dataclass(), ids=["bare", "bare_child", "stranger", "function", "instance"])
def test_only_dataclasses_derived_from_intervention(thing: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^intervention mine: .* must be a dataclass derived from Intervention, with @dataclass below"
    ):
        intervention("mine")(thing)
    assert "mine" not in INTERVENTIONS


def test_the_order_of_the_decorators_is_explained() -> None:
    with pytest.raises(TypeError, match="with @dataclass below @intervention"):

        @dataclass
        @intervention("wrong_way_round")
        class Mine(Intervention):
            """A method."""

            strength: float = 1.0


def test_settings_become_fields_and_the_base_s_come_by_keyword() -> None:
    @intervention("mine")
    @dataclass
    class Mine(Intervention):
        """A method."""

        strength: float = 1.0

    assert Mine(0.5).strength == 0.5  # and not the parts to act on
    assert Mine(parts=["q"]).parts == ["q"]
    assert {field.name for field in fields(Mine)} == {"parts", "strength"}


@pytest.mark.parametrize(
    ("name", "close"), [("redoo", "redo"), ("l2_int", "l2_init"), ("continual_backdrop", "continual_backprop")]
)
def test_a_misspelt_name_gets_a_suggestion_and_the_choices(name: str, close: str) -> None:
    with pytest.raises(ValueError) as caught:
        INTERVENTIONS.named(name)
    assert str(caught.value) == f"intervention={name} is unknown (did you mean {close}?); choose from {', '.join(INTERVENTIONS)}"


def test_a_name_like_no_other_gets_the_choices_alone() -> None:
    with pytest.raises(ValueError, match=r"^intervention=zzz is unknown; choose from activation, "):
        INTERVENTIONS.named("zzz")


def test_conflicts_are_refused_with_the_reason_in_either_order() -> None:
    intervention("jealous")(method("Jealous", conflicts={"redo": "both reset units"}, __annotations__={"conflicts": ClassVar}))
    for names in (["jealous", "redo"], ["redo", "l2", "jealous"]):
        with pytest.raises(ValueError, match=r"^intervention=\[jealous,redo\] cannot run together: both reset units$"):
            refuse_conflicts(names)
    refuse_conflicts(["jealous", "l2"])
    refuse_conflicts(iter(["redo", "l2"]))
    refuse_conflicts([])


def test_a_generator_of_names_is_read_once() -> None:
    intervention("jealous")(method("Jealous", conflicts={"redo": "both reset units"}, __annotations__={"conflicts": ClassVar}))
    with pytest.raises(ValueError, match="cannot run together"):
        refuse_conflicts(name for name in ["redo", "jealous"])


def test_an_unknown_name_among_the_chosen_is_refused() -> None:
    with pytest.raises(ValueError, match="intervention=redoo is unknown"):
        refuse_conflicts(["l2", "redoo"])


def test_the_conflicts_of_the_testbed_name_methods_that_exist() -> None:
    for name, cls in INTERVENTIONS.items():
        assert set(cls.conflicts) <= set(INTERVENTIONS) - {name}
        assert all(reason.strip() for reason in cls.conflicts.values())
