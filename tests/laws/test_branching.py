"""Law 9: a branch without a change is its parent resumed; a method that is added begins there as in a new run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registries import built_in_interventions

from plasticity.agents.agent import Agent
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.training.assembly import assemble
from plasticity.training.branching.point import find_point
from plasticity.training.branching.starting import begin
from plasticity.training.config.settings import Plan, plan_from
from plasticity.training.loop import train
from plasticity.training.observation import Observers
from plasticity.training.saving.checkpoint import saved_steps
from plasticity.training.saving.saver import RunSaver, restore
from plasticity.training.tracking.csv_writer import CsvWriter
from plasticity.training.tracking.tracker import Tracker
from plasticity.updates.hooks import Hooks

Branched = Callable[..., Any]
# Built into the network, so that they cannot be attached by hand: those that change nothing where a run branches, and the others.
BUILT_IN = [name for name in built_in_interventions() if INTERVENTIONS[name].build is not Intervention.build]
HARMLESS = ["load_balancing", "parseval", "plasticity_injection"]
FOR_VALUES = ["dr3", "sample_weight_decay"]  # which a supervised learner has none of, nor a replay
ATTACHED = [name for name in built_in_interventions() if name not in [*BUILT_IN, *FOR_VALUES]]


def settings_of(name: str) -> dict[str, Any]:
    """Returns settings with which a method acts soon after it was added."""
    return {"at_updates": [2]} if "at_updates" in INTERVENTIONS[name].__dataclass_fields__ else {}


@pytest.fixture(scope="session")
def plan_with(config_of: Callable[..., dict[str, Any]]) -> Callable[[str, dict[str, Any]], Plan]:
    """Makes the plan of a small run with methods."""
    return lambda kind, methods: plan_from(config_of(kind, methods, {"checkpoint": {"every_steps": 0}}))


@pytest.fixture(scope="session")
def branched(tmp_path_factory: pytest.TempPathFactory) -> Branched:
    """Branches from the only checkpoint of a run: ``branched(plan, folder, steps)`` returns agent, stream, rows and folder."""

    def go(plan: Plan, parent: Path, steps: int, repeat: int = 0) -> Any:
        (step,) = saved_steps(parent)[:1]
        branch = begin(plan, replace(find_point(parent, step), repeat=repeat))
        folder = tmp_path_factory.mktemp("branch")
        return advance(plan, branch.assembly, branch.state["tracker"], folder, steps, branch.logs)

    return go


def advance(plan: Plan, assembly: Any, tracked: Any, folder: Path, steps: int, logs: Any = None) -> Any:
    agent, stream, observers = assembly
    tables = CsvWriter(folder / "metrics.csv")
    tracker = Tracker([tables], plan.run.log_every_steps)
    saver = RunSaver(folder, plan.checkpoint, plan.config, agent, stream, tracker, observers, tables)
    tracker.load_state_dict(tracked)
    with tracker:
        if logs:
            tracker.write_measured(stream.step, logs)
        train(agent, stream, Observers(observers, tracker), tracker, saver, steps)
    rows = [tuple(line.split(",")) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    return agent, stream, [row for row in rows if not row[1].startswith("time/")]


def test_without_a_change_it_equals_its_parent(
    kind: str, methods: list[str], finished: Any, plan_with: Any, branched: Branched, same: Any
) -> None:
    whole = finished(kind, *methods)
    before = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    (step,) = saved_steps(whole.folder)
    own = {name: dict(values) for name, values in whole.saver.config["interventions"].items()}
    agent, stream, rows = branched(plan_with(kind, own), whole.folder, whole.stream.step)
    assert same(agent.state_dict(), whole.agent.state_dict())
    assert same(stream.state_dict(), whole.stream.state_dict())
    assert rows == [row for row in whole.rows() if row[0] != "step" and int(row[0]) > step]
    assert before == {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", ATTACHED)
def test_an_added_method_begins_as_in_a_new_run(
    method: str, finished: Any, plan_with: Any, branched: Branched, same: Any, tmp_path: Path
) -> None:
    """The other run is made by hand: the parent resumed without methods, and then this one attached to it as to a new one."""
    parent = finished("supervised")
    plan = plan_with("supervised", {method: settings_of(method)})
    agent, _, rows = branched(plan, parent.folder, parent.stream.step)
    plain = plan_with("supervised", {})
    (step,) = saved_steps(parent.folder)
    state = find_point(parent.folder, step).load()
    assembly = assemble(plain)
    restore(state, parent.folder, *assembly)
    logs = attached_by_hand(assembly.agent, plan.interventions[method], plan.run.seed)
    other, _, expected = advance(plain, assembly, state["tracker"], tmp_path, parent.stream.step, logs)
    assert rows == expected
    learner, by_hand = agent.parts["learner"], other.parts["learner"]
    assert same(learner.network.state_dict(), by_hand.network.state_dict())
    assert same(learner.optimizer.state_dict(), by_hand.optimizer.state_dict())
    assert same(learner.hooks.state_dict()["interventions"], by_hand.hooks.state_dict()["interventions"])
    assert (learner.steps, learner.hooks.view(method).step, by_hand.hooks.view(method).step) == (24, 24 - step, 24 - step)


class FromHere(Hooks):
    """Counts updates from where it is made, as those of a new run do."""

    def __init__(self, offset: int, *rest: Any) -> None:
        super().__init__(*rest)
        self.offset = offset

    def open(self, step: int, *rest: Any) -> None:
        super().open(step - self.offset, *rest)


def attached_by_hand(agent: Agent, method: Intervention, seed: int) -> Any:
    part = agent.parts["learner"]
    part.hooks = FromHere(part.steps, "learner", part.network, {method.name: method}, seed, part.copies)
    part.interventions = part.hooks.interventions
    part.hooks.attach(part.optimizer, compile=False)
    part.network.taps.keeps_graph = bool(part.hooks.needs_graph)
    part._records = part.hooks.taps_wanted or bool(part.hooks.measuring)
    return part.hooks.at_branch([method.name])


@pytest.mark.parametrize("method", BUILT_IN)
def test_what_is_built_in_must_change_nothing(method: str, finished: Any, plan_with: Any, branched: Branched) -> None:
    parent = finished("dqn")
    plan = plan_with("dqn", {method: {}})
    if method in HARMLESS:
        branched(plan, parent.folder, 50)
        return
    with pytest.raises(
        ValueError, match=f"^branch: intervention={method} (adds parameters|changes what q computes|changes the shape)"
    ):
        branched(plan, parent.folder, 50)


def test_a_repeat_draws_other_numbers_and_is_the_same_each_time(
    finished: Any, plan_with: Any, branched: Branched, same: Any
) -> None:
    parent = finished("dqn")
    plan = plan_with("dqn", {})
    states = [branched(plan, parent.folder, 50, repeat)[0].state_dict() for repeat in (0, 1, 1, 2)]
    assert same(states[1], states[2])
    assert not any(same(states[a]["q"]["network"], states[b]["q"]["network"]) for a, b in ((0, 1), (0, 3), (1, 3)))


@pytest.mark.parametrize(("gained", "lost"), [(["l2"], []), ([], ["redo"]), (["continual_backprop"], ["redo"])])
def test_kept_methods_go_on(gained: Sequence[str], lost: Sequence[str], start: Any, plan_with: Any, branched: Branched) -> None:
    parent = start("supervised", ["redo", "l2_init"], {"checkpoint": {"every_steps": 13}}).go(20)
    own = parent.saver.config["interventions"]
    kept = {name: dict(own[name]) for name in own if name not in lost} | {name: {} for name in gained}
    agent, _, _ = branched(plan_with("supervised", kept), parent.folder, 13 + 2)
    hooks = agent.parts["learner"].hooks
    clocks = {name: hooks.view(name).step for name in kept}
    assert clocks == {name: 2 if name in gained else 15 for name in kept}
