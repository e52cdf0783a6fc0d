"""Law 8: the seed decides the run.

Of each method alone this follows from two other tests: two runs start alike (law 4), and from one state they go on alike (law 2).
"""

from typing import Any

import pytest
import torch


def test_same_seed_same_run(kind: str, together: list[str], steps: int, start: Any, finished: Any, same: Any) -> None:
    """Whether it is saved or not: the first of the two is, once, and the other never."""
    first, again = finished(kind, *together), start(kind, together).go(steps)
    assert same(first.state(), again.state())
    assert first.rows() == again.rows()


def test_other_seed_other_run(kind: str, steps: int, start: Any, finished: Any, same: Any) -> None:
    one, other = finished(kind), start(kind, [], {"seed": 1})
    first, second = start(kind).network(), other.network()
    weights = [name for name in first if name.endswith("linear.weight")]
    assert len(weights) >= 3
    assert not any(torch.equal(first[name], second[name]) for name in weights)
    other.go(steps)
    assert one.rows() != other.rows()
    seen = [run.state()["agent" if kind == "supervised" else "stream"] for run in (one, other)]
    key = "recent" if kind == "supervised" else "observations"
    assert not same(seen[0][key], seen[1][key])


@pytest.mark.parametrize("kind", ["dqn", "supervised"])
@pytest.mark.parametrize("name", ["redo", "continual_backprop", "shrink_and_perturb", "reset"])
def test_what_a_method_draws_depends_on_the_seed(kind: str, name: str, start: Any) -> None:
    draws = []
    for seed in (0, 0, 1):
        (part,) = start(kind, [name], {"seed": seed}).agent.parts.values()
        draws.append(torch.rand(4, generator=part.hooks.view(name).generator))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
