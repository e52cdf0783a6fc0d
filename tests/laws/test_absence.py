"""Laws 1 and 4: a method without strength is absent, and a method with strength leaves the start and the data alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.experience import Experience
from interventions.base import Intervention
from interventions.registry import registered

UNOBSERVED = {"metrics": {"every_steps": 0, "at_task_switch": False}, "probe": {"every_steps": 0}}
# With uniform behaviour; otherwise what is learned decides what is seen.
ALONE: dict[str, dict[str, Any]] = {"dqn": UNOBSERVED | {"agent": {"behaviour": "uniform"}}, "supervised": UNOBSERVED}


def test_every_method_acts_in_these_runs(kind: str, method: str, finished: Callable[..., Any], same: Any) -> None:
    """Otherwise the laws would be about nothing. A new method that fails here needs a row in FREQUENT."""
    plain, treated = finished(kind), finished(kind, method)
    assert not same(plain.network(), treated.network()), f"{method} changed nothing: give it settings in tests/laws/conftest.py"


def test_no_strength_is_absence(
    kind: str, steps: int, zeroable: type[Intervention], start: Any, finished: Any, same: Any
) -> None:
    plain = finished(kind)
    treated = start(kind, {zeroable.name: dict(zeroable.no_effect or {})}).go(steps)
    after, before = treated.network(), plain.network()
    assert same({name: after[name] for name in before}, before)
    one, two = treated.state(), plain.state()
    (part,) = plain.agent.parts
    for key in ("optimizer", "copies") if zeroable.build is Intervention.build else ("optimizer",):
        assert same(one["agent"][part][key], two["agent"][part][key]), key
    for state in (one, two):
        del state["agent"][part]
    assert same(one["agent"], two["agent"])  # replay and generators
    assert same(one["stream"], two["stream"])


def test_a_method_without_settings_of_no_effect_is_structural(method: str) -> None:
    cls = registered()[method]
    assert cls.no_effect is not None or cls.build is not Intervention.build


def test_methods_leave_initial_weights_alone(kind: str, methods: list[str], start: Any, same: Any) -> None:
    plain, treated = start(kind), start(kind, methods)
    before, after = plain.network(), treated.network()
    shared = before.keys() & after.keys()
    assert shared >= {name for name in before if name.endswith(("linear.weight", "linear.bias"))}
    assert same({name: after[name] for name in shared}, {name: before[name] for name in shared})


@pytest.fixture(scope="module")
def plain_tapes(start: Any) -> dict[str, tuple[Any, list[tuple[Tensor, ...]]]]:
    return {kind: _seen(start(kind, [], changes), kind) for kind, changes in ALONE.items()}


def test_methods_leave_the_data_alone(kind: str, methods: list[str], start: Any, plain_tapes: Any, same: Any) -> None:
    plain, shown = plain_tapes[kind]
    treated, seen = _seen(start(kind, methods, ALONE[kind]), kind)
    assert len(shown) == 30
    assert same(shown, seen)
    one, two = plain.agent.state_dict(), treated.agent.state_dict()
    assert all(same(one[key], two[key]) for key in ("exploration", "sampling") if key in one)


def _seen(run: Any, kind: str) -> tuple[Any, list[tuple[Tensor, ...]]]:
    """Trains for 30 experiences; returns the run and all of them."""
    seen: list[tuple[Tensor, ...]] = []
    advance = run.stream.advance

    def recording(act: Any) -> Experience:
        experience = advance(act)
        seen.append((*(value.clone() for value in experience.batch), torch.tensor(experience.task)))
        return experience

    run.stream.advance = recording
    return run.go(60 if kind == "dqn" else 30), seen
