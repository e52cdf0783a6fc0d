"""What a method that is added at a branch does in its first updates, with numbers worked out by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

import run_agent
from plasticity.training.branching.planning import branch_plan
from plasticity.training.branching.starting import Branch, begin
from plasticity.training.config.command_line import Composer
from plasticity.training.observation import Observers
from plasticity.training.step import Step
from plasticity.training.tracking.tracker import Tracker

WORDS = ["env=bandit", "agent=dqn", "network=mlp", "network.widths=[20]", "agent.warmup_env_steps=5", "agent.batch_size=4"]
QUIET = ["metrics.every_steps=0", "probe.every_steps=0", "progress=false"]
STEP = 400


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 400 steps without methods."""
    folder = tmp_path_factory.mktemp("trunk") / "run"
    before = torch.get_num_threads()
    assert run_agent.main([*WORDS, *QUIET, f"steps={STEP}", f"run_dir={folder}"]) == 0
    torch.set_num_threads(before)
    return folder


def begun(trunk: Path, *words: str) -> Branch:
    plan, point = branch_plan([f"branch.run={trunk}", f"steps={STEP + 1000}", *words], Composer())
    return begin(plan, point)


def updates(branch: Branch, count: int) -> list[dict[str, Any]]:
    """Goes some updates on, of one step each; returns the values that each logged."""
    agent, stream, _ = branch.assembly
    logs = []
    with Tracker((), 1) as tracker:
        for _ in range(count):
            step = Step.begun(agent, stream, Observers({}, tracker))
            step.complete(agent, Observers({}, tracker))
            logs.append(dict(step.logs))
    return logs


def test_the_units_of_continual_backprop_are_new_where_it_is_added(trunk: Path) -> None:
    """20 units of age 0 at the branch are all mature after 100 updates: .01 x 20 = .2 of a unit is due in each later one."""
    branch = begun(trunk, "method=continual_backprop", "interventions.continual_backprop.replacement_rate=0.01")
    part = branch.assembly.agent.parts["q"]
    before = part.steps
    reset = [logs["continual_backprop/units_reset"] for logs in updates(branch, 120)]
    assert part.steps == before + 120 > 500
    assert sum(reset[:100]) == 0
    first = next(number for number, count in enumerate(reset, 1) if count)
    assert first == 105  # the fifth update in which .2 is due makes a whole unit
    assert sum(reset) == 3 + (1 if reset[119] else 0)
    assert part.hooks.view("continual_backprop").step == 120


def test_trac_measures_from_the_weights_of_the_branch(trunk: Path) -> None:
    branch = begun(trunk, "method=trac")
    network = branch.assembly.agent.parts["q"].network
    there = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    method = branch.assembly.agent.parts["q"].interventions["trac"]
    assert all(torch.equal(method.state[f"reference {name}"], value) for name, value in there.items())
    updates(branch, 1)
    for name, parameter in network.named_parameters():  # no further than a step of Adam, whose entries are at most about .001
        assert float((parameter.detach() - there[name]).abs().max()) <= 1.1e-3


def test_the_tortoise_is_the_network_of_the_branch(trunk: Path) -> None:
    branch = begun(trunk, "method=hare_and_tortoise")
    part = branch.assembly.agent.parts["q"]
    inputs = branch.assembly.agent.sample_inputs("q", 64, torch.Generator().manual_seed(0))
    assert inputs is not None
    tortoise = part.evaluation_network()
    assert tortoise is not part.network
    with torch.no_grad(), part.network.evaluating():
        assert torch.equal(tortoise(inputs).argmax(-1), part.network(inputs).argmax(-1))


def test_there_is_no_other_reference_of_trac(trunk: Path) -> None:
    with pytest.raises(ValueError, match=r"interventions.trac.reference"):
        begun(trunk, "method=trac", "interventions.trac.reference=run_start")
