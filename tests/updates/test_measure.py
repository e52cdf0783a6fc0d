"""The hook ``measure``: after the optimizer's step, before every ``after_step``, in plain and in compiled updates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention, Logs, Update
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

BuildPart = Callable[..., PartBuilder]
LAYER, HEAD = "torso.layers.dense_1.linear", "head.linear"


class Batch(NamedTuple):
    """A batch of regression."""

    inputs: Tensor
    targets: Tensor


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator))


def squared_error(outputs: Tensor, data: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    return (outputs - data.targets).square().mean(), {}


@dataclass
class Record(Intervention):
    """Keeps what ``measure`` is given, and what is there in ``after_step``."""

    def attach(self, u: Update) -> None:
        self.state["weight"] = torch.zeros_like(u.network.tensor(f"{HEAD}.weight"), requires_grad=False)
        self.state["post"] = torch.zeros(8, 3)
        self.state["count"] = torch.zeros(())

    def running(self) -> list[Tensor]:
        return list(self.state.values())

    @torch.no_grad()
    def measure(self, parameters: Mapping[str, Tensor], post: Mapping[str, Tensor], running: Sequence[Tensor]) -> None:
        weight, activations, count = running
        weight.copy_(parameters[f"{HEAD}.weight"])
        activations.copy_(post["dense_1"])
        count.add_(1)


@dataclass
class Count(Record):
    """Counts alongside another method that measures."""

    def after_step(self, u: Update) -> Logs:
        return {"count": self.state["count"].clone()}


@dataclass
class Move(Intervention):
    """Moves a weight by 3 after the step, and reports the weight that it found."""

    @torch.no_grad()
    def after_step(self, u: Update) -> Logs:
        weight = u.network.tensor(f"{HEAD}.weight")
        found = weight.clone()
        weight.add_(3.0)
        return {"found": found}


class Reference:
    """The same training in plain PyTorch; before each update it takes over the weights."""

    def __init__(self, part: Updater, optimizer: str) -> None:
        self.part = part
        self.values = {name: value.detach().clone().requires_grad_() for name, value in part.network.named_parameters()}
        kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
        self.optimizer = kind(self.values.values(), lr=0.1)

    def update(self, data: Batch) -> tuple[Tensor, Tensor]:
        """Returns the activations before the step and the head's weight after it."""
        for name, value in self.part.network.named_parameters():
            self.values[name].data.copy_(value.detach())
        post = functional.linear(data.inputs, self.values[f"{LAYER}.weight"], self.values[f"{LAYER}.bias"]).relu()
        outputs = functional.linear(post, self.values[f"{HEAD}.weight"], self.values[f"{HEAD}.bias"])
        self.optimizer.zero_grad()
        squared_error(outputs, data)[0].backward()
        self.optimizer.step()
        return post.detach(), self.values[f"{HEAD}.weight"].detach()


MEASURING = [name for name, method in INTERVENTIONS.items() if method.measure is not Intervention.measure]


def kept_on_host(method: Intervention) -> dict[str, object]:
    """All plain values that a method holds, in its state and outside it."""
    held = {**vars(method), **{f"state.{name}": value for name, value in method.state.items()}}
    return {name: value for name, value in held.items() if isinstance(value, bool | int | float | str | None)}


@pytest.mark.parametrize("name", MEASURING)
def test_measure_is_a_function_of_its_arguments(builder: BuildPart, name: str) -> None:
    """Compiled, it runs once for each size of batch: what it noted on the host would be that of the first batches only."""
    assert {"continual_backprop", "fixed_threshold_resets", "self_normalized_resets"} <= set(MEASURING)
    part = builder({name: INTERVENTIONS[name]}, spec=MLPSpec(widths=[3]))("q", HeadSpec("regression", 2))
    method = part.interventions[name]
    part.update(squared_error, batch(0))
    parameters = {path: value.detach() for path, value in part.network.named_parameters()}
    host, own = kept_on_host(method), [tensor.clone() for tensor in method.running()]
    given = [[tensor.clone() for tensor in own] for _ in range(2)]
    for running in given:
        method.measure(parameters, {"dense_1": torch.rand(16, 3, generator=torch.Generator().manual_seed(0))}, running)
    assert kept_on_host(method) == host
    assert all(torch.equal(now, before) for now, before in zip(method.running(), own, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(*given, strict=True))
    assert any(not torch.equal(one, before) for one, before in zip(given[0], own, strict=True))


@pytest.mark.parametrize("unit_of_time", ["example", "step"])
def test_the_longest_update_is_known_whenever_it_comes(builder: BuildPart, unit_of_time: str) -> None:
    # Batches of 8, 16 and 8 examples: an update is 16 examples, or 1 step, long at most.
    make = partial(INTERVENTIONS["fixed_threshold_resets"], unit_of_time=unit_of_time)
    part = builder({"fixed_threshold_resets": make}, spec=MLPSpec(widths=[3]))("q", HeadSpec("regression", 2))
    state = part.interventions["fixed_threshold_resets"].state
    double = Batch(*(torch.cat([one, other]) for one, other in zip(batch(0), batch(1), strict=True)))
    lengths = []
    for data in (batch(0), double, batch(1)):
        part.update(squared_error, data)
        lengths.append((state["examples_per_update"], state["time_per_update"]))
    assert lengths == ([(8, 8.0), (16, 16.0), (16, 16.0)] if unit_of_time == "example" else [(8, 1.0), (16, 1.0), (16, 1.0)])


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "compiled"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_measure_comes_between_the_step_and_every_after_step(builder: BuildPart, optimizer: str, compile: bool) -> None:
    """The first update is traced, so that its step is made by the optimizer; the later ones of SGD are made inside."""
    methods = {"move": Move, "record": Record, "count": Count}
    settings = OptimizerSettings(optimizer, 0.1)
    part = builder(methods, spec=MLPSpec(widths=[3]), optimizer=settings, compile=compile)("q", HeadSpec("regression", 2))
    reference = Reference(part, optimizer)
    seen = part.interventions["record"].state
    for number in range(1, 5):
        post, weight = reference.update(batch(number))
        before = part.network.tensor(f"{HEAD}.weight").detach().clone()
        logs = part.update(squared_error, batch(number))
        # ``move`` stands first in the config, and yet what is measured is the weight that it has not moved yet.
        torch.testing.assert_close(seen["weight"], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logs["move/found"], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(part.network.tensor(f"{HEAD}.weight").detach(), weight + 3)
        torch.testing.assert_close(seen["post"], post, rtol=1e-5, atol=1e-6)
        assert (weight - before).abs().max() > 1e-3
        assert float(seen["count"]) == float(logs["count/count"]) == number


def test_a_refused_update_measures_nothing(builder: BuildPart) -> None:
    """That a compiled one measures nothing either is tested with the other promises of compiled updates."""
    settings = OptimizerSettings("sgd", 0.1)
    part = builder({"record": Record}, spec=MLPSpec(widths=[3]), optimizer=settings)("q", HeadSpec("regression", 2))
    for number in range(1, 4):
        part.update(squared_error, batch(number))
    before = {name: value.clone() for name, value in part.interventions["record"].state.items()}
    with pytest.raises(FloatingPointError):
        part.update(squared_error, batch(4)._replace(inputs=torch.full((8, 4), float("inf"))))
    assert all(torch.equal(value, before[name]) for name, value in part.interventions["record"].state.items())
    part.update(squared_error, batch(5))
    assert float(part.interventions["record"].state["count"]) == 4
