"""Law 3: a run that is measured equals the run that is not."""

from typing import Any

import pytest

UNOBSERVED = {"metrics": {"every_steps": 0, "at_task_switch": False}, "probe": {"every_steps": 0}}
OFTEN = {"metrics": {"every_steps": 2, "names": ["all"]}, "probe": {"every_steps": 9}}


def without_measurements(run: Any) -> tuple[Any, ...]:
    """Returns all that a run has become, but for what its observers wrote down."""
    state = run.state()
    del state["tracker"]
    networks = [part.network for part in run.agent.parts.values()]
    return state, [(dict(network.taps.pre), dict(network.taps.post), network.training) for network in networks]


def test_measuring_changes_nothing(kind: str, methods: list[str], steps: int, start: Any, finished: Any, same: Any) -> None:
    measured, alone = finished(kind, *methods), start(kind, methods, UNOBSERVED).go(steps)
    written = {name for _, name, _ in measured.rows()}
    assert "plasticity/dormant_fraction" in written
    assert any(name.startswith("probe/") and "loss" in name for name in written)
    assert not any(name.startswith(("plasticity/", "probe/")) for _, name, _ in alone.rows())
    assert same(without_measurements(measured), without_measurements(alone))


@pytest.mark.slow
def test_measuring_everything_at_every_turn_changes_nothing(
    kind: str, together: list[str], steps: int, start: Any, finished: Any, same: Any
) -> None:
    always = start(kind, together, OFTEN).go(steps)
    assert same(without_measurements(always), without_measurements(finished(kind, *together)))
