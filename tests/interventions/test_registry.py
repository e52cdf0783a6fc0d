from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest

from plasticity.interventions import registry
from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.redo import ReDo
from plasticity.interventions.registry import intervention_named, refuse_conflicts, register, registered


@pytest.fixture(autouse=True)
def _private_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))


def method(qualname: str = "Mine", module: str = "some_package", **members: Any) -> type[Intervention]:
    return dataclass(type(qualname, (Intervention,), {"__module__": module, "__qualname__": qualname, **members}))


def test_a_registered_class_knows_its_name() -> None:
    cls = method()
    assert register("my_method")(cls) is cls
    assert cls.name == "my_method"
    assert intervention_named("my_method") is cls
    assert registered()["my_method"] is cls


def test_what_comes_with_the_testbed_is_sorted_and_a_copy() -> None:
    names = list(registered())
    assert names == sorted(names)
    assert {"redo", "continual_backprop", "layer_norm", "load_balancing", "l2", "l2_init", "shrink_and_perturb", "reset"} <= set(
        names
    )
    registered().clear()
    assert list(registered()) == names
    assert all(cls.name == name for name, cls in registered().items())


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match=r"^intervention redo is registered twice: by interventions.redo and by some_package$"):
        register("redo")(method())
    assert intervention_named("redo") is ReDo
    assert ReDo.name == "redo"


def test_the_same_class_may_come_again() -> None:
    register("my_method")(method())
    again = method()
    register("my_method")(again)  # as when its module is loaded again
    assert intervention_named("my_method") is again


@pytest.mark.parametrize("name", ["", "My_Method", "my-method", "my method", "2fast", "interventions.mine"])
def test_a_name_is_words_joined_by_underscores(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^intervention name '{name}' must be lower-case words joined by underscores$"):
        register(name)(method())
    assert name not in registered()


def not_a_dataclass() -> Iterator[Any]:
    yield type("Bare", (Intervention,), {})
    yield type("BareChild", (ReDo,), {"threshold": 0.5})  # inherits from a dataclass, and its setting would be no field
    yield dataclass(type("Stranger", (), {}))
    yield lambda u: u
    yield ReDo()


@pytest.mark.parametrize("thing", not_a_dataclass(), ids=["bare", "bare_child", "stranger", "function", "instance"])
def test_only_dataclasses_derived_from_intervention(thing: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^intervention mine: .* must be a dataclass derived from Intervention, @dataclass right"
    ):
        register("mine")(thing)
    assert "mine" not in registered()


def test_the_order_of_the_decorators_is_explained() -> None:
    with pytest.raises(TypeError, match="@dataclass right below @register"):

        @dataclass
        @register("wrong_way_round")
        class Mine(Intervention):
            """A method."""

            strength: float = 1.0


def test_settings_become_fields_and_the_base_s_come_by_keyword() -> None:
    @register("mine")
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
        intervention_named(name)
    assert str(caught.value) == f"intervention={name} is unknown (did you mean {close}?); choose from {', '.join(registered())}"


def test_a_name_like_no_other_gets_the_choices_alone() -> None:
    with pytest.raises(ValueError, match=r"^intervention=zzz is unknown; choose from activation, "):
        intervention_named("zzz")


def test_conflicts_are_refused_with_the_reason_in_either_order() -> None:
    register("jealous")(method("Jealous", conflicts={"redo": "both reset units"}, __annotations__={"conflicts": ClassVar}))
    for names in (["jealous", "redo"], ["redo", "l2", "jealous"]):
        with pytest.raises(ValueError, match=r"^intervention=\[jealous,redo\] cannot run together: both reset units$"):
            refuse_conflicts(names)
    refuse_conflicts(["jealous", "l2"])
    refuse_conflicts(iter(["redo", "l2"]))
    refuse_conflicts([])


def test_a_generator_of_names_is_read_once() -> None:
    register("jealous")(method("Jealous", conflicts={"redo": "both reset units"}, __annotations__={"conflicts": ClassVar}))
    with pytest.raises(ValueError, match="cannot run together"):
        refuse_conflicts(name for name in ["redo", "jealous"])


def test_an_unknown_name_among_the_chosen_is_refused() -> None:
    with pytest.raises(ValueError, match="intervention=redoo is unknown"):
        refuse_conflicts(["l2", "redoo"])


def test_the_conflicts_of_the_testbed_name_methods_that_exist() -> None:
    for name, cls in registered().items():
        assert set(cls.conflicts) <= set(registered()) - {name}
        assert all(reason.strip() for reason in cls.conflicts.values())
