"""Law 3: a run that is measured equals the run that is not."""

from typing import Any

UNOBSERVED = {"metrics": {"every_steps": 0, "at_task_switch": False}, "probe": {"every_steps": 0}}
OFTEN = {"metrics": {"every_steps": 5, "names": []}, "probe": {"every_steps": 11}}


def test_measuring_changes_nothing(kind: str, methods: list[str], steps: int, start: Any, same: Any) -> None:
    states, taps = [], []
    for changes in (UNOBSERVED, OFTEN):
        run = start(kind, methods, changes).go(steps)
        state = run.state()
        (part,) = run.agent.parts.values()
        del state["agent"][part.part]["trace"]  # the norms that an observer asked for
        del state["tracker"]
        states.append(state)
        taps.append((dict(part.network.taps.pre), dict(part.network.taps.post), part.network.training))
    measured = {name for _, name, _ in run.rows()}
    assert {"plasticity/dormant_fraction", "probe/loss"} <= measured
    assert same(states[0], states[1])
    assert same(taps[0], taps[1])
