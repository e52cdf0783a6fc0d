"""Laws 1 and 4: a method without strength is absent, and a method with strength leaves the start and the data alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from envs.experience import Experience
from interventions.base import Intervention
from interventions.registry import registered


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


def test_methods_leave_the_data_alone(kind: str, methods: list[str], steps: int, start: Any, same: Any) -> None:
    changes = {"metrics": {"every_steps": 0, "at_task_switch": False}, "probe": {"every_steps": 0}}
    if kind == "dqn":
        changes["agent"] = {"behaviour": "uniform"}  # otherwise what is learned decides what is seen
    plain, treated = start(kind, [], changes), start(kind, methods, changes)
    tapes = [_tape(run) for run in (plain, treated)]
    for run in (plain, treated):
        run.go(steps)
    assert len(tapes[0]) == steps // (2 if kind == "dqn" else 1)
    assert same(tapes[0], tapes[1])
    one, two = plain.agent.state_dict(), treated.agent.state_dict()
    assert all(same(one[key], two[key]) for key in ("exploration", "sampling") if key in one)


def _tape(run: Any) -> list[tuple[Tensor, ...]]:
    """Records every experience of a run."""
    seen: list[tuple[Tensor, ...]] = []
    advance = run.stream.advance

    def recording(act: Any) -> Experience:
        experience = advance(act)
        seen.append((*(value.clone() for value in experience.batch), torch.tensor(experience.task)))
        return experience

    run.stream.advance = recording
    return seen
