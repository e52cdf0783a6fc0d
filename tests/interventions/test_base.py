import copy
import inspect
import re
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.interventions.base import Intervention, Update, is_multiple
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.settings.fields import describe

METHODS = INTERVENTIONS
HOOKS = ("after_", "before_", "build", "loss", "task_", "wrap_", "attach", "evaluation_", "state", "load_state")
EVERY = pytest.mark.parametrize("cls", METHODS.values(), ids=METHODS)


@dataclass
class Remembers(Intervention):
    """Keeps a tensor, a number and a list."""

    name = "remembers"

    def attach(self, u: Update) -> None:
        self.state.update(mean=torch.zeros(3), count=0, seen=[])


def attached() -> Remembers:
    method = Remembers()
    method.attach(None)  # type: ignore[arg-type]
    return method


@EVERY
def test_no_public_name_looks_like_a_misspelt_hook(cls: type[Intervention]) -> None:
    names = [name for base in cls.__mro__ if issubclass(base, Intervention) for name in vars(base) if not name.startswith("_")]
    strangers = {name for name in names if name.startswith(HOOKS) and not hasattr(Intervention, name)}
    assert strangers == set()


@EVERY
def test_hooks_take_the_arguments_of_the_base(cls: type[Intervention]) -> None:
    for name, function in inspect.getmembers(Intervention, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(cls, name)).parameters) == list(inspect.signature(function).parameters), name


@EVERY
def test_the_docstring_is_a_card(cls: type[Intervention]) -> None:
    text = cls.__doc__ or ""
    first = text.splitlines()[0]
    assert first.endswith(".")
    assert len(re.findall(r"\.(\s|$)", first.replace("et al. ", "et al "))) == 1
    assert "Paper:" in text or "Papers:" in text
    for entry in ("Equation", "Deviations:", "State:", "Optimizer:"):
        assert entry in text, entry
    for name, entry in describe(cls).items():
        assert entry.rule.doc.endswith("."), name
    assert "Attributes:" not in text  # settings are described by their fields alone


@EVERY
def test_defaults_make_an_instance_and_settings_are_plain(cls: type[Intervention]) -> None:
    method = cls()
    assert method.parts == []
    assert cls().parts is not method.parts
    for field in fields(cls):
        assert isinstance(getattr(method, field.name), bool | int | float | str | list), field.name
    if cls.no_effect is not None:
        cls(**cls.no_effect)


@EVERY
def test_no_field_is_without_an_annotation(cls: type[Intervention]) -> None:
    known = {field.name for field in fields(cls)} | set(dir(Intervention))
    plain = [name for name, value in vars(cls).items() if not name.startswith("_") and not callable(value) and name not in known]
    assert plain == []


def test_the_base_does_nothing() -> None:
    method, spec = Intervention(), MLPSpec()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    u: Any = Update(1, "network", optimizer, None, None, None, {})  # type: ignore[arg-type]
    assert method.build(spec) is spec
    assert method.attach(u) is None
    assert method.loss(u) is None
    assert method.after_backward(u) == method.after_step(u) == method.task_switch(u, 1) == {}
    assert method.evaluation_network(u) == "network"
    assert method.state_dict() == {}
    method.load_state_dict({})


def test_a_view_cannot_be_changed() -> None:
    u = Update(1, None, None, None, None, None, {})  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        u.step = 2  # type: ignore[misc]


def test_state_belongs_to_the_instance() -> None:
    first, second = attached(), attached()
    first.state["count"] = 5
    assert second.state["count"] == 0
    assert Intervention().state == {}


def test_state_is_restored_in_place() -> None:
    saving, loading = attached(), attached()
    saving.state["mean"].add_(torch.tensor([1.0, 2.0, 3.0]))
    saving.state.update(count=7, seen=["a"])
    tensor: Tensor = loading.state["mean"]
    loading.load_state_dict(copy.deepcopy(saving.state_dict()))
    assert loading.state["mean"] is tensor
    assert tensor.tolist() == [1.0, 2.0, 3.0]
    assert (loading.state["count"], loading.state["seen"]) == (7, ["a"])


def test_adding_to_the_saved_dictionary_adds_nothing_to_the_state() -> None:
    method = attached()
    method.state_dict()["more"] = 1
    assert set(method.state) == {"mean", "count", "seen"}


@pytest.mark.parametrize("state", [{}, {"mean": torch.ones(3)}, {"mean": torch.ones(3), "count": 1, "seen": [], "extra": 0}])
def test_state_of_another_method_is_refused_by_both_lists_of_names(state: dict[str, Any]) -> None:
    method = attached()
    message = f"remembers: the checkpoint holds state {sorted(state)}, this run's method has ['count', 'mean', 'seen']"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        method.load_state_dict(state)
    assert not method.state["mean"].any()


def test_due_by_hand() -> None:
    assert [step for step in range(1, 10) if is_multiple(step, 3)] == [3, 6, 9]
    assert [step for step in range(1, 4) if is_multiple(step, 1)] == [1, 2, 3]
    assert not any(is_multiple(step, 0) for step in range(10))
