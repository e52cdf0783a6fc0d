"""Training happens in one place: who may call ``backward`` and an optimizer's ``step``, and how long the loop is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("settings", "envs", "networks", "optimizers", "interventions", "updates", "metrics", "adopt", "agents", "training")
# The update as a function is the Updater's, and its file does nothing else. Two methods ask for gradients of the agent's loss,
# and some metrics for gradients of a copy's; none of them writes to a parameter's gradient but through the Updater's hooks.
ALLOWED = {
    "updates/updater.py",
    "updates/backward.py",
    "updates/update_function.py",
    "adopt/optimizer.py",  # of a user's module, in the user's loop
    "interventions/methods/gradient_norm.py",
    "interventions/methods/sam.py",
    "metrics/measures/activity.py",
    "metrics/measures/gradients.py",
    "metrics/probe.py",
    "metrics/measures/hessian.py",
    "metrics/measures/minibatches.py",
    "metrics/measures/step_gain.py",
    "metrics/measures/update_signs.py",
}


def calls() -> Iterator[tuple[str, str]]:
    """Yields (file, source of what is called) for every call of the product."""
    for path in [*(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")), ROOT / "run_agent.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), ast.unparse(node.func)


def test_only_the_updater_and_the_probe_go_backward() -> None:
    ways = {"backward", "grad", "grad_and_value", "vjp", "jacrev", "run_backward"}
    users = {file for file, call in calls() if call.rpartition(".")[2] in ways or "autograd" in call}
    assert {"updates/updater.py", "metrics/probe.py"} <= users <= ALLOWED


def test_only_the_updater_and_the_probe_step_an_optimizer() -> None:
    users = {file for file, call in calls() if call.endswith(".step") and "optim" in call.lower()}
    # A pair steps its two; the probe and the gain of some steps train copies.
    assert users == {
        "updates/updater.py",
        "optimizers/paired_optimizer.py",
        "metrics/probe.py",
        "metrics/measures/step_gain.py",
    }


@pytest.mark.parametrize("name", ["train"])
def test_the_loop_is_short(name: str) -> None:
    tree = ast.parse((ROOT / "training" / "loop.py").read_text())
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno + 1 < 30
