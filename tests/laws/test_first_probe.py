"""The probe of the networks as they were before their first update."""

from typing import Any

import pytest
import torch

from plasticity.metrics.probe import ProbeObserver
from plasticity.metrics.view import View

PROBE = {"every_steps": 30, "steps": 2, "inputs": 20, "batch_size": 8}
FIRST = {"probe": PROBE | {"before_first_update": True}}
# The stream's step before the first update: environments go by two steps, and DQN waits for nine and then learns every third.
BEFORE = {"supervised": 0, "dqn": 10, "ppo": 8}


def of_first(run: Any) -> list[tuple[str, str, str]]:
    return [row for row in run.rows() if row[1].startswith("first_probe/")]


@pytest.mark.parametrize("kind", list(BEFORE))
def test_probing_the_initial_networks_changes_nothing(kind: str, steps: int, start: Any, same: Any) -> None:
    """Neither the run nor any other row; the rows are of one step, that before the first update."""
    probed, alone = start(kind, ["redo"], FIRST).go(steps), start(kind, ["redo"], {"probe": PROBE}).go(steps)
    assert {int(step) for step, _, _ in of_first(probed)} == {BEFORE[kind]}
    parts = {name.split("/")[-1] for _, name, _ in of_first(probed) if name.startswith("first_probe/loss/")}
    assert parts == set(probed.agent.parts)
    assert [row for row in probed.rows() if row not in of_first(probed)] == alone.rows()
    states = [run.state() for run in (probed, alone)]
    for state in states:
        del state["tracker"]["latest"], state["tracker"]["noted"]
    assert same(*states)


def test_it_equals_the_probe_of_a_network_that_was_never_updated(start: Any) -> None:
    run = start("supervised", [], FIRST)
    inputs = run.stream.peek(80).inputs

    class Untouched:
        parts = run.agent.parts

        def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> torch.Tensor:
            return inputs[:count]

    probe = run.observers["probe"]
    assert isinstance(probe, ProbeObserver)
    with torch.random.fork_rng(), torch.no_grad():
        expected = probe.measure(View(0, 0, Untouched()))
    found = {name: float(value) for _, name, value in of_first(run.go(3))}
    assert found["first_probe/loss"] == expected["probe/loss"]
    assert found["first_probe/fresh_loss/learner"] == expected["probe/fresh_loss/learner"]


@pytest.mark.parametrize("kind", ["supervised", "dqn"])
def test_it_is_made_once_in_a_run_that_goes_on(kind: str, saved_once: Any, resumed: Any, same: Any) -> None:
    whole = saved_once(kind, ["redo"], FIRST)
    again = resumed(whole, kind, ["redo"], FIRST)
    assert same(again.state(), whole.state())
    assert again.rows() == whole.rows()
