"""Laws 5, 6 and 7: hooks run in the config's order, every parameter has one optimizer, and dead units can be reset for free."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from registries import forget_entries
from torch import Tensor

from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import INTERVENTIONS, intervention
from plasticity.networks.network import Network
from plasticity.networks.spec import NetworkSpec
from plasticity.training.config.settings import plan_from

TAPE: list[str] = []
HOOKS = [
    "build",
    "attach",
    "loss",
    "term",
    "after_backward",
    "prepare",
    "edit_gradients",
    "measure",
    "after_step",
    "task_switch",
    "evaluation_network",
]


@dataclass
class Taped(Intervention):
    """Writes down which of its hooks run."""

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        TAPE.append(f"build {self.name}")
        return spec

    def attach(self, u: Update) -> None:
        TAPE.append(f"attach {self.name}")

    def loss(self, u: Update) -> Tensor | None:
        TAPE.append(f"loss {self.name}")
        return None

    def term(self, loss: Tensor, parameters: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Tensor | None:
        TAPE.append(f"term {self.name}")
        return None

    def after_backward(self, u: Update) -> Logs:
        TAPE.append(f"after_backward {self.name}")
        return {}

    def prepare(self, parameters: Mapping[str, Tensor]) -> None:
        TAPE.append(f"prepare {self.name}")

    def edit_gradients(self, parameters: Any, gradients: Any, running: Any) -> None:
        TAPE.append(f"edit_gradients {self.name}")

    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        TAPE.append(f"measure {self.name}")

    def after_step(self, u: Update) -> Logs:
        TAPE.append(f"after_step {self.name}")
        return {}

    def task_switch(self, u: Update, task: int) -> Logs:
        TAPE.append(f"task_switch {self.name}")
        return {}

    def evaluation_network(self, u: Update) -> Network:
        TAPE.append(f"evaluation_network {self.name}")
        return u.network


@pytest.fixture
def register_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type], None]:
    """Registers a dataclass for one test only."""
    forget_entries(monkeypatch, INTERVENTIONS)

    def add(name: str, base: type) -> None:
        intervention(name)(dataclass(type(name, (base,), {"__module__": __name__})))

    return add


@pytest.mark.parametrize("order", [["first", "second"], ["second", "first"]])
def test_hooks_run_in_the_order_of_the_config(kind: str, order: list[str], start: Any, register_here: Any) -> None:
    for name in ("first", "second"):
        register_here(name, Taped)
    TAPE.clear()
    start(kind, {name: {} for name in order}, {"agent": {"epsilon_start": 0.5}} if kind in ("dqn", "c51") else {}).go(20)
    for hook in HOOKS:
        calls = [line.split()[1] for line in TAPE if line.startswith(f"{hook} ")]
        expected = kind == "supervised" or hook != "task_switch"
        assert bool(calls) == expected, hook
        assert calls == order * (len(calls) // 2), hook


def test_the_hooks_of_one_update_come_in_their_places(start: Any, register_here: Any) -> None:
    register_here("only", Taped)
    TAPE.clear()
    start("supervised", {"only": {}}).go(11)
    hooks = [line.split()[0] for line in TAPE]
    update = ["loss", "term", "after_backward", "prepare", "edit_gradients", "measure", "after_step"]
    assert hooks == ["build", "attach"] + 10 * update + ["evaluation_network", "task_switch"] + update


def test_order_decides_what_two_methods_make_together(kind: str, steps: int, start: Any, same: Any) -> None:
    settings = {"shrink_and_perturb": {"perturb": 0.1, "every_updates": 2}, "redo": {"threshold": 1.0, "every_updates": 2}}
    one, two = (
        start(kind, {name: settings[name] for name in order}).go(steps).network() for order in (settings, [*settings][::-1])
    )
    assert not same(one, two)


@pytest.mark.parametrize("order", [["redo", "rival"], ["rival", "redo"]])
def test_conflicting_methods_are_refused_with_the_reason(order: list[str], config_of: Any, register_here: Any) -> None:
    @dataclass
    class Rival(Intervention):
        conflicts: ClassVar = {"redo": "both want the same units"}

    register_here("rival", Rival)
    with pytest.raises(ValueError, match=r"^intervention=\[rival,redo\] cannot run together: both want the same units$"):
        plan_from(config_of("dqn", {name: {} for name in order}, {}))


def test_every_parameter_is_in_one_optimizer(kind: str, methods: list[str], start: Any, steps: int) -> None:
    run = start(kind, methods)
    parts = list(run.agent.parts.values())
    held = [_held(part) for part in parts]
    places = [[parameter.data_ptr() for parameter in part.network.parameters()] for part in parts]
    assert len({id_ for ids in held for id_ in ids}) == sum(map(len, held))
    run.go(steps // 2)
    for part, ids, addresses in zip(parts, held, places, strict=True):
        parameters = list(part.network.parameters())
        assert _held(part) == ids
        assert sorted(ids) == sorted(id(parameter) for parameter in parameters)
        assert [parameter.data_ptr() for parameter in parameters] == addresses
        assert all(parameter.requires_grad for parameter in parameters)


def _held(part: Any) -> list[int]:
    return [id(parameter) for group in part.optimizer.param_groups for parameter in group["params"]]


@dataclass
class Answers(Intervention):
    """Keeps what the network says about a few inputs after each step."""

    def attach(self, u: Update) -> None:
        self.said: list[Tensor] = []

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        inputs = torch.linspace(-1, 1, 6 * 64).reshape(6, 1, 8, 8)
        u.network.eval()
        self.said.append(u.network(inputs))
        u.network.train()
        return {}


@pytest.mark.parametrize("kind", ["dqn", "supervised"])
def test_redo_resets_a_dead_unit_without_changing_the_function(kind: str, start: Any, register_here: Any) -> None:
    for name in ("before", "after"):
        register_here(name, Answers)
    still = {"optimizer": {"name": "sgd", "learning_rate": 0.0}, "network": {"normalisation": [], "activations": ["relu"]}}
    run = start(kind, {"before": {}, "redo": {"threshold": 0.0, "every_updates": 1}, "after": {}}, still)
    (part,) = run.agent.parts.values()
    layers = part.network.units.layers
    assert [layer.name for layer in layers] == ["conv_1", "dense_1"]
    dead = {}
    with torch.no_grad():
        for layer in layers:
            part.network.tensor(layer.weight.tensor)[2] = 0.0
            part.network.tensor(layer.bias.tensor)[2] = -1.0
            dead[layer.name] = part.network.tensor(layer.weight.tensor)[2].clone()
    run.go(20)
    before, after = (part.interventions[name].said for name in ("before", "after"))
    assert torch.equal(before[0], after[0])
    for layer in layers:
        assert not torch.equal(part.network.tensor(layer.weight.tensor)[2], dead[layer.name])
