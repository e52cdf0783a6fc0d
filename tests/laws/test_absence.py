"""Laws 1 and 4: a method without strength is absent, and a method with strength leaves the start and the data alone."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.envs.experience import Experience
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS

UNOBSERVED: dict[str, Any] = {"metrics": {"every_steps": 0, "at_task_switch": False}, "probe": {"every_steps": 0}}
# With uniform behaviour, where an agent has it; otherwise what is learned decides what is done.
UNIFORM = UNOBSERVED | {"agent": {"behaviour": "uniform"}}
VALUE_BASED = ("dqn", "c51", "rainbow")
EXPERIENCES = 20  # ten updates and more, several of any method's periods in these runs


def test_every_method_acts_in_these_runs(kind: str, method: str, finished: Callable[..., Any], same: Any) -> None:
    """Otherwise the laws would be about nothing. A new method that fails here needs a row in FREQUENT."""
    plain, treated = finished(kind), finished(kind, method)
    assert not same(plain.network(), treated.network()), f"{method} changed nothing: give it settings in tests/laws/conftest.py"


@pytest.fixture(scope="module")
def plain_run(start: Any) -> Callable[[str], Any]:
    return cache(lambda kind: start(kind).go(_length(kind)))


def test_no_strength_is_absence(kind: str, zero: list[str], start: Any, plain_run: Callable[[str], Any], same: Any) -> None:
    plain = plain_run(kind)
    treated = start(kind, {name: dict(INTERVENTIONS[name].no_effect or {}) for name in zero}).go(_length(kind))
    after, before = treated.network(), plain.network()
    assert same({name: after[name] for name in before}, before)
    one, two = treated.state(), plain.state()
    structural = any(INTERVENTIONS[name].build is not Intervention.build for name in zero)
    for part in plain.agent.parts:
        mine, other = treated.parts_of(one)[part], plain.parts_of(two)[part]
        for key in ("optimizer",) if structural else ("optimizer", "copies"):
            assert same(mine[key], other[key]), key
    for state in (one, two):
        for part in ("parts", *plain.agent.parts):
            state["agent"].pop(part, None)
    assert same(one["agent"], two["agent"])  # replay and generators
    assert same(one["stream"], two["stream"])


def test_a_method_without_settings_of_no_effect_is_structural(method: str) -> None:
    cls = INTERVENTIONS[method]
    # TRAC takes the place of every step: there is no strength at which the step would be the optimizer's own.
    assert cls.no_effect is not None or cls.build is not Intervention.build or method == "trac"


def test_methods_leave_initial_weights_alone(kind: str, methods: list[str], start: Any, same: Any) -> None:
    plain, treated, again = start(kind), start(kind, methods), start(kind, methods)
    assert same(treated.state(), again.state())
    before, after = plain.network(), treated.network()
    assert before.keys() & after.keys() >= {name for name in before if name.endswith(("linear.weight", "linear.bias"))}
    # An activation with another number of outputs per unit changes the shape of the maps that read it, and of nothing else.
    other = {name.rpartition(".")[0] for name in before.keys() & after.keys() if before[name].shape != after[name].shape}
    assert not other or "activation" in methods
    shared = {name for name in before.keys() & after.keys() if name.rpartition(".")[0] not in other}
    assert len(shared) > 3
    assert same({name: after[name] for name in shared}, {name: before[name] for name in shared})


@pytest.fixture(scope="module")
def plain_tape(start: Any) -> Callable[[str], tuple[Any, list[tuple[Tensor, ...]]]]:
    return cache(lambda kind: _seen(start(kind, [], _alone(kind)), kind))


def test_methods_leave_the_data_alone(kind: str, methods: list[str], start: Any, plain_tape: Any, same: Any) -> None:
    """What policies do differs; here what they see does not depend on it, and neither do the numbers that they draw."""
    plain, shown = plain_tape(kind)
    treated, seen = _seen(start(kind, methods, _alone(kind)), kind)
    assert len(shown) == EXPERIENCES
    assert same(shown, seen)
    one, two = plain.agent.state_dict(), treated.agent.state_dict()
    drawn = [key for key in one if key in ("generators", "acting", "shuffling")]
    assert bool(drawn) == (kind != "supervised")
    for key in drawn:
        # A method that changes the layers changes how much noise they need, the last of rainbow's generators.
        count = 2 if kind == "rainbow" and treated.network().keys() != plain.network().keys() else len(one[key])
        assert same(one[key][:count], two[key][:count]), key


def _alone(kind: str) -> dict[str, Any]:
    return UNIFORM if kind in VALUE_BASED else UNOBSERVED


def _seen(run: Any, kind: str) -> tuple[Any, list[tuple[Tensor, ...]]]:
    """Trains a while; returns the run and all experiences, without the actions and rewards of a learned policy."""
    seen: list[tuple[Tensor, ...]] = []
    advance = run.stream.advance
    hidden = ("actions", "rewards") if kind in ("ppo", "sac") else ()

    def recording(act: Any) -> Experience:
        experience = advance(act)
        shown = [value.clone() for name, value in experience.batch._asdict().items() if name not in hidden]
        seen.append((*shown, torch.tensor(experience.task)))
        return experience

    run.stream.advance = recording
    return run.go(_length(kind)), seen


def _length(kind: str) -> int:
    """Returns the steps of so many experiences: a minibatch, or what two environments give."""
    return EXPERIENCES if kind == "supervised" else 2 * EXPERIENCES
