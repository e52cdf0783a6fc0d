"""When hooks are on a module: in the updates in which a method reads activations, and until every layer was seen."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from plasticity.adopt import AdoptedOptimizer, adopt, measure, measuring
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS

PERIODIC = sorted(name for name, method in INTERVENTIONS.items() if method.acts_at is not Intervention.acts_at)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def hooks_on(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def update(module: Any, optimizer: torch.optim.Optimizer, rows: int = 16) -> None:
    optimizer.zero_grad()
    module(torch.randn(rows, 4)).square().mean().backward()
    optimizer.step()


def made(name: str, **settings: Any) -> tuple[nn.Sequential, AdoptedOptimizer]:
    torch.manual_seed(0)
    module = network()
    return module, adopt(
        module, torch.optim.Adam(module.parameters(), 0.01), [INTERVENTIONS[name](**settings)], torch.zeros(2, 4)
    )


def test_the_methods_that_know_when_they_act() -> None:
    assert PERIODIC == ["colinear_reset", "reborn", "redo"]


def test_hooks_are_there_for_the_first_update_and_for_those_that_are_averaged() -> None:
    module, optimizer = made("redo", every_updates=5, average_updates=2)
    seen = []
    for _ in range(10):
        seen.append(hooks_on(module))
        update(module, optimizer)
    # one on the module, which sees its inputs, and one for each of two layers, in updates 1, 4, 5, 9 and 10
    assert seen == [3, 0, 0, 3, 3, 0, 0, 0, 3, 3]


def test_a_method_that_acts_always_and_reads_nothing_does_not_keep_the_hooks() -> None:
    torch.manual_seed(0)
    module = network()
    methods = [INTERVENTIONS["redo"](every_updates=3), INTERVENTIONS["weight_clipping"]()]
    optimizer = adopt(module, torch.optim.Adam(module.parameters(), 0.01), methods, torch.zeros(2, 4))
    seen = []
    for _ in range(6):
        seen.append(hooks_on(module))
        update(module, optimizer)
    assert seen == [3, 0, 3, 0, 0, 3]


def test_a_restored_optimizer_looks_at_its_next_update() -> None:
    module, optimizer = made("redo", every_updates=5)
    for _ in range(4):
        update(module, optimizer)
    state = optimizer.state_dict()
    module, optimizer = made("redo", every_updates=5)
    optimizer.load_state_dict(state)
    update(module, optimizer)
    assert "redo/units_reset" in optimizer.logs


def test_a_method_that_reads_always_and_one_that_never_does() -> None:
    for name, count in (("continual_backprop", 3), ("shrink_and_perturb", 0)):
        module, optimizer = made(name)
        for _ in range(3):
            assert hooks_on(module) == count
            update(module, optimizer)


def test_release_takes_them_off() -> None:
    module, optimizer = made("continual_backprop")
    optimizer.release()
    assert hooks_on(module) == 0


@pytest.mark.parametrize("name", PERIODIC)
def test_what_is_not_recorded_is_not_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"reborn": {"dormant_threshold": 0.8}, "redo": {"threshold": 0.8}}.get(name, {})
    runs = []
    for always in (False, True):
        if always:
            monkeypatch.setattr(INTERVENTIONS[name], "acts_at", Intervention.acts_at)
            schedule = INTERVENTIONS[name].after_step
            monkeypatch.setattr(INTERVENTIONS[name], "after_step", _only_where_averaged(schedule, 6, 2))
        module, optimizer = made(name, every_updates=6, average_updates=2, **settings)
        logs = []
        for _ in range(20):
            update(module, optimizer)
            logs.append({key: float(value) for key, value in optimizer.logs.items()})
        runs.append((list(module.state_dict().values()), logs))
    assert runs[0][1] == runs[1][1]
    assert [number for number, each in enumerate(runs[0][1], 1) if each] == [6, 12, 18]
    assert all(torch.equal(*pair) for pair in zip(runs[0][0], runs[1][0], strict=True))


def _only_where_averaged(after_step: Any, every: int, average: int) -> Any:
    return lambda self, u: after_step(self, u) if -u.step % every < average else {}


def test_a_compiled_module_keeps_its_hooks() -> None:
    module, optimizer = made("redo", every_updates=5, threshold=10.0)  # every unit
    compiled = torch.compile(module, backend="eager")
    resets = []
    for number in range(10):
        with torch.no_grad():
            compiled(torch.randn(1, 4))
        update(compiled, optimizer, rows=8 + number % 3)  # of other sizes, for which it is compiled again
        resets.append(float(optimizer.logs.get("redo/units_reset", -1)))
    assert resets == [-1, -1, -1, -1, 14, -1, -1, -1, -1, 14]
    assert hooks_on(module) == 3


def test_a_layer_that_is_never_used_is_looked_for_a_hundred_steps(capsys: pytest.CaptureFixture[str]) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.both = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.a(x))
            y: torch.Tensor = self.c(torch.relu(self.b(h)))
            return y if self.both else torch.relu(self.a(x))

    module = Module()
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.01), ["redo"], torch.zeros(2, 4))
    module.both = False
    looked = []
    for _ in range(103):
        looked.append(hooks_on(module) > 0)
        update(module, optimizer)
    assert looked == [True] * 100 + [False] * 3
    assert capsys.readouterr().err.count("saw no activations of b in 100 steps") == 1


def test_measuring_with_the_adopted_optimizer_traces_once_and_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = made("redo")
    traced = []
    find = measuring.find_units
    monkeypatch.setattr(measuring, "find_units", lambda *given, **more: traced.append(1) or find(*given, **more))
    first = measure(module, torch.randn(8, 4), optimizer=optimizer)
    update(module, optimizer)
    inputs = torch.randn(12, 4)
    second = measure(module, inputs, optimizer=optimizer)
    assert len(traced) == 1
    assert str(first) != str(second)  # of the weights and inputs of the moment
    assert str(second) == str(measure(module, inputs, optimizer=optimizer.base))
    assert len(traced) == 2
    module[0].requires_grad_(False)
    measure(module, inputs, optimizer=optimizer)
    assert len(traced) == 3


def test_hooks_of_steps_are_called_once_whichever_optimizer_has_them() -> None:
    module, optimizer = made("redo")
    called: list[tuple[str, str]] = []

    def noting(when: str) -> Any:
        return lambda own, arguments, named: called.append((when, type(own).__name__))

    handles = [optimizer.register_step_pre_hook(noting("before")), optimizer.register_step_post_hook(noting("after"))]
    handles += [optimizer.base.register_step_post_hook(noting("after the base"))]
    handles += [register_optimizer_step_post_hook(noting("after any"))]
    update(module, optimizer)
    inside = [("after the base", "Adam"), ("after any", "Adam")]
    assert called == [("before", "AdoptedOptimizer"), *inside, ("after", "AdoptedOptimizer")]
    for handle in handles:
        handle.remove()
    update(module, optimizer)
    assert len(called) == 4


def test_a_hook_before_a_step_may_change_what_it_is_called_with() -> None:
    module, optimizer = made("redo")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = module(torch.ones(2, 4)).square().mean()
        loss.backward()
        return loss

    optimizer.register_step_pre_hook(lambda own, arguments, named: ((own,), {"closure": closure}))
    assert float(optimizer.step()) > 0
    assert optimizer.steps == 1
